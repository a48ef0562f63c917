"""Pooling: one vector per text from its token embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.encoder.pooling import pool
from fastattn.text.modules.module import SENTENCE, TOKENS, Features, Module, as_size, flag, read_config

__all__ = ["Pooling"]

# The older form of 1_Pooling/config.json: a boolean per mode; the vectors are concatenated in this order.
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

MODES = tuple(_LEGACY_POOLINGS.values())


class Pooling(Module):
    """Pools the token embeddings of a text into one vector.

    Parameters
    ----------
    embedding_dimension : int
        Channels of a token embedding.
    pooling_mode : str or sequence of str
        "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"; the vectors of several modes (at most six)
        are concatenated.
    include_prompt : bool
        Whether the tokens of a prompt are pooled too.

    Raises
    ------
    ValueError
        A mode is unknown, or there are none or more than six.

    References
    ----------
    Reimers and Gurevych 2019, arXiv:1908.10084, section 3.
    """

    kind = "Pooling"

    def __init__(self, embedding_dimension: int, pooling_mode: str | Sequence[str] = "mean", include_prompt: bool = True) -> None:
        modes = (pooling_mode,) if isinstance(pooling_mode, str) else tuple(pooling_mode)
        if not modes or any(mode not in MODES for mode in modes):
            raise ValueError(f"pooling {list(modes)!r:.200} is not supported; supported: {', '.join(MODES)}")
        if len(modes) > len(MODES):
            raise ValueError(f"pooling has {len(modes)} modes; supported: at most {len(MODES)}")
        self.embedding_dimension = embedding_dimension
        self.modes = modes
        self.include_prompt = include_prompt

    @property
    def pooling_mode(self) -> str | tuple[str, ...]:
        """The pooling mode, or a tuple of several."""
        return self.modes[0] if len(self.modes) == 1 else self.modes

    @classmethod
    def _behind(cls, transformer: Any) -> Pooling:
        """Return the pooling of a folder without modules: the last token of a causal language model, else the mean."""
        # Of config.json: the field of the encoder's configuration has another meaning.
        said = transformer.config.settings
        named = said.get("architectures")
        is_causal = isinstance(named, list) and str([*named, ""][0]).endswith("ForCausalLM") and said.get("is_causal", True)
        return cls(transformer.get_embedding_dimension(), "lasttoken" if is_causal else "mean")

    @classmethod
    def _load(cls, folder: Path) -> Pooling:
        """Read the module's folder."""
        path = folder / "config.json"
        content = read_config(path)
        modes = content.get("pooling_mode")
        if modes is None:
            modes = [mode for key, mode in _LEGACY_POOLINGS.items() if content.get(key)] or ["mean"]
        dimension = content.get("embedding_dimension", content.get("word_embedding_dimension"))
        dimension = 0 if dimension is None else as_size(path, "embedding_dimension", dimension)
        try:
            return cls(dimension, modes, flag(content, "include_prompt"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    def _width(self, widths: dict[str, int]) -> None:
        """Check the width of the input, and record the width of the output in `widths`."""
        if TOKENS not in widths:
            raise ValueError(f"Pooling reads {TOKENS}, which no module before it writes; there are {', '.join(widths)}")
        found = widths[TOKENS]
        self.embedding_dimension = self.embedding_dimension or found
        if self.embedding_dimension != found:
            raise ValueError(f"Pooling expects tokens of {self.embedding_dimension} channels, and they have {found}")
        widths[SENTENCE] = found * len(self.modes)

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the output into `features`."""
        hidden, skip = features[TOKENS], 0 if self.include_prompt else prompt_tokens
        features[SENTENCE] = np.concatenate([pool(hidden, offsets, mode, skip) for mode in self.modes], axis=1)

    def get_embedding_dimension(self) -> int:
        """Return the number of channels of the output.

        Returns
        -------
        int
            C times the number of modes.
        """
        return self.embedding_dimension * len(self.modes)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``, if possible in the older form, which every version reads.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        modes: dict[str, Any] = {key: mode in self.modes for key, mode in _LEGACY_POOLINGS.items()}
        if self.modes != tuple(mode for mode in _LEGACY_POOLINGS.values() if mode in self.modes):
            modes = {"pooling_mode": list(self.modes)}
        return {"word_embedding_dimension": self.embedding_dimension, **modes, "include_prompt": self.include_prompt}

    def __repr__(self) -> str:
        """Show the configuration under the present keys of sentence-transformers."""
        modes = {"embedding_dimension": self.embedding_dimension, "pooling_mode": self.pooling_mode}
        shown = {**modes, "include_prompt": self.include_prompt}
        return f"{type(self).__name__}({shown})"
