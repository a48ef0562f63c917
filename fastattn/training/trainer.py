"""The loop of a training run: batches, gradients, steps, logs, checkpoints."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastattn.config import Precision
from fastattn.training import checkpoints, functions
from fastattn.training.arguments import TrainingArguments
from fastattn.training.chosen_parameters import choose_learning, kept_digest, optimizer_of
from fastattn.training.data import Batch, TrainingData, epoch_batches, named
from fastattn.training.evaluation.evaluator import call_evaluator
from fastattn.training.graph import Parameter
from fastattn.training.inputs import Columns, Inputs
from fastattn.training.optimizer import Optimizer, clip_grad_norm_
from fastattn.training.schedules import LRScheduler, get_scheduler, warmup_steps_of
from fastattn.training.state import Mean, TrainerState, TrainOutput, is_due

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer:
    """Base of the trainers: it owns the loop; a subclass says what a batch is, and what its loss.

    Parameters
    ----------
    model : object
        What is trained, by the subclass.
    args : TrainingArguments, optional
        Arguments of the run.
    train_dataset, eval_dataset : dataset, optional
        What it learns from, and whose loss is logged.
    evaluator : callable or sequence of callables, optional
        Take the model, return metrics; those with arguments output_path, epoch or steps get ``output_dir/eval`` and the place.
    callbacks : sequence of callable
        Called with the state and each entry of its log; the model then encodes with the weights of the last evaluation.

    Raises
    ------
    TypeError
        `args`, `model` or a dataset is of another kind.
    ValueError
        An argument is out of range, or there is nothing to evaluate where an evaluation is asked for.
    """

    arguments: ClassVar[type[TrainingArguments]] = TrainingArguments

    def __init__(
        self,
        model: Any,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        evaluator: Any = None,
        callbacks: Sequence[Callable[[TrainerState, dict[str, Any]], object]] = (),
    ) -> None:
        self.model = model
        self.args = self.arguments() if args is None else args
        if not isinstance(self.args, TrainingArguments):
            found = f"{type(args).__module__}.{type(args).__qualname__}"
            raise TypeError(f"args must be fastattn.training.{self.arguments.__name__}, got {found}")
        self.train_data, self.eval_data = (
            None if dataset is None else self._read_dataset(dataset, name)
            for dataset, name in ((train_dataset, "train_dataset"), (eval_dataset, "eval_dataset"))
        )
        self._check()
        self.evaluators = list(evaluator) if isinstance(evaluator, (list, tuple)) else [] if evaluator is None else [evaluator]
        self.callbacks = list(callbacks)
        self.state = TrainerState()
        if self.args.eval_strategy != "no" and self.eval_data is None and not self.evaluators:
            raise ValueError(f"eval_strategy is {self.args.eval_strategy!r}, and there is neither eval_dataset nor evaluator")
        self.graph, self.inputs = self._prepare()
        self.inputs.check(self.train_data, self.eval_data)
        choose_learning(self.graph, self.args)

    def _read_dataset(self, dataset: Any, name: str) -> dict[str, TrainingData]:
        """Return datasets by name; one alone has the name ""."""
        return named(dataset, name)

    def _check(self) -> None:
        """Raise a TypeError for a model of another kind."""
        raise NotImplementedError

    def _check_graph(self) -> None:
        """Raise a ValueError if the graph is no longer that of the model."""

    def _prepare(self) -> tuple[Any, Inputs]:
        """Return the model as a graph, and what makes token rows of its batches."""
        raise NotImplementedError

    def _add_gradients(self, batch: Batch, columns: Columns, key: tuple[int, ...], scale: float) -> float:
        """Add the gradients of a batch, multiplied by `scale`; return its loss.  What is random follows from `key` alone."""
        raise NotImplementedError

    def _metrics_of(self, data: TrainingData, batch: Batch) -> tuple[dict[str, float], float]:
        """Return the loss and other means over an evaluation batch, and its weight."""
        raise NotImplementedError

    def _tokens_of(self, columns: Columns) -> int:
        """Return the number of tokens that a batch computes."""
        return sum(len(row.ids) for column in columns for row in column)

    def _more_parameters(self) -> dict[str, Parameter]:
        """Return what learns beside the model."""
        return {}

    def _described(self) -> dict[str, Any]:
        """Return what decides the bits of a run beside arguments and data."""
        return {}

    def _drawn(self) -> dict[str, Any]:
        """Return the states of random numbers that do not follow from a key, by name."""
        return {}

    def _restore(self, drawn: Mapping[str, Any]) -> None:
        """Take over the states of random numbers."""

    @property
    def _precision(self) -> Precision:
        return "bfloat16" if self.args.bf16 else "float32"

    def _learning(self) -> dict[str, Parameter]:
        """Return all parameters that learn, by name."""
        return {each.name: each for each in self.graph.trained()} | self._more_parameters()

    @functools.cached_property
    def kept_digest(self) -> str:
        """Digest of the weights that do not learn."""
        return kept_digest(self.graph.parameters.values())

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the bits of the run."""
        return checkpoints.fingerprint(self)

    def train(self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None) -> TrainOutput:
        """Train the model; it encodes with the new weights at once.

        Parameters
        ----------
        resume_from_checkpoint : str, path or bool, optional
            A checkpoint's folder, or True for the newest in `output_dir`: the run goes on from it with the same bits.  The model
            is that with which the run began: loaded anew, trained since, or loaded from the checkpoint.

        Returns
        -------
        TrainOutput

        Raises
        ------
        FloatingPointError
            The loss is NaN or infinite; the message names step and rows.
        ValueError
            There is no training data, the checkpoint is of another run, or evaluations have no checkpoint of the best model.
        FileNotFoundError
            There is no checkpoint, or that of the best model is gone.
        """
        args = self.args
        if self.train_data is None:
            raise ValueError("train_dataset must be given to train")
        self._begin()
        per_epoch = math.ceil(len(epoch_batches(self.train_data, args, 0)) / args.gradient_accumulation_steps)
        if not per_epoch:
            raise ValueError(
                f"train_dataset has fewer rows than a batch of {args.per_device_train_batch_size}, and the last is dropped"
            )
        total = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
        args._check_best(total)
        self.state = TrainerState(max_steps=total)
        optimizer = optimizer_of(self._learning(), args)
        optimizer.zero_grad()
        warmup = warmup_steps_of(total, args.warmup_steps, args.warmup_ratio or 0.0)
        scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warmup, total, dict(args.lr_scheduler_kwargs))
        if resume_from_checkpoint:
            self._resume(checkpoints.find(args.output_dir, resume_from_checkpoint), optimizer, scheduler)
        if args.save_strategy != "no":
            # A folder that cannot be written is found before the first step.
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            checkpoints.remove_abandoned(args.output_dir)
        # Those of a checkpoint too.
        self.graph.refresh()
        started, first, tokens, mean_loss = time.perf_counter(), self.state.global_step, 0, Mean()
        since = Mean()
        with self._committed(optimizer), self._progress(total) as bar:
            bar.update(first)
            for batches, rows in self.inputs.ahead(self.train_data, self._steps(per_epoch)):
                loss, count = self._step(batches, rows)
                norm = self._update(optimizer, scheduler)
                tokens += count
                mean_loss.add(loss)
                since.add(loss)
                self.state.global_step += 1
                self.state.num_input_tokens_seen += count
                self.state.epoch = self.state.global_step / per_epoch
                bar.update(1)
                bar.set_postfix(loss=f"{loss:.4f}", tokens_s=f"{tokens / (time.perf_counter() - started):,.0f}")
                rate = scheduler.get_last_lr()[0]
                self._after(per_epoch, {"loss": since, "grad_norm": norm, "learning_rate": rate}, optimizer, scheduler)
        if args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            checkpoints.load_weights(Path(self.state.best_model_checkpoint), self._learning())
            self.graph.refresh()
            self.graph.commit()
        seconds = time.perf_counter() - started
        steps = self.state.global_step - first
        rows_seen = steps * args.per_device_train_batch_size * args.gradient_accumulation_steps
        metrics = {
            "train_runtime": seconds,
            "train_samples_per_second": rows_seen / seconds,
            "train_steps_per_second": steps / seconds,
            "train_tokens_per_second": tokens / seconds,
            "train_loss": mean_loss.value,
        }
        self._log(metrics)
        return TrainOutput(self.state.global_step, mean_loss.value, metrics)

    def _begin(self) -> None:
        """Let the graph compute and learn as the arguments say: another trainer of the model may have changed it."""
        self._check_graph()
        choose_learning(self.graph, self.args)
        for name in ("kept_digest", "fingerprint"):
            vars(self).pop(name, None)
        self.beginning = checkpoints.beginning(self)
        self.graph.set_precision(self._precision)
        self.graph.refresh()

    def _resume(self, folder: Path, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        """Take over the weights, the optimiser's state and the place in the run."""
        state = checkpoints.load(folder, self, optimizer)
        scheduler.load_state_dict(state.pop("scheduler"))
        self._restore(state.pop("losses"))
        self.state = TrainerState(**{**state, "max_steps": self.state.max_steps})

    def _steps(self, per_epoch: int) -> Iterator[list[Batch]]:
        """Yield the batches of each step that is still to come."""
        done, total = self.state.global_step, self.state.max_steps
        for epoch in itertools.count(done // per_epoch):
            batches = epoch_batches(self.train_data or {}, self.args, epoch)
            if not batches:
                raise ValueError(f"train_dataset has no batch of {self.args.per_device_train_batch_size} rows in epoch {epoch + 1}")
            size, last = self.args.gradient_accumulation_steps, per_epoch - 1
            # Without duplicates, epochs differ in their batches, and have as many steps: the first batches come again, or
            # the last step takes what is left.
            batches = [batches[i % len(batches)] for i in range(max(len(batches), last * size + 1))]
            for step in range(0 if epoch > done // per_epoch else done % per_epoch, per_epoch):
                if epoch * per_epoch + step >= total:
                    return
                yield batches[step * size : (step + 1) * size if step < last else None]

    def _step(self, batches: Sequence[Batch], rows: Sequence[Columns]) -> tuple[float, int]:
        """Add the gradients of a step's batches; return the mean loss and the number of tokens."""
        total, tokens = 0.0, 0
        for i, (batch, columns) in enumerate(zip(batches, rows, strict=True)):
            value = self._add_gradients(batch, columns, (self.args.seed, self.state.global_step, i), 1.0 / len(batches))
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} in step {self.state.global_step + 1}, of the rows {batch.rows.tolist()!r:.200}: "
                    "look at these rows, or take a smaller learning_rate"
                )
            total += value / len(batches)
            tokens += self._tokens_of(columns)
        return total, tokens

    def _update(self, optimizer: Optimizer, scheduler: LRScheduler) -> float:
        """Clip the gradients, take the step; return the norm of the gradient."""
        parameters = list(self._learning().values())
        norm = float(clip_grad_norm_(parameters, self.args.max_grad_norm if self.args.max_grad_norm > 0 else math.inf))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        self.graph.refresh(learned=True)
        return norm

    def _after(self, per_epoch: int, logs: dict[str, Any], optimizer: Optimizer, scheduler: LRScheduler) -> None:
        """Log, evaluate, and write a checkpoint where it is time for it."""
        args, step = self.args, self.state.global_step
        if is_due(args.logging_strategy, args.logging_steps, self.state, per_epoch) or (args.logging_first_step and step == 1):
            since = logs["loss"]
            self._log({**logs, "loss": since.value})
            since.clear()
        if is_due(args.eval_strategy, args.eval_steps or 0, self.state, per_epoch):
            self._watch_best(self.evaluate())
        if is_due(args.save_strategy, args.save_steps, self.state, per_epoch):
            self.graph.commit()
            checkpoints.write(self, optimizer, scheduler)

    def _log(self, values: Mapping[str, Any]) -> None:
        entry = {**values, "epoch": self.state.epoch, "step": self.state.global_step}
        self.state.log_history.append(entry)
        for callback in self.callbacks:
            callback(self.state, entry)

    def evaluate(self) -> dict[str, float]:
        """Return the loss on the evaluation data, and the metrics of the evaluators.

        Returns
        -------
        dict of str to float

        Raises
        ------
        ValueError
            There is neither evaluation data nor an evaluator.
        """
        if not self.eval_data and not self.evaluators:
            raise ValueError("there is neither eval_dataset nor evaluator")
        self._check_graph()
        self.graph.set_precision(self._precision)
        self.graph.refresh()
        metrics: dict[str, float] = {}
        size = self.args.per_device_eval_batch_size
        for name, data in (self.eval_data or {}).items():
            means: dict[str, Mean] = {}
            for start in range(0, len(data), size):
                found, weight = self._metrics_of(data, Batch(name, np.arange(start, min(start + size, len(data)))))
                for key, value in found.items():
                    means.setdefault(key, Mean()).add(value, weight)
            metrics |= {f"eval_{name}_{key}" if name else f"eval_{key}": mean.value for key, mean in means.items()}
        if self.evaluators:
            self.graph.commit()
        folder = str(Path(self.args.output_dir) / "eval")
        for evaluator in self.evaluators:
            found = call_evaluator(evaluator, self.model, folder, self.state.epoch, self.state.global_step)
            found = found if isinstance(found, Mapping) else {"evaluator": found}
            metrics |= {f"eval_{key}": float(value) for key, value in found.items()}
        self._log(metrics)
        return metrics

    def _watch_best(self, metrics: Mapping[str, float]) -> None:
        """Remember the checkpoint of this step if its metric is the best so far."""
        args, primary = self.args, next((getattr(each, "primary_metric", None) for each in self.evaluators), None)
        name = args.metric_for_best_model or (primary and f"eval_{primary}") or "eval_loss"
        name = name if name in metrics or name.startswith("eval_") else f"eval_{name}"
        if name not in metrics:
            if args.metric_for_best_model or args.load_best_model_at_end:
                raise ValueError(f"metric_for_best_model: there is no {name!r}, only {', '.join(metrics)}")
            return
        greater = args.greater_is_better if args.greater_is_better is not None else not name.endswith("loss")
        best, value = self.state.best_metric, metrics[name]
        if math.isnan(value):
            return
        if best is None or (value > best if greater else value < best):
            self.state.best_metric = value
            self.state.best_model_checkpoint = str(checkpoints.folder_of(args.output_dir, self.state.global_step))

    def save_model(self, output_dir: str | None = None) -> None:
        """Write the model with its weights as they are now.

        Parameters
        ----------
        output_dir : str, optional
            Folder to write; by default that of the arguments.
        """
        self.graph.commit()
        self.model.save_pretrained(output_dir or self.args.output_dir)

    @contextlib.contextmanager
    def _committed(self, optimizer: Optimizer) -> Iterator[None]:
        """Let the model encode, in float32, with its parameters as they are when the run ends, in whichever way."""
        try:
            yield
        except BaseException:
            # The exception of the run is the one to tell.
            with contextlib.suppress(Exception):
                self.graph.commit()
            raise
        finally:
            # Those of a step that was broken off.
            optimizer.zero_grad()
            functions.release()
            self.graph.set_precision("float32")
        self.graph.commit()

    def _progress(self, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(total=total, desc="Training", unit="step", disable=self.args.disable_tqdm or None)
