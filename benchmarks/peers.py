"""How each library does each piece of work.  An instance lives in a process of its own (``peer_worker``).

A method prepares the work and returns the call that is timed, whose result is an array for the gate.  Everything that a
user does once (loading, compiling, packing weights, converting inputs) belongs to the preparation.  Outputs of the
elementwise ops and of the product are allocated there too, for every library alike.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
Run = Callable[[], Array]
Hidden = Callable[[Array, Array], Array]  # ids (B, T), mask (B, T) -> (B, T, C)

# As in the checkpoint's sentence_bert_config.json.
MAX_TOKENS = 256
BATCH = 32


class Library:
    """A library, and the packages whose versions matter."""

    packages: tuple[str, ...] = ()

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def versions(self) -> dict[str, str]:
        """Return the versions of its packages."""
        return {name: importlib.metadata.version(name) for name in self.packages}

    def facts(self) -> dict[str, str]:
        """What else decides its speed; asked after the work is done."""
        return {}


class PaddedEncoder(Library):
    """An encoder of padded batches, and what is needed around it to embed texts with it."""

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the encoder, for one shape (B, T) only or for all."""
        raise NotImplementedError

    def forward(self, arrays: Arrays, folder: str) -> Run:
        """Last hidden states of a batch."""
        ids, mask = arrays["ids"], arrays["mask"]
        call = self.hidden(Path(folder), ids.shape)
        return lambda: call(ids, mask)

    def encode(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Texts to vectors: the same tokenizer, sorted by length, padded batches of 32, mean pooling, unit length."""
        from tokenizers import Tokenizer

        call = self.hidden(Path(folder), None)
        tokenizer = Tokenizer.from_file(f"{folder}/checkpoint/tokenizer.json")
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        inputs = json.loads(Path(texts).read_text("utf-8"))

        def run() -> Array:
            rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(inputs)]
            order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
            result: Array | None = None
            for start in range(0, len(order), BATCH):
                group = order[start : start + BATCH]
                lengths = np.array([len(rows[i]) for i in group])
                mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
                ids = np.zeros(mask.shape, np.int64)
                ids[mask.astype(bool)] = np.concatenate([rows[i] for i in group])
                hidden = call(ids, mask)
                pooled = np.matmul(mask[:, None, :].astype(np.float32), hidden)[:, 0] / lengths[:, None]
                pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
                if result is None:
                    result = np.empty((len(rows), pooled.shape[1]), np.float32)
                result[group] = pooled
            return np.empty((0, 0), np.float32) if result is None else result

        return run


class Fastattn(Library):
    """This package."""

    packages = ("numba", "llvmlite", "numpy")

    def versions(self) -> dict[str, str]:
        """Return the versions; this package may run from its source."""
        from fastattn import __version__

        return {"fastattn": __version__, **super().versions()}

    def facts(self) -> dict[str, str]:
        """Return threads, their layer, and the CPU that the kernels are compiled for."""
        from fastattn.kernels._jit import thread_count, threading_layer
        from fastattn.kernels._simd import TARGET

        vectors = f"{TARGET.name}, vectors of {TARGET.vector_bytes * 8} bits"
        return {"threads": str(thread_count()), "threading layer": threading_layer(), "kernels for": vectors}

    @functools.cache  # noqa: B019  (an instance lives as long as its process)
    def _encoder(self, folder: Path) -> Any:
        from fastattn import Encoder

        return Encoder.from_pretrained(folder / "checkpoint")

    def forward(self, arrays: Arrays, folder: str) -> Run:
        """Last hidden states (N, C) of the same tokens, without padding."""
        encoder = self._encoder(Path(folder))
        real = arrays["mask"].astype(bool)
        ids, offsets = arrays["ids"][real], np.concatenate([[0], np.cumsum(real.sum(axis=1))])
        return lambda: encoder.forward_packed(ids, offsets)

    def encode(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Texts to vectors."""
        from fastattn import SentenceTransformer

        model = SentenceTransformer(Path(folder) / "checkpoint")
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.asarray(model.encode(inputs))

    def softmax(self, arrays: Arrays) -> Run:
        """Softmax of rows."""
        from fastattn import softmax

        x = arrays["x"]
        out = np.empty_like(x)
        return lambda: softmax(x, out=out)

    def layer_norm(self, arrays: Arrays) -> Run:
        """Layer norm of rows, of the sum with a residual where there is one."""
        from fastattn import layer_norm

        x, weight, bias, residual = arrays["x"], arrays["weight"], arrays["bias"], arrays.get("residual")
        out = np.empty_like(x)
        return lambda: layer_norm(x, weight, bias, residual=residual, out=out)

    def gelu(self, arrays: Arrays) -> Run:
        """GELU, erf form."""
        from fastattn import gelu

        x = arrays["x"]
        out = np.empty_like(x)
        return lambda: gelu(x, out=out)

    def attention(self, arrays: Arrays) -> Run:
        """Attention of all heads."""
        from fastattn import scaled_dot_product_attention

        q, k, v = arrays["query"], arrays["key"], arrays["value"]
        return lambda: scaled_dot_product_attention(q, k, v)

    def linear(self, arrays: Arrays) -> Run:
        """Product by the public op, which packs the weight in every call."""
        from fastattn import linear

        x, weight = arrays["x"], arrays["weight"]
        out = np.empty((len(x), len(weight)), np.float32)
        return lambda: linear(x, weight, out=out)

    def product(self, arrays: Arrays) -> Run:
        """Product by the kernel, on a weight that is packed once, as in the encoder."""
        from fastattn.kernels._arrays import aligned_empty, panels, workers_for
        from fastattn.kernels.linear import ROW_BLOCK, linear_kernel, pack_weight

        x, weight = arrays["x"], arrays["weight"]
        (m, k), n = x.shape, len(weight)
        count, width = panels(n, np.float32)
        packed = aligned_empty(count * k * width, np.float32)
        pack_weight(weight, packed)
        no_bias, out = np.zeros(count * width, np.float32), np.empty((m, n), np.float32)
        workers = workers_for(2e-5 * m * k * n, count * -(-m // ROW_BLOCK))

        def run() -> Array:
            linear_kernel(x, packed, no_bias, out, 0, np.zeros(8, np.int64), workers)
            return out

        return run


class Reference(Library):
    """NumPy: the reference encoder, and the product by its BLAS."""

    packages = ("numpy",)

    def facts(self) -> dict[str, str]:
        """Return which kernels the BLAS chose and its threads."""
        import threadpoolctl

        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        return {
            "BLAS": ", ".join(
                f"{p['internal_api']} {p['version']}, kernels for {p.get('architecture')}, {p['num_threads']} threads"
                for p in pools
            )
        }

    def forward(self, arrays: Arrays, folder: str) -> Run:
        """Hidden states of a batch."""
        from fastattn import reference
        from fastattn.checkpoint import read_encoder

        config, parameters = read_encoder(Path(folder) / "checkpoint")
        options = encoder_options(config)
        ids, mask = arrays["ids"], arrays["mask"]
        return lambda: reference.encoder(parameters, ids, mask, **options)

    def product(self, arrays: Arrays) -> Run:
        """Product by BLAS, the weight laid out (C_in, C_out)."""
        x, weight = arrays["x"], np.ascontiguousarray(arrays["weight"].T)
        out = np.empty((len(x), weight.shape[1]), np.float32)
        return lambda: np.matmul(x, weight, out=out)


def encoder_options(config: Any) -> dict[str, Any]:
    """Options of ``reference.encoder`` for a configuration."""
    names = ("num_layers", "num_heads", "activation", "norm_first", "layer_norm_eps", "positions", "is_causal")
    return {name: getattr(config, name) for name in names}


class Torch(PaddedEncoder):
    """PyTorch: the transformers model with scaled_dot_product_attention, and single ops."""

    packages = ("torch", "transformers")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch

    @functools.cache  # noqa: B019  (an instance lives as long as its process)
    def _model(self, folder: Path) -> Any:
        import transformers

        return transformers.BertModel.from_pretrained(
            folder / "checkpoint", attn_implementation="sdpa", dtype=self.torch.float32, add_pooling_layer=False
        ).eval()

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the model; it takes any shape."""
        torch, model = self.torch, self._model(folder)

        def call(ids: Array, mask: Array) -> Array:
            with torch.inference_mode():
                out = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
                return np.asarray(out.last_hidden_state.numpy())

        return call

    def _tensors(self, arrays: Arrays) -> dict[str, Any]:
        return {name: self.torch.from_numpy(array) for name, array in arrays.items()}

    def softmax(self, arrays: Arrays) -> Run:
        """Softmax of rows."""
        x = self._tensors(arrays)["x"]
        out = self.torch.empty_like(x)
        op = self.torch.ops.aten._softmax.out
        return lambda: op(x, -1, False, out=out).numpy()

    def layer_norm(self, arrays: Arrays) -> Run:
        """Layer norm of rows; a residual is added first."""
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
        """GELU, erf form."""
        x = self._tensors(arrays)["x"]
        out = self.torch.empty_like(x)
        op = self.torch.ops.aten.gelu.out
        return lambda: op(x, approximate="none", out=out).numpy()

    def attention(self, arrays: Arrays) -> Run:
        """Attention of all heads."""
        given = self._tensors(arrays)
        q, k, v = given["query"], given["key"], given["value"]
        op = self.torch.nn.functional.scaled_dot_product_attention
        return lambda: op(q, k, v).numpy()


class SentenceTransformers(Library):
    """sentence-transformers on torch, float32."""

    packages = ("sentence-transformers", "torch")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import sentence_transformers
        import torch

        torch.set_num_threads(threads)
        self.module, self.torch = sentence_transformers, torch

    def encode(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Texts to vectors."""
        model = self.module.SentenceTransformer(f"{folder}/checkpoint", device="cpu", model_kwargs={"dtype": self.torch.float32})
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.asarray(model.encode(inputs, show_progress_bar=False))


class OnnxRuntime(PaddedEncoder):
    """ONNX Runtime: the graph as its transformer optimizer leaves it, and single ops."""

    packages = ("onnxruntime",)

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
        return self._session(str(exported(folder, "optimised.onnx")))

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the optimised graph; it takes any shape."""
        session = self._encoder(folder)

        def call(ids: Array, mask: Array) -> Array:
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            return np.asarray(session.run(None, feed)[0])

        return call

    def _ops(self, arrays: Arrays, *nodes: tuple[str, str, list[str], dict[str, Any]]) -> Run:
        """Run nodes (name, domain, inputs, attributes) in a row, the last output bound to an array of the shape of x."""
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
            # The binding holds addresses alone: the arrays must live as long as it.
            session.run_with_iobinding(binding)
            return out

        return run

    def softmax(self, arrays: Arrays) -> Run:
        """Softmax of rows."""
        return self._ops(arrays, ("Softmax", "", ["x"], {"axis": -1}))

    def layer_norm(self, arrays: Arrays) -> Run:
        """Layer norm of rows; a residual is added first, which is faster here than its fused operator."""
        norm = {"axis": -1, "epsilon": 1e-5}
        if "residual" not in arrays:
            return self._ops(arrays, ("LayerNormalization", "", ["x", "weight", "bias"], norm))
        add = ("Add", "", ["x", "residual"], {})
        return self._ops(arrays, add, ("LayerNormalization", "", ["step0", "weight", "bias"], norm))

    def gelu(self, arrays: Arrays) -> Run:
        """GELU, erf form: the operator of its optimised graphs."""
        return self._ops(arrays, ("Gelu", "com.microsoft", ["x"], {}))


class OpenVino(PaddedEncoder):
    """OpenVINO: reshaped to the batch where there is only one shape, which it is faster for."""

    packages = ("openvino",)

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Convert the ONNX file and compile it."""
        import openvino

        core = openvino.Core()
        model = core.read_model(str(exported(folder, "model.onnx")))
        if shape is not None:
            model.reshape({port: list(shape) for port in model.inputs})
        # By default it computes in bfloat16 where the CPU can.
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()

        def call(ids: Array, mask: Array) -> Array:
            request.infer([ids, mask, np.zeros_like(ids)], share_inputs=True, share_outputs=True)
            return np.asarray(request.get_output_tensor(0).data)

        return call


class CTranslate2(PaddedEncoder):
    """CTranslate2, float32."""

    packages = ("ctranslate2",)

    def hidden(self, folder: Path, shape: tuple[int, ...] | None) -> Hidden:
        """Load the converted model; it takes any shape, and lengths for a mask."""
        import ctranslate2

        encoder = ctranslate2.Encoder(
            str(exported(folder, "ctranslate2")),
            device="cpu",
            compute_type="float32",
            inter_threads=1,
            intra_threads=self.threads,
        )
        view = ctranslate2.StorageView.from_array

        def call(ids: Array, mask: Array) -> Array:
            lengths = mask.sum(axis=1).astype(np.int32)
            return np.asarray(encoder.forward_batch(view(ids.astype(np.int32)), view(lengths)).last_hidden_state)

        return call


def exported(folder: Path, part: str) -> Path:
    """Return the path of an export, an OSError with the reason where it could not be made."""
    reason = folder / f"{part}.error"
    if reason.exists():
        raise OSError(f"export failed: {reason.read_text('utf-8')}")
    return folder / part
