"""Base of the trainers whose loss is a function of embeddings or scores of texts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fastattn.text.batches import TokenRow
from fastattn.training.arguments import TrainingArguments
from fastattn.training.data import Batch, TrainingData
from fastattn.training.graph import Parameter, Tensor
from fastattn.training.inputs import Columns, Inputs
from fastattn.training.losses.loss import Loss
from fastattn.training.model import ModelGraph
from fastattn.training.state import TrainerState
from fastattn.training.trainer import Trainer

__all__ = ["LossTrainer"]


class LossTrainer(Trainer):
    """Trainer with a `Loss` for each dataset; a subclass says which model it takes, and the loss where none is given.

    Parameters
    ----------
    model : SentenceTransformer or CrossEncoder
        What is trained.
    args, train_dataset, eval_dataset : optional
        As of `Trainer`.
    loss : Loss, class of one, or mapping of them by dataset, optional
        What is made small.
    evaluator, callbacks : optional
        As of `Trainer`.
    """

    pairs: ClassVar[bool] = False

    def __init__(
        self,
        model: Any,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        loss: Any = None,
        evaluator: Any = None,
        callbacks: Sequence[Callable[[TrainerState, dict[str, Any]], object]] = (),
    ) -> None:
        super().__init__(model, args, train_dataset, eval_dataset, evaluator, callbacks)
        self.losses = self._losses(loss)

    def _prepare(self) -> tuple[ModelGraph, Inputs]:
        """Return the model as a graph, and what makes token rows of its batches."""
        graph = ModelGraph(list(self.model))
        return graph, Inputs(graph.first, self.args.prompts, pairs=self.pairs)

    def _check_graph(self) -> None:
        """Raise a ValueError if the model got an adapter since."""
        self.graph.check_adapter()

    def _default_loss(self) -> Loss:
        """Return the loss of a trainer that was given none."""
        raise NotImplementedError

    def _losses(self, loss: Any) -> dict[str, Loss]:
        """Return the loss of each dataset; the one of all has the name ""."""
        given = loss if isinstance(loss, Mapping) else {"": loss}
        made = {}
        for name, each in given.items():
            each = (
                self._default_loss() if each is None else each if isinstance(each, Loss) or not callable(each) else each(self.model)
            )
            if not isinstance(each, Loss):
                raise TypeError(f"loss must be a loss of fastattn.training.losses, got {type(each).__name__}")
            made[str(name)] = each
        for argument, data in (("train_dataset", self.train_data), ("eval_dataset", self.eval_data)):
            missing = [] if "" in made else [name for name in data or {} if name not in made]
            if missing == [""]:
                raise ValueError(f"loss has entries for datasets by name, and {argument} is one without a name")
            if missing:
                wanted, known = ", ".join(f"{argument}[{name!r}]" for name in missing), ", ".join(map(repr, made)) or "none"
                raise ValueError(f"loss has no entry for {wanted}, only for {known}")
        return made

    def _more_parameters(self) -> dict[str, Parameter]:
        """Return the parameters of the losses; where several losses have some, the dataset's name tells them apart."""
        found: dict[int, tuple[str, str, Parameter]] = {}
        for key, loss in self.losses.items():
            for i, each in enumerate(loss.parameters()):
                # One loss may be that of several datasets.
                found.setdefault(id(each), (key, f"{i}.{each.name}", each))
        several = len({key for key, _, _ in found.values()}) > 1
        return {f"loss.{key}.{name}" if several else f"loss.{name}": each for key, name, each in found.values()}

    def _described(self) -> dict[str, Any]:
        """Return what decides the bits of a run beside arguments and data."""
        return {f"loss {name!r}": [type(loss).__name__, loss.get_config_dict()] for name, loss in self.losses.items()}

    def _drawn(self) -> dict[str, Any]:
        """Return the states of the losses' random numbers, by name."""
        return {name: loss.rng.bit_generator.state for name, loss in self.losses.items() if hasattr(loss, "rng")}

    def _restore(self, drawn: Mapping[str, Any]) -> None:
        """Take over the states of random numbers."""
        for name, state in drawn.items():
            self.losses[name].rng.bit_generator.state = state  # type: ignore[attr-defined]

    def _add_gradients(self, batch: Batch, columns: Columns, key: tuple[int, ...], scale: float) -> float:
        """Add the gradients of a batch, multiplied by `scale`; return its loss."""
        data = (self.train_data or {})[batch.dataset]
        with _naming_columns(data):
            return self._loss(batch).step(self._embed(key), columns, data.labels_of(batch), scale)

    def evaluate(self) -> dict[str, float]:
        """Return the loss on the evaluation data, and the metrics of the evaluators.

        What a loss draws in an evaluation leaves the training as it is.

        Returns
        -------
        dict of str to float

        Raises
        ------
        ValueError
            There is neither evaluation data nor an evaluator.
        """
        found = (getattr(loss, "rng", None) for loss in self.losses.values())
        states = [(rng.bit_generator, rng.bit_generator.state) for rng in found if isinstance(rng, np.random.Generator)]
        try:
            return super().evaluate()
        finally:
            for generator, state in states:
                generator.state = state

    def _metrics_of(self, data: TrainingData, batch: Batch) -> tuple[dict[str, float], float]:
        """Return the loss of an evaluation batch, and its number of rows."""
        embeddings = [Tensor(each.data) for each in self._embed(None)(self.inputs.columns(data, batch))]
        with _naming_columns(data):
            loss = self._loss(batch).compute_loss_from_embeddings(embeddings, data.labels_of(batch))
        return {"loss": loss.item()}, len(batch.rows)

    def _loss(self, batch: Batch) -> Loss:
        return self.losses.get(batch.dataset) or self.losses[""]

    def _embed(self, key: Sequence[int] | None) -> Callable[..., list[Tensor]]:
        """Return what embeds columns of token rows in one forward, without padding."""

        def embed(columns: Sequence[Sequence[TokenRow]], part: int = 0) -> list[Tensor]:
            rows = [row for column in columns for row in column]
            out = self.graph(rows, None if key is None else (*key, part))
            ends = np.cumsum([0, *map(len, columns)])
            return [out[int(a) : int(b)] for a, b in itertools.pairwise(ends)]

        return embed


@contextlib.contextmanager
def _naming_columns(data: TrainingData) -> Iterator[None]:
    """Add the columns that a dataset has to a ValueError."""
    try:
        yield
    except ValueError as error:
        labels = "no labels" if data.labels is None else "labels"
        raise ValueError(f"{error}; the dataset has columns of texts {', '.join(data.names)}, and {labels}") from error
