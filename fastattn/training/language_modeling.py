"""Learning to predict words: masked ones from both sides, or the next one from those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.text.batches import LONG, TokenRow, groups
from fastattn.training import functions
from fastattn.training.arguments import TrainingArguments
from fastattn.training.data import Batch, TrainingData, texts_of
from fastattn.training.graph import Tensor
from fastattn.training.inputs import Columns, IdRows, Inputs
from fastattn.training.model import packed
from fastattn.training.state import TrainerState
from fastattn.training.trainable_encoder import TrainableEncoder
from fastattn.training.trainer import Trainer

__all__ = ["LanguageModelingTrainer", "mask_tokens"]

# Of the chosen tokens, the share that becomes the mask token, and that which becomes any token.
_MASKED, _RANDOM = 0.8, 0.1
# First word of the seeds of masks, in training and in evaluation.
_TRAINING, _EVALUATION = 1, 2
_ALL = int(1e30)


class Masked(NamedTuple):
    """Token ids of which some were changed, and the places of the tokens to predict."""

    ids: NDArray[np.int32]
    places: NDArray[np.int64]


def mask_tokens(
    ids: NDArray[np.int32],
    special: Sequence[int],
    mask_token_id: int,
    vocab_size: int,
    rng: np.random.Generator,
    probability: float = 0.15,
) -> Masked:
    """Choose the tokens that a masked language model predicts: 80 % become the mask token, 10 % any token, 10 % stay.

    Parameters
    ----------
    ids : int32, (N,)
        Tokens.
    special : sequence of int
        Ids that are never chosen.
    mask_token_id : int
        Id of the mask token.
    vocab_size : int
        Ids that take the place of a token are below it.
    rng : numpy.random.Generator
        Source of all that is drawn.
    probability : float
        With which a token is chosen.

    Returns
    -------
    Masked
        ``ids`` with the changes, and ``places`` of the chosen tokens: one at least, unless all tokens are special.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3.1, task 1.
    """
    may = ~np.isin(ids, np.asarray(special, np.int64))
    drawn, kind = np.where(may, rng.random(len(ids)), 2.0), rng.random(len(ids))
    words = rng.integers(0, vocab_size, len(ids), np.int32)
    chosen = drawn < probability
    if may.any() and not chosen.any():
        chosen[drawn.argmin()] = True
    out = ids.copy()
    out[chosen & (kind < _MASKED)] = mask_token_id
    others = chosen & (kind >= _MASKED) & (kind < _MASKED + _RANDOM)
    out[others] = words[others]
    return Masked(out, np.flatnonzero(chosen))


class _TokenData(TrainingData):
    """Rows of token ids."""

    def __init__(self, rows: list[NDArray[np.int32]], name: str) -> None:
        if not rows:
            raise ValueError(f"{name} has no tokens to predict")
        self.names, self.texts, self.labels = ["ids"], [rows], None


class LanguageModelingTrainer(Trainer):
    """Trains an encoder to predict masked words, or the next word.

    ::

        loss = mean over predicted tokens of -log softmax(W h + b)[token]

    of masked words: h behind a sequence in which these are masked; of the next word: h behind the tokens before it.

    Parameters
    ----------
    model : TrainableEncoder
        Of the task "masked-lm" or "causal-lm".
    args : TrainingArguments, optional
        Arguments of the run.
    train_dataset : sequence of str, or a dataset with one column of texts
        For masked words a text is cut into blocks, which get the tokenizer's special tokens.  For the next word all texts lie end
        to end, the token for the end of a text between them, and are cut into blocks.
    eval_dataset : as `train_dataset`, optional
        Its loss and accuracy, the share of right predictions, are logged.
    mlm_probability : float
        Share of the tokens that are masked words.
    block_size : int, optional
        Most tokens of a block; by default as many as the model and the tokenizer take, at most 512.
    callbacks : sequence of callable
        Called with the state and each entry of its log.

    Raises
    ------
    TypeError
        `model` or a dataset is of another kind.
    ValueError
        A dataset has no tokens, an argument is out of range, or the tokenizer has no mask token.

    Notes
    -----
    The masks follow from `seed` and the step alone.  The scores of all words are held for a few rows at a time, and computed for
    the predicted tokens only.  A weight that a model ties to its table of tokens learns with it.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3.1; Radford et al. 2018, Improving language understanding by generative
    pre-training, section 3.1.
    """

    def __init__(
        self,
        model: TrainableEncoder,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        mlm_probability: float = 0.15,
        block_size: int | None = None,
        callbacks: Sequence[Callable[[TrainerState, dict[str, Any]], object]] = (),
    ) -> None:
        if not isinstance(model, TrainableEncoder):
            raise TypeError(f"model must be a TrainableEncoder, got {type(model).__name__}")
        if model.task not in ("masked-lm", "causal-lm"):
            raise ValueError(f'model must be of the task "masked-lm" or "causal-lm", got one of {model.task!r}')
        if not 0 < mlm_probability <= 1:
            raise ValueError(f"mlm_probability must be in (0, 1], got {mlm_probability!r}")
        least, most = 2 + model.tokenizer.num_special, model.max_seq_length
        self.block_size = min(most, 512) if block_size is None else block_size
        if type(self.block_size) is not int or not least <= self.block_size <= most:
            raise ValueError(f"block_size must be a whole number in {least} .. {most} for this model, got {block_size!r}")
        self.mlm_probability = mlm_probability
        self._mask = model.tokenizer.get_vocab().get(model.tokenizer.special_tokens_map.get("mask_token", ""))
        if model.task == "masked-lm" and self._mask is None:
            raise ValueError("model: its tokenizer has no mask token")
        self.model: TrainableEncoder = model
        super().__init__(model, args, train_dataset, eval_dataset, callbacks=callbacks)

    def _check(self) -> None:
        """Do nothing: the model was checked before the texts were cut."""

    def _prepare(self) -> tuple[TrainableEncoder, Inputs]:
        """Return the model, and what makes token rows of its batches."""
        return self.model, IdRows()

    def _read_dataset(self, dataset: Any, name: str) -> dict[str, TrainingData]:
        """Return the blocks of a dataset."""
        texts = texts_of(dataset, name)
        rows = self._masked_blocks(texts) if self.model.task == "masked-lm" else self._causal_blocks(texts)
        return {"": _TokenData(rows, name)}

    def _described(self) -> dict[str, Any]:
        """Return what decides the bits of a run beside arguments and data."""
        return {"num_heads": self.model.config.num_heads, "task": self.model.task, "mlm_probability": self.mlm_probability}

    def _tokens_of(self, columns: Columns) -> int:
        """Return the number of tokens that a batch computes: the last of a row for the next word is a target alone."""
        return super()._tokens_of(columns) - (len(columns[0]) if self.model.task == "causal-lm" else 0)

    def _ids(self, texts: Sequence[str]) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the number of a text and the ids of a part of it: long texts are tokenised in parts that end where lines do."""
        parts = [(i, part) for i, text in enumerate(texts) for part in _parts(text)]
        for group in groups([part for _, part in parts]):
            ids = self.model.tokenizer.plain_rows([part for _, part in parts[group]], _ALL)
            yield from zip((i for i, _ in parts[group]), ids, strict=True)

    def _masked_blocks(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        tokenizer = self.model.tokenizer
        around = np.array(tokenizer.encode(""), np.int32)
        first = tokenizer.prefix_length("", self.block_size)
        room = self.block_size - len(around)
        return [
            np.concatenate([around[:first], ids[at : at + room], around[first:]])
            for _, ids in self._ids(texts)
            for at in range(0, len(ids), room)
        ]

    def _causal_blocks(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return rows of `block_size` tokens and the one behind them, which is the first of the next row."""
        end = self.model.tokenizer.get_vocab().get(self.model.tokenizer.special_tokens_map.get("eos_token", ""))
        between = np.array([] if end is None else [end], np.int32)
        stream, last = [], -1
        for text, ids in self._ids(texts):
            stream += [between, ids] if text != last else [ids]
            last = text
        tokens = np.concatenate([*stream, between]) if stream else between
        size = self.block_size
        return [tokens[at : at + size + 1] for at in range(0, len(tokens) - 1, size)]

    def _predicted(self, rows: Sequence[TokenRow], key: Sequence[int], drop: functions.Dropout) -> tuple[Tensor, Any]:
        """Return the hidden states (M, C) from which tokens are predicted, and these tokens (M,)."""
        if self.model.task == "causal-lm":
            inputs = packed([TokenRow(row.ids[:-1], None) for row in rows])
            targets = np.concatenate([row.ids[1:] for row in rows])
            return self.model.graph(inputs.ids, inputs.offsets, None, drop), targets.astype(np.int64)
        inputs = packed(rows)
        rng, tokenizer = np.random.default_rng(list(key)), self.model.tokenizer
        ids, places = mask_tokens(inputs.ids, tokenizer.all_special_ids, self._mask or 0, len(tokenizer), rng, self.mlm_probability)
        hidden = self.model.graph(ids, inputs.offsets, None, drop)
        # The head computes the predicted tokens alone.
        return functions.embedding(hidden, places), inputs.ids[places].astype(np.int64)

    def _add_gradients(self, batch: Batch, columns: Columns, key: tuple[int, ...], scale: float) -> float:
        """Add the gradients of a batch; return its loss."""
        drop = functions.Dropout(self.model.dropout, key)
        hidden, targets = self._predicted(columns[0], (_TRAINING, *key), drop)
        if not len(targets):
            return 0.0
        loss = self.model.head.cross_entropy(hidden, targets, drop)
        (loss * scale).backward()
        return loss.item()

    def _metrics_of(self, data: TrainingData, batch: Batch) -> tuple[dict[str, float], float]:
        """Return loss and accuracy of an evaluation batch, and its number of predicted tokens."""
        key = (_EVALUATION, self.args.seed, int(batch.rows[0]))
        hidden, targets = self._predicted(self.inputs.columns(data, batch)[0], key, functions.Dropout())
        if not len(targets):
            return {}, 0
        loss, accuracy = self.model.head.measure(hidden, targets)
        return {"loss": loss, "accuracy": accuracy}, len(targets)


def _parts(text: str) -> Iterator[str]:
    """Yield the parts of a text, of about as many characters as are tokenised at a time, cut behind the ends of lines."""
    start = 0
    while start < len(text):
        stop = start + LONG
        if stop < len(text):
            line = text.rfind("\n", start, stop) + 1
            stop = line if line > start else stop
        yield text[start:stop]
        start = stop
