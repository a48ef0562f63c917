"""SparseAutoEncoder: a dense embedding as a combination of few learnt directions (contrastive sparse representation)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.weights import Tensors
from fastattn.kernels.ops.linear import linear
from fastattn.text.modules.module import SENTENCE, Array, Features, as_array, as_size, check_width, read_config
from fastattn.text.modules.sparse_module import SparseModule
from fastattn.text.sparse_embeddings import SparseEmbeddings

__all__ = ["SparseAutoEncoder"]

_EPS = np.float32(1e-5)
_SHARED = ("encoder.weight", "decoder.linear.weight")


class SparseAutoEncoder(SparseModule):
    """Encoder of a sparse autoencoder: the `k` largest of ``W (x - pre_bias) + latent_bias``, those below 0 as 0.

    Parameters
    ----------
    input_dim : int
        Channels of the input.
    hidden_dim : int
        Width of the output.
    k : int
        Active dimensions of an embedding.
    k_aux : int
        Of training, for compatibility.
    normalize : bool
        Subtract the mean of the input's channels, and divide by their standard deviation.
    dead_threshold : int
        Of training, for compatibility.
    init_weight : float, (hidden_dim, input_dim)
        W.
    init_pre_bias : float, (input_dim,), optional
        Subtracted from the input; zeros by default.
    init_latent_bias : float, (hidden_dim,), optional
        Added to the output; zeros by default.

    Raises
    ------
    ValueError
        `init_weight` is missing, or an array has the wrong shape.

    References
    ----------
    Wen et al. 2025, arXiv:2503.01776, section 3.
    """

    kind = "SparseAutoEncoder"

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 512,
        k: int = 8,
        k_aux: int = 512,
        normalize: bool = False,
        dead_threshold: int = 30,
        init_weight: ArrayLike | None = None,
        init_pre_bias: ArrayLike | None = None,
        init_latent_bias: ArrayLike | None = None,
    ) -> None:
        if init_weight is None:
            raise ValueError(
                f"init_weight must be an array of shape {(hidden_dim, input_dim)}, got None: there are no random weights"
            )
        self.input_dim, self.hidden_dim, self.k, self.k_aux = input_dim, hidden_dim, k, k_aux
        self.normalize, self.dead_threshold = normalize, dead_threshold
        self.weight = as_array("init_weight", init_weight, (hidden_dim, input_dim))
        self.pre_bias = as_array("init_pre_bias", np.zeros(input_dim) if init_pre_bias is None else init_pre_bias, (input_dim,))
        bias = np.zeros(hidden_dim) if init_latent_bias is None else init_latent_bias
        self.latent_bias = as_array("init_latent_bias", bias, (hidden_dim,))

    @classmethod
    def _load(cls, folder: Path) -> SparseAutoEncoder:
        """Read the module's folder."""
        path = folder / "config.json"
        content = read_config(path)
        sizes = {"input_dim": None, "hidden_dim": 512, "k": 8, "k_aux": 512, "dead_threshold": 30}
        given = {name: as_size(path, name, content.get(name, default)) for name, default in sizes.items()}
        tensors, width = Tensors(folder), given["hidden_dim"]
        # sentence-transformers writes the tensor that encoder and decoder share under either name.
        name = next((name for name in _SHARED if name in tensors), _SHARED[0])

        def read(name: str, shape: tuple[int, ...]) -> Array:
            if name not in tensors:
                raise CheckpointError(f"{tensors.where}: tensor {name!r} is missing")
            return np.array(tensors.read(name, shape))

        return cls(
            **given,
            normalize=bool(content.get("normalize", False)),
            init_weight=read(name, (width, given["input_dim"])),
            init_pre_bias=read("pre_bias", (given["input_dim"],)),
            init_latent_bias=read("latent_bias", (width,)),
        )

    def _width(self, widths: dict[str, int]) -> None:
        """Check the width of the input, and record the width of the output in `widths`."""
        check_width("SparseAutoEncoder", SENTENCE, self.input_dim, widths)
        widths[SENTENCE] = self.hidden_dim

    def _sparse(self, features: Features, offsets: NDArray[np.int64], most: int | None) -> SparseEmbeddings:
        """Return the embeddings (B, V) with at most `most` active dimensions each, by default `k`."""
        x = np.asarray(features[SENTENCE], np.float32)
        if self.normalize:
            x = x - x.mean(axis=1, keepdims=True)
            x = x / (x.std(axis=1, ddof=1, keepdims=True) + _EPS)
        latents = linear(np.ascontiguousarray(x - self.pre_bias), self.weight, self.latent_bias)
        count = min(self.k if most is None else most, self.hidden_dim)
        # Those above 0 are the largest, so the others need no order.
        return SparseEmbeddings.from_dense(np.maximum(latents, 0))._largest(count)

    def get_embedding_dimension(self) -> int:
        """Return the width of the output.

        Returns
        -------
        int
            hidden_dim.
        """
        return self.hidden_dim

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        names = ("input_dim", "hidden_dim", "k", "k_aux", "normalize", "dead_threshold")
        return {name: getattr(self, name) for name in names}

    def _tensors(self) -> dict[str, Array]:
        """Return the weights by their names in ``model.safetensors``; the last counts steps of training."""
        weights = {"encoder.weight": self.weight, "pre_bias": self.pre_bias, "latent_bias": self.latent_bias}
        return {**weights, "stats_last_nonzero": np.zeros(self.hidden_dim, np.int64)}
