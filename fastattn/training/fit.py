"""`fit` of sentence-transformers' older interface: examples and losses instead of datasets and arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastattn.training.arguments import OPTIMIZERS, TrainingArguments
from fastattn.training.checkpoints import is_checkpoint_in
from fastattn.training.cross_encoder_trainer import CrossEncoderTrainer, default_loss
from fastattn.training.loss_trainer import LossTrainer
from fastattn.training.optimizer import Optimizer
from fastattn.training.schedules import LRScheduler
from fastattn.training.sentence_transformer_trainer import SentenceTransformerTrainer
from fastattn.training.state import is_due

__all__ = ["InputExample", "fit_cross_encoder", "fit_sentence_transformer"]

_SCHEDULES = {
    "constantlr": "constant",
    "warmupconstant": "constant_with_warmup",
    "warmuplinear": "linear",
    "warmupcosine": "cosine",
    "warmupcosinewithhardrestarts": "cosine_with_restarts",
}
# The first name of each class.
_OPTIMIZERS: dict[str, str] = {}
for _name, _kind in OPTIMIZERS.items():
    _OPTIMIZERS.setdefault(_kind.__name__, _name)
# Rows of a batch where the examples do not say.
_BATCH_SIZE = 8
# Classes of sentence-transformers that say how rows come into batches.
_NO_DUPLICATES, _BY_LABEL = "NoDuplicatesDataLoader", "SentenceLabelDataset"


class InputExample:
    """Texts of one row, and its label.

    Parameters
    ----------
    guid : str
        A name for the row.
    texts : list of str
        The texts, in the order that the loss expects.
    label : int, float or list of numbers
        The label.
    """

    def __init__(self, guid: str = "", texts: list[str] | None = None, label: Any = 0) -> None:
        self.guid, self.texts, self.label = guid, texts, label

    def __str__(self) -> str:
        """Return label and texts."""
        return f"<InputExample> label: {self.label}, texts: {'; '.join(self.texts or [])}"


class _Fit:
    """Part of a trainer that evaluates after each epoch and every so many steps, and writes the best model."""

    evaluator: Any = None
    evaluation_steps = 0
    steps_per_epoch = 0
    output_path: str | None = None
    save_best_model = True
    callback: Any = None
    _best: float | None = None

    def _after(self, per_epoch: int, logs: dict[str, Any], optimizer: Optimizer, scheduler: LRScheduler) -> None:
        """Evaluate where it is time for it, beside what a trainer does."""
        super()._after(per_epoch, logs, optimizer, scheduler)  # type: ignore[misc]
        state = self.state  # type: ignore[attr-defined]
        if self.evaluator is not None and (
            is_due("epoch", 0, state, self.steps_per_epoch or per_epoch) or is_due("steps", self.evaluation_steps, state, per_epoch)
        ):
            self._measure()

    def _measure(self) -> None:
        """Evaluate; write the model if it is the best so far, and tell the callback."""
        trainer: Any = self
        state, model = trainer.state, trainer.model
        trainer.graph.commit()
        folder = None if self.output_path is None else str(Path(self.output_path) / "eval")
        result = self.evaluator(model, folder, state.epoch, state.global_step)
        name = getattr(self.evaluator, "primary_metric", None)
        if isinstance(result, Mapping):
            trainer._log({f"eval_{key}": float(value) for key, value in result.items()})
            score = float(result[name] if name in result else next(iter(result.values())))
        else:
            score = float(result)
            trainer._log({"eval_evaluator": score})
        sign = 1.0 if getattr(self.evaluator, "greater_is_better", True) else -1.0
        if self._best is None or sign * score > sign * self._best:
            self._best = score
            if self.save_best_model and self.output_path is not None:
                trainer.save_model(self.output_path)
        if self.callback is not None:
            self.callback(score, state.epoch, state.global_step)

    def run(self, resume: bool) -> None:
        """Train, and write the model at the end where no best one was written."""
        self.train(resume_from_checkpoint=resume or None)  # type: ignore[attr-defined]
        if self.output_path is not None and (self.evaluator is None or not self.save_best_model):
            self.save_model(self.output_path)  # type: ignore[attr-defined]


class _SentenceTransformerFit(_Fit, SentenceTransformerTrainer):
    """Trainer behind `SentenceTransformer.fit`."""


class _CrossEncoderFit(_Fit, CrossEncoderTrainer):
    """Trainer behind `CrossEncoder.fit`."""


def _same(batch: Any) -> Any:
    # No lambda: workers of a loader pickle it.
    return batch


def _batches(loader: Any) -> Iterable[Any]:
    """Return what a loader yields, without what it makes of a batch of examples."""
    if not hasattr(loader, "collate_fn"):
        return list(loader)
    theirs = loader.collate_fn
    loader.collate_fn = _same
    try:
        return list(loader)
    finally:
        loader.collate_fn = theirs


def _is_a(value: Any, name: str) -> bool:
    """Tell whether a value is of a class of sentence-transformers, which need not be installed."""
    return any(kind.__name__ == name for kind in type(value).__mro__)


def _in_own_order(loader: Any) -> list[Any] | None:
    """Return the examples of a loader that shuffles them, in an order that is the same in each process: the trainer shuffles.

    None of another loader: its sampler decides which examples there are.
    """
    if _is_a(loader, _NO_DUPLICATES):
        # It has shuffled the program's own list.
        return sorted(loader.train_examples, key=lambda each: repr((getattr(each, "texts", None), getattr(each, "label", None))))
    data, batches = getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)
    if _is_a(data, _BY_LABEL):
        return list(data.grouped_inputs)  # type: ignore[union-attr]
    if batches is not None and type(batches).__name__ != "BatchSampler":
        return None
    sampler = getattr(loader if batches is None else batches, "sampler", None)
    if type(sampler).__name__ != "RandomSampler" or getattr(sampler, "replacement", True):
        return None
    count = len(data)  # type: ignore[arg-type]
    if not count == sampler.num_samples == len(sampler.data_source):  # type: ignore[union-attr]
        return None
    if batches is not None and batches.drop_last:
        count -= count % batches.batch_size
    return [data[i] for i in range(count)]  # type: ignore[index]


class _Examples(NamedTuple):
    """Examples as columns, with the rows of a batch, and the batch sampler that their loader asks for."""

    columns: dict[str, list[Any]]
    batch_size: int
    batch_sampler: str


def _read(loader: Any, name: str, zeros: bool = True) -> _Examples:
    """Return examples as columns of texts and labels; without `zeros`, labels that are all 0 are none."""
    if not isinstance(loader, Iterable):
        raise TypeError(f"{name} must be examples, batches of them or a DataLoader, got {type(loader).__name__}")
    examples, size = _in_own_order(loader), getattr(loader, "batch_size", None)
    if examples is not None:
        size = size or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    else:
        examples = []
        for item in _batches(loader):
            batch = item if isinstance(item, (list, tuple)) else None
            if batch is not None and getattr(loader, "batch_size", None) is None:
                size = max(size or 1, len(batch))
            examples += [item] if batch is None else batch
    if not examples:
        raise ValueError(f"{name} has no examples")
    count = None
    for i, example in enumerate(examples):
        texts = getattr(example, "texts", None)
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not hasattr(example, "label"):
            raise TypeError(
                f"{name}: example {i}: expected an InputExample with texts, got {type(example).__name__}: {example!s:.100}"
            )
        count = len(texts) if count is None else count
        if len(texts) != count:
            raise ValueError(f"{name}: example {i} has {len(texts)} texts, and the first has {count}")
    columns = {f"sentence_{i}": [example.texts[i] for example in examples] for i in range(count or 0)}
    labels = [example.label for example in examples]
    if any(label is not None for label in labels) and (zeros or not all(np.ndim(label) == 0 and label == 0 for label in labels)):
        columns["label"] = labels
    by_label = _is_a(getattr(loader, "dataset", None), _BY_LABEL)
    sampler = "no_duplicates" if _is_a(loader, _NO_DUPLICATES) else "group_by_label" if by_label else "batch_sampler"
    return _Examples(columns, int(size or _BATCH_SIZE), sampler)


def _batch_sampler(found: Sequence[_Examples]) -> str:
    """Return the batch sampler of a run on several examples; ValueError where they cannot share one."""
    asked = [each.batch_sampler for each in found]
    if "group_by_label" in asked and len(set(asked)) > 1:
        # Grouped, rows that are alone with their label would be left out.
        place = next(i for i, each in enumerate(asked) if each != "group_by_label")
        raise ValueError(
            f"train_objectives[{asked.index('group_by_label')}] is of a {_BY_LABEL}, whose batches are grouped by label, and "
            f"train_objectives[{place}] is not: train on them one after another"
        )
    return next((each for each in asked if each != "batch_sampler"), "batch_sampler")


def _learning(scheduler: Any, optimizer_class: Any, optimizer_params: Mapping[str, Any], use_amp: bool) -> dict[str, Any]:
    """Return the arguments of a run that say how it learns."""
    kind = "AdamW" if optimizer_class is None else getattr(optimizer_class, "__name__", str(optimizer_class))
    if kind not in _OPTIMIZERS:
        raise ValueError(f"optimizer_class must be one of {', '.join(_OPTIMIZERS)}, got {kind}")
    if str(scheduler).lower() not in _SCHEDULES:
        raise ValueError(f"scheduler must be one of {', '.join(_SCHEDULES)}, got {scheduler!r}")
    if use_amp:
        raise ValueError("use_amp must be False: bf16=True of the training arguments has products in bfloat16")
    options = dict(optimizer_params)
    return {
        "optim": _OPTIMIZERS[kind],
        "learning_rate": options.pop("lr", 1e-3),
        "optim_args": options,
        "lr_scheduler_type": _SCHEDULES[str(scheduler).lower()],
    }


def _watch(trainer: Any, **watched: Any) -> Any:
    for name, value in watched.items():
        setattr(trainer, name, value)
    return trainer


def fit_sentence_transformer(
    model: Any,
    train_objectives: Iterable[tuple[Any, Any]],
    *,
    learning: Mapping[str, Any],
    arguments: Mapping[str, Any],
    **watched: Any,
) -> None:
    """Train a SentenceTransformer; what the arguments mean: `SentenceTransformer.fit`."""
    objectives = list(train_objectives)
    if not objectives or any(not isinstance(each, (list, tuple)) or len(each) != 2 for each in objectives):
        raise ValueError("train_objectives must be pairs of examples and a loss, at least one")
    args = dict(arguments)
    resume, epochs, steps = args.pop("resume_from_checkpoint"), args.pop("epochs"), watched["steps_per_epoch"] or 0
    # A label that is not given is 0: scores to a loss that can do without.
    found = [_read(loader, f"train_objectives[{i}]", zeros=False) for i, (loader, _) in enumerate(objectives)]
    data = {f"_dataset_{i}": each.columns for i, each in enumerate(found, 1)}
    losses = {f"_dataset_{i}": loss for i, (_, loss) in enumerate(objectives, 1)}
    path = args.pop("checkpoint_path")
    if path is not None:
        args |= {"output_dir": str(path), "save_strategy": "steps"}
    made = SentenceTransformerTrainer.arguments(
        **{"save_strategy": "no", **args},
        **_learning(**learning),
        num_train_epochs=epochs,
        max_steps=steps * epochs if steps else -1,
        per_device_train_batch_size=found[-1].batch_size,
        batch_sampler=_batch_sampler(found),
        multi_dataset_batch_sampler="round_robin",
    )
    trainer: Any = _SentenceTransformerFit(model, made, data, loss=losses)
    _watch(trainer, **{**watched, "steps_per_epoch": steps}).run(bool(resume and path is not None and is_checkpoint_in(path)))


def fit_cross_encoder(
    model: Any, train_dataloader: Any, *, learning: Mapping[str, Any], arguments: Mapping[str, Any], **watched: Any
) -> None:
    """Train a CrossEncoder; what the arguments mean: `CrossEncoder.fit`."""
    args = dict(arguments)
    loss, activation = args.pop("loss_fct"), args.pop("activation_fct")
    found = _read(train_dataloader, "train_dataloader")
    loss = default_loss(model, activation) if loss is None else loss
    made: TrainingArguments = CrossEncoderTrainer.arguments(
        num_train_epochs=args.pop("epochs"),
        save_strategy="no",
        **args,
        **_learning(**learning),
        per_device_train_batch_size=found.batch_size,
        batch_sampler=found.batch_sampler,
    )
    trainer: LossTrainer = _CrossEncoderFit(model, made, found.columns, loss=loss)
    _watch(trainer, **watched).run(False)
