"""Work of the peers, the libraries used for the same purpose, in the given precision and on the given threads."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.library import MAX_TOKENS, PAIR_TOKENS, Array, Arrays, Hidden, Library, PaddedEncoder, Run, exported


class Torch(PaddedEncoder):
    """PyTorch: the transformers model with scaled_dot_product_attention, and single ops."""

    packages = ("torch", "transformers")
    implementation = "sdpa"

    def __init__(self, threads: int, precision: str = "float32") -> None:
        super().__init__(threads, precision)
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch

    @functools.cache  # noqa: B019  (an instance lives as long as its process)
    def _model(self, folder: Path) -> Any:
        import transformers

        options = {"attn_implementation": self.implementation, "dtype": getattr(self.torch, self.precision)}
        config = transformers.AutoConfig.from_pretrained(folder / "checkpoint")
        if config.model_type == "bert":
            return transformers.BertModel.from_pretrained(folder / "checkpoint", add_pooling_layer=False, **options).eval()
        model = transformers.AutoModel.from_pretrained(folder / "checkpoint", **options).eval()
        # Keys and values that nobody asks for are not kept.
        model.config.use_cache = False
        return model

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the model, which takes any shape."""
        torch, model = self.torch, self._model(folder)

        def call(ids: Array, mask: Array, types: Array | None = None) -> Array:
            given = {} if types is None else {"token_type_ids": torch.from_numpy(types)}
            with torch.inference_mode():
                out = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **given)
                return np.asarray(out.last_hidden_state.float().numpy())

        return call

    def _tensors(self, arrays: Arrays) -> dict[str, Any]:
        return {name: self.torch.from_numpy(array) for name, array in arrays.items()}

    def softmax(self, arrays: Arrays) -> Run:
        """Prepare softmax of rows."""
        x = self._tensors(arrays)["x"]
        out = self.torch.empty_like(x)
        op = self.torch.ops.aten._softmax.out
        return lambda: op(x, -1, False, out=out).numpy()

    def layer_norm(self, arrays: Arrays) -> Run:
        """Prepare layer norm of rows; a residual is added first."""
        torch, given = self.torch, self._tensors(arrays)
        x, weight, bias, residual = given["x"], given["weight"], given["bias"], given.get("residual")
        out, total = torch.empty_like(x), torch.empty_like(x)
        mean, rstd = torch.empty(len(x), 1), torch.empty(len(x), 1)
        op, shape = torch.ops.aten.native_layer_norm.out, list(weight.shape)

        def run() -> Array:
            rows = x if residual is None else torch.add(x, residual, out=total)
            op(rows, shape, weight, bias, 1e-5, out0=out, out1=mean, out2=rstd)
            return np.asarray(out.numpy())

        return run

    def gelu(self, arrays: Arrays) -> Run:
        """Prepare GELU, erf form."""
        x = self._tensors(arrays)["x"]
        out = self.torch.empty_like(x)
        op = self.torch.ops.aten.gelu.out
        return lambda: op(x, approximate="none", out=out).numpy()

    def attention(self, arrays: Arrays) -> Run:
        """Prepare attention of all heads."""
        given = self._tensors(arrays)
        q, k, v = given["query"], given["key"], given["value"]
        op = self.torch.nn.functional.scaled_dot_product_attention
        return lambda: op(q, k, v).numpy()


