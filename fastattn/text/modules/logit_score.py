"""LogitScore: the score of a pair from a language model's logits of one or two words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.reader import read_words
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.pooling import pool
from fastattn.text.modules.module import CAUSAL_LOGITS, SCORES, Features, Module, read_config

__all__ = ["LogitScore"]


class LogitScore(Module):
    """Scores a pair by what a language model would say next: ``logit[true] - logit[false]`` at its last token.

    The logits are ``h_T . E_v`` with the last hidden state h_T and the row E_v of the word v in the model's head, so the score is
    ``h_T . (E_true - E_false)``: one product for each pair, and none with the other words.  A model that bounds its logits (Gemma,
    ``final_logit_softcapping`` c) has ``c tanh(h_T . E_v / c)``.

    Parameters
    ----------
    true_token_id : int
        The word of a pair that fits, such as "yes".
    false_token_id : int, optional
        The word of a pair that does not fit; without it the score is ``logit[true]``.
    module_input_name : {"causal_logits"}
        Name of the array that is read, of a Transformer whose task is "text-generation".

    Raises
    ------
    ValueError
        An id is no whole number from 0, or the name is another.

    References
    ----------
    Nogueira et al. 2020, arXiv:2003.06713, section 3.
    """

    kind = "LogitScore"
    library = "sentence_transformers.cross_encoder.modules.logit_score"

    def __init__(self, true_token_id: int, false_token_id: int | None = None, module_input_name: str = CAUSAL_LOGITS) -> None:
        for name, value in (("true_token_id", true_token_id), ("false_token_id", false_token_id)):
            if not (value is None and name == "false_token_id") and (type(value) is not int or value < 0):
                raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")
        if module_input_name != CAUSAL_LOGITS:
            raise ValueError(f"module_input_name {module_input_name!r} is not supported; supported: {CAUSAL_LOGITS}")
        self.true_token_id, self.false_token_id = true_token_id, false_token_id
        self.module_input_name = module_input_name
        self._score: PackedLinear | None = None
        self._softcap: float | None = None

    @classmethod
    def _load(cls, folder: Path) -> LogitScore:
        """Read the module's folder."""
        path = folder / "config.json"
        content = read_config(path)
        try:
            return cls(content.get("true_token_id"), content.get("false_token_id"), content.get("module_input_name", CAUSAL_LOGITS))  # type: ignore[arg-type]
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def _follow(self, first: Any) -> None:
        """Take the words' rows of the head from the Transformer's folder."""
        if first.output_name != CAUSAL_LOGITS:
            raise ValueError(f'LogitScore reads {CAUSAL_LOGITS}, of a Transformer whose transformer_task is "text-generation"')
        ids = [self.true_token_id, *([] if self.false_token_id is None else [self.false_token_id])]
        rows, self._softcap = read_words(first.folder, ids)
        # In float64, so that the difference has one rounding.
        wide = rows.astype(np.float64)
        is_one_product = len(ids) > 1 and self._softcap is None
        self._score = PackedLinear(np.asarray(wide[:1] - wide[1:] if is_one_product else wide, np.float32))

    def _width(self, widths: dict[str, int]) -> None:
        """Record the width of the output in `widths`."""
        if CAUSAL_LOGITS not in widths:
            raise ValueError(f"LogitScore reads {CAUSAL_LOGITS}, which no module before it writes; there are {', '.join(widths)}")
        widths[SCORES] = 1

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the scores into `features`."""
        if self._score is None:
            raise ValueError("LogitScore has no words yet: it is used in a model, behind a Transformer")
        logits = self._score(pool(features[CAUSAL_LOGITS], offsets, "lasttoken"))
        if self._softcap is not None:
            cap = np.float32(self._softcap)
            logits = cap * np.tanh(logits / cap)
        features[SCORES] = logits if logits.shape[1] == 1 else logits[:, :1] - logits[:, 1:]

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {
            "true_token_id": self.true_token_id,
            "false_token_id": self.false_token_id,
            "module_input_name": self.module_input_name,
        }
