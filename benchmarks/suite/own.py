"""Work of this package and of its reference."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.library import MAX_TOKENS, PAIR_TOKENS, Array, Arrays, Library, Run


class Fastattn(Library):
    """fastattn in a precision."""

    packages = ("numba", "llvmlite", "numpy")

    def versions(self) -> dict[str, str]:
        """Return the versions; fastattn's comes from its attribute, since it may run from source, not installed."""
        from fastattn import __version__

        return {"fastattn": __version__, **super().versions()}

    def facts(self) -> dict[str, str]:
        """Return the thread count, the threading layer, and the CPU target of the kernels."""
        from fastattn.kernels.vector.target import TARGET
        from fastattn.runtime.threads import thread_count, threading_layer

        vectors = f"{TARGET.name}, vectors of {TARGET.vector_bytes * 8} bits"
        return {"threads": str(thread_count()), "threading layer": threading_layer(), "kernels for": vectors}

    @property
    def _options(self) -> dict[str, str]:
        return {} if self.precision == "float32" else {"precision": self.precision}

    @functools.cache  # noqa: B019  (an instance lives as long as its process)
    def _encoder(self, folder: Path) -> Any:
        from fastattn import Encoder

        return Encoder.from_pretrained(folder / "checkpoint", **self._options)

    def forward(self, arrays: Arrays, folder: str) -> Run:
        """Prepare the last hidden states (N, C) of the batch's real tokens, without padding."""
        encoder = self._encoder(Path(folder))
        real = arrays["mask"].astype(bool)
        ids, offsets = arrays["ids"][real], np.concatenate([[0], np.cumsum(real.sum(axis=1))])
        return lambda: encoder.forward_packed(ids, offsets)

    def encoder(self, arrays: Arrays, config: dict[str, Any]) -> Run:
        """Prepare the last hidden states (N, C) of an encoder with random weights."""
        from fastattn import Encoder, EncoderConfig

        encoder = Encoder(EncoderConfig(**config), **self._options)
        return lambda: encoder.forward_packed(arrays["ids"], arrays["offsets"])

    @functools.cache  # noqa: B019  (one model: the memory row must not count a second model's tables as growth)
    def _model(self, folder: Path) -> Any:
        from fastattn import SentenceTransformer

        model = SentenceTransformer(folder / "checkpoint", **self._options)
        model.max_seq_length = MAX_TOKENS
        return model

    def encode(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Prepare texts to vectors."""
        model = self._model(Path(folder))
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.asarray(model.encode(inputs))

    def score(self, arrays: Arrays, folder: str, pairs: str) -> Run:
        """Prepare pairs of texts to scores."""
        from fastattn import CrossEncoder

        model = CrossEncoder(Path(folder) / "checkpoint", max_length=PAIR_TOKENS, **self._options)
        inputs = json.loads(Path(pairs).read_text("utf-8"))
        return lambda: np.asarray(model.predict(inputs))

    def sparse(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Prepare texts to sparse vectors (B, V), which are returned dense."""
        from fastattn import SparseEncoder

        model = SparseEncoder(Path(folder) / "checkpoint", **self._options)
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.asarray(model.encode(inputs).toarray())

    def token_vectors(self, arrays: Arrays, folder: str, texts: str) -> Run:
        """Prepare documents to vectors of their tokens (N, C), end to end."""
        from fastattn import MultiVectorEncoder

        model = MultiVectorEncoder(Path(folder) / "checkpoint", **self._options)
        inputs = json.loads(Path(texts).read_text("utf-8"))
        return lambda: np.concatenate(model.encode_document(inputs))

    def best_ten(self, arrays: Arrays) -> Run:
        """Prepare the ten best scores of documents for a query."""
        from fastattn import maxsim

        query, rows, offsets = arrays["query"], arrays["rows"], arrays["offsets"]
        return lambda: np.sort(maxsim(query, rows, offsets))[-10:][::-1]

    def softmax(self, arrays: Arrays) -> Run:
        """Prepare softmax of rows."""
        from fastattn import softmax

        x = arrays["x"]
        out = np.empty_like(x)
        return lambda: softmax(x, out=out)

    def layer_norm(self, arrays: Arrays) -> Run:
        """Prepare layer norm of rows, or of their sum with a residual."""
        from fastattn import layer_norm

        x, weight, bias, residual = arrays["x"], arrays["weight"], arrays["bias"], arrays.get("residual")
        out = np.empty_like(x)
        return lambda: layer_norm(x, weight, bias, residual=residual, out=out)

    def gelu(self, arrays: Arrays) -> Run:
        """Prepare GELU, erf form."""
        from fastattn import gelu

        x = arrays["x"]
        out = np.empty_like(x)
        return lambda: gelu(x, out=out)

    def attention(self, arrays: Arrays) -> Run:
        """Prepare attention of all heads."""
        from fastattn import scaled_dot_product_attention

        q, k, v = arrays["query"], arrays["key"], arrays["value"]
        return lambda: scaled_dot_product_attention(q, k, v)

    def linear(self, arrays: Arrays) -> Run:
        """Prepare a product by the public op, which packs the weight in every call."""
        from fastattn import linear

        x, weight = arrays["x"], arrays["weight"]
        out = np.empty((len(x), len(weight)), np.float32)
        return lambda: linear(x, weight, out=out)

    def product(self, arrays: Arrays) -> Run:
        """Prepare a product by the kernel, on a weight packed beforehand, as in the encoder."""
        from fastattn.kernels.ops._arrays import panels, workers_for
        from fastattn.kernels.ops.linear import ROW_BLOCK, linear_kernel
        from fastattn.kernels.products.pack import pack_weight
        from fastattn.runtime.memory import aligned_empty

        x, weight = arrays["x"], arrays["weight"]
        (m, k), n = x.shape, len(weight)
        count, width = panels(n, np.float32)
        packed = aligned_empty(count * k * width, np.float32)
        pack_weight(weight, packed)
        no_bias, out = np.zeros(count * width, np.float32), np.empty((m, n), np.float32)
        workers = workers_for(2e-5 * m * k * n, count * -(-m // ROW_BLOCK))

        def run() -> Array:
            linear_kernel(x, packed, no_bias, out, 0, 0, np.empty(0, np.float32), np.zeros(8, np.int64), workers)
            return out

        return run


class Reference(Library):
    """NumPy: the reference encoder, and the product by its BLAS."""

    packages = ("numpy",)

    def facts(self) -> dict[str, str]:
        """Return the BLAS library, its kernels and its threads."""
        import threadpoolctl

        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        return {
            "BLAS": ", ".join(
                f"{p['internal_api']} {p['version']}, kernels for {p.get('architecture')}, {p['num_threads']} threads"
                for p in pools
            )
        }

    def forward(self, arrays: Arrays, folder: str) -> Run:
        """Prepare the hidden states of a batch."""
        from fastattn import reference
        from fastattn.checkpoint.reader import read_encoder

        config, parameters = read_encoder(Path(folder) / "checkpoint")
        options = encoder_options(config)
        ids, mask = arrays["ids"], arrays["mask"]
        return lambda: reference.encoder(parameters, ids, mask, **options)

    def product(self, arrays: Arrays) -> Run:
        """Prepare a product by BLAS, the weight laid out (C_in, C_out)."""
        x, weight = arrays["x"], np.ascontiguousarray(arrays["weight"].T)
        out = np.empty((len(x), weight.shape[1]), np.float32)
        return lambda: np.matmul(x, weight, out=out)


def encoder_options(config: Any) -> dict[str, Any]:
    """Return the options of ``reference.encoder`` for a configuration."""
    options: dict[str, Any] = config.reference_options()
    return options