class SentenceTransformers(Library):
    """sentence-transformers on torch, which sorts texts by length and pads batches of 32."""

    packages = ("sentence-transformers", "torch")

    def __init__(self, threads: int, precision: str = "float32") -> None:
        super().__init__(threads, precision)
        import sentence_transformers
        import torch

        torch.set_num_threads(threads)
        self.module, self.options = sentence_transformers, {"device": "cpu", "model_kwargs": {"dtype": getattr(torch, precision)}}

    def encode(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Prepare texts to vectors."""
        model = self.module.SentenceTransformer(f"{folder}/checkpoint", **self.options)
        model.max_seq_length = MAX_TOKENS
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.asarray(model.encode(inputs, show_progress_bar=False))

    def score(self, arrays: Arrays, folder: str, pairs: str) -> Run:
        """Prepare pairs of texts to scores."""
        model = self.module.CrossEncoder(f"{folder}/checkpoint", max_length=PAIR_TOKENS, **self.options)
        inputs = json.loads(Path(pairs).read_text("utf-8"))
        return lambda: np.asarray(model.predict(inputs, show_progress_bar=False), np.float32)

    def sparse(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Prepare texts to sparse vectors (B, V), which are returned dense."""
        model = self.module.SparseEncoder(f"{folder}/checkpoint", **self.options)
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.asarray(model.encode(inputs, show_progress_bar=False).to_dense().numpy())

    def token_vectors(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Prepare documents to vectors of their tokens (N, C), end to end."""
        model = self.module.MultiVectorEncoder(f"{folder}/checkpoint", **self.options)
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.concatenate(model.encode_document(inputs, show_progress_bar=False, convert_to_numpy=True))

    def best_ten(self, arrays: Arrays) -> Run:
        """Prepare the ten best scores of documents for a query."""
        import torch

        cuts = arrays["offsets"][1:-1].tolist()
        query, documents = torch.from_numpy(arrays["query"]), list(torch.from_numpy(arrays["rows"]).tensor_split(cuts))
        maxsim = self.module.util.maxsim
        return lambda: np.asarray(maxsim([query], documents)[0].topk(10).values.numpy())


class OnnxRuntime(PaddedEncoder):
    """ONNX Runtime: the graph fused by its transformer optimizer, in int8 quantised dynamically, and single ops."""

    packages = ("onnxruntime",)
    graph = "optimised.onnx"

    def _session(self, model: Any, *, fuse: bool = True) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if fuse else level.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @functools.cache  # noqa: B019  (an instance lives as long as its process)
    def _encoder(self, folder: Path) -> Any:
        return self._session(str(exported(folder, self.graph if self.precision == "float32" else f"{self.precision}-{self.graph}")))

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the graph, which takes any shape."""
        session = self._encoder(folder)

        def call(ids: Array, mask: Array, types: Array | None = None) -> Array:
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids) if types is None else types}
            return np.asarray(session.run(None, feed)[0])

        return call

    def _ops(self, arrays: Arrays, *nodes: tuple[str, str, list[str], dict[str, Any]]) -> Run:
        """Prepare a chain of nodes (name, domain, inputs, attributes), the last output bound to an array of the shape of x."""
        from onnx import TensorProto, helper

        out = np.empty_like(arrays["x"])

        def declare(name: str, array: Array) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)

        names = [*(f"step{i}" for i in range(len(nodes) - 1)), "out"]
        graph = helper.make_graph(
            [
                helper.make_node(node, inputs, [name], domain=domain, **attributes)
                for (node, domain, inputs, attributes), name in zip(nodes, names, strict=True)
            ],
            "ops",
            [declare(name, array) for name, array in arrays.items()],
            [declare("out", out)],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        session = self._session(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString(), fuse=False)
        binding = session.io_binding()
        for name, array in arrays.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        binding.bind_output("out", "cpu", 0, np.float32, out.shape, out.ctypes.data)

        def run(bound: Arrays = arrays) -> Array:
            # `bound` keeps the arrays alive: the binding holds only their addresses.
            session.run_with_iobinding(binding)
            return out

        return run

    def softmax(self, arrays: Arrays) -> Run:
        """Prepare softmax of rows."""
        return self._ops(arrays, ("Softmax", "", ["x"], {"axis": -1}))

    def layer_norm(self, arrays: Arrays) -> Run:
        """Prepare layer norm of rows; a residual is added by its own node, here faster than the fused operator."""
        norm = {"axis": -1, "epsilon": 1e-5}
        if "residual" not in arrays:
            return self._ops(arrays, ("LayerNormalization", "", ["x", "weight", "bias"], norm))
        add = ("Add", "", ["x", "residual"], {})
        return self._ops(arrays, add, ("LayerNormalization", "", ["step0", "weight", "bias"], norm))

    def gelu(self, arrays: Arrays) -> Run:
        """Prepare GELU, erf form: the operator in ONNX Runtime's optimised graphs."""
        return self._ops(arrays, ("Gelu", "com.microsoft", ["x"], {}))


class PlainOnnxRuntime(OnnxRuntime):
    """ONNX Runtime with the graph as torch exports it."""

    graph = "model.onnx"


class OpenVino(PaddedEncoder):
    """OpenVINO, reshaped to the batch if there is only one shape: a static shape is faster; in int8 the graph quantised by NNCF."""

    packages = ("openvino",)
    compiled: Any = None

    def facts(self) -> dict[str, str]:
        """Return the precision that it computes in: a hint that the CPU has no instructions for is ignored."""
        if self.compiled is None:
            return {}
        found = self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return {"computes in": f"int8 and {found}" if self.precision == "int8" else found}

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Convert the ONNX file and compile it."""
        import openvino

        core = openvino.Core()
        model = core.read_model(str(exported(folder, "openvino-int8.xml" if self.precision == "int8" else "model.onnx")))
        if shape is not None:
            model.reshape({port: list(shape) for port in model.inputs})
        # f32 must be asked for: OpenVINO's default is bfloat16 on CPUs that support it.
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
        }
        self.compiled = core.compile_model(model, "CPU", options)
        request = self.compiled.create_infer_request()

        def call(ids: Array, mask: Array, types: Array | None = None) -> Array:
            request.infer([ids, mask, np.zeros_like(ids) if types is None else types], share_inputs=True, share_outputs=True)
            return np.asarray(request.get_output_tensor(0).data)

        return call


class CTranslate2(PaddedEncoder):
    """CTranslate2, which quantises the weights when it loads them."""

    packages = ("ctranslate2",)
    encoder: Any = None

    def facts(self) -> dict[str, str]:
        """Return the types of weights and sums."""
        return {} if self.encoder is None else {"computes in": self.encoder.compute_type}

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the converted model, which takes any shape, and lengths in place of a mask."""
        import ctranslate2

        self.encoder = encoder = ctranslate2.Encoder(
            str(exported(folder, "ctranslate2")),
            device="cpu",
            compute_type=self.precision,
            inter_threads=1,
            intra_threads=self.threads,
        )
        view = ctranslate2.StorageView.from_array

        def call(ids: Array, mask: Array, types: Array | None = None) -> Array:
            lengths = mask.sum(axis=1).astype(np.int32)
            kinds = {} if types is None else {"token_type_ids": types.tolist()}
            return np.asarray(encoder.forward_batch(view(ids.astype(np.int32)), view(lengths), **kinds).last_hidden_state)

        return call
