"""Arguments of a training run, under the names that transformers and sentence-transformers have for them."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastattn.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from fastattn.training.schedules import SCHEDULES
from fastattn.training.state import interval

__all__ = ["CrossEncoderTrainingArguments", "SentenceTransformerTrainingArguments", "TrainingArguments"]

_STRATEGIES = ("no", "steps", "epoch")
_SAMPLING = ("random", "sequential", "group_by_length")
_BATCH_SAMPLERS = ("batch_sampler", "no_duplicates", "group_by_label")
_MULTI_DATASET = ("proportional", "round_robin")
# By the names that `optim` may have.
OPTIMIZERS: dict[str, Any] = {
    "adamw_torch": AdamW,
    "adamw_torch_fused": AdamW,
    "adamw": AdamW,
    "adam": Adam,
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}
_AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclass
class TrainingArguments:
    r"""Arguments of a training run.

    Parameters
    ----------
    output_dir : str
        Folder of the checkpoints.
    num_train_epochs : float
        Passes over the data; a part of one counts.
    max_steps : int
        Steps of the optimiser; -1: as `num_train_epochs` says.
    per_device_train_batch_size, per_device_eval_batch_size : int
        Rows of a batch.
    gradient_accumulation_steps : int
        Batches whose gradients are averaged for a step.
    learning_rate : float
        Greatest learning rate.
    weight_decay : float
        Of all parameters but biases and norms.
    adam_beta1, adam_beta2, adam_epsilon : float
        As in `AdamW`.
    max_grad_norm : float
        Norm to which the gradient of a step is clipped; 0 clips nothing.
    optim : str
        "adamw_torch" (also "adamw", "adamw_torch_fused"), "adam", "sgd", "rmsprop" or "adagrad".
    optim_args : mapping, optional
        More arguments of the optimiser, for example ``{"momentum": 0.9}``.
    lr_scheduler_type : str
        Name of a schedule of the learning rate: "linear", "cosine", "constant", "constant_with_warmup", ...
    lr_scheduler_kwargs : mapping, optional
        More arguments of the schedule.
    warmup_steps : float
        Steps in which the learning rate rises, or, below 1, their share of all steps.
    warmup_ratio : float, optional
        That share, under its older name.
    logging_strategy, save_strategy, eval_strategy : {"no", "steps", "epoch"}
        When the loss is logged, a checkpoint is written, the model is evaluated.
    logging_steps, save_steps, eval_steps : float
        Every so many steps, or, below 1, this share of all steps, rounded up.
    logging_first_step : bool
        Log the first step too.
    save_total_limit : int, optional
        Checkpoints that are kept, and the best beside them; the oldest are removed.  0 keeps all.
    seed : int
        Of the order of the rows, the masks of dropout and new weights.
    data_seed : int, optional
        Of the order of the rows.
    train_sampling_strategy : {"random", "sequential", "group_by_length"}
        Order of the rows.
    batch_sampler : {"batch_sampler", "no_duplicates", "group_by_label"}
        "no_duplicates": no text twice in a batch; "group_by_label": labels come at least twice in a batch.
    multi_dataset_batch_sampler : {"proportional", "round_robin"}
        From which of several datasets the next batch is.
    dataloader_drop_last : bool
        Leave out a last batch that is not full.
    prompts : str or mapping, optional
        Text before each input: one for all, or by column, or by dataset and column; of pairs for a CrossEncoder, one for all, or
        by dataset.
    learning_rate_mapping : mapping, optional
        Learning rates by regular expressions that match names of parameters.
    fixed_parameters : sequence of str
        Regular expressions; parameters whose names match one do not learn, for example ``"embeddings[.]"``.
    load_best_model_at_end : bool
        End with the weights of the checkpoint whose `metric_for_best_model` was best; each evaluation needs a checkpoint.
    metric_for_best_model : str, optional
        Name of a metric; by default the loss on the evaluation data, or the evaluator's primary metric.
    greater_is_better : bool, optional
        Whether the greatest is best; by default unless it is a loss.
    disable_tqdm : bool
        Show no progress bar.
    run_name : str, optional
        Kept, for compatibility.
    report_to : str
        Must be "none": nothing is sent anywhere.
    bf16 : bool
        Products with weights and those of their gradients take operands rounded to bfloat16; their sums, all else and the weights
        stay float32.  Faster where the CPU has instructions for it.
    fp16 : bool
        Must be false.

    Raises
    ------
    ValueError
        An argument has an unsupported value; the message names it.
    """

    output_dir: str = "trainer_output"
    num_train_epochs: float = 3.0
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch"
    optim_args: Mapping[str, Any] = field(default_factory=dict)
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: Mapping[str, Any] = field(default_factory=dict)
    warmup_steps: float = 0
    warmup_ratio: float | None = None
    logging_strategy: str = "steps"
    save_strategy: str = "steps"
    eval_strategy: str = "no"
    logging_steps: float = 500
    save_steps: float = 500
    eval_steps: float | None = None
    logging_first_step: bool = False
    save_total_limit: int | None = None
    seed: int = 42
    data_seed: int | None = None
    train_sampling_strategy: str = "random"
    batch_sampler: str = "batch_sampler"
    multi_dataset_batch_sampler: str = "proportional"
    dataloader_drop_last: bool = False
    prompts: str | Mapping[str, Any] | None = None
    learning_rate_mapping: Mapping[str, float] = field(default_factory=dict)
    fixed_parameters: tuple[str, ...] = ()
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    disable_tqdm: bool = False
    run_name: str | None = None
    report_to: str = "none"
    bf16: bool = False
    fp16: bool = False

    def __post_init__(self) -> None:
        """Check every argument."""
        for name in ("logging_strategy", "save_strategy", "eval_strategy"):
            self._check(name, _STRATEGIES)
        self._check("train_sampling_strategy", _SAMPLING)
        # Members of sentence-transformers' enumerations are strings too.
        for name, known in (("batch_sampler", _BATCH_SAMPLERS), ("multi_dataset_batch_sampler", _MULTI_DATASET)):
            value = getattr(self, name)
            setattr(self, name, str(getattr(value, "value", value)))
            self._check(name, known)
        self._check("optim", tuple(OPTIMIZERS))
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "logging_steps", "save_steps"):
            value = getattr(self, name)
            if not _is_number(value) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        self._check_whole_numbers()
        if not _is_number(self.num_train_epochs) or (self.max_steps <= 0 and not 0 < self.num_train_epochs < math.inf):
            raise ValueError(f"num_train_epochs must be greater than 0 and finite, got {self.num_train_epochs!r}")
        self._check("lr_scheduler_type", tuple(SCHEDULES))
        for name in ("optim_args", "lr_scheduler_kwargs", "learning_rate_mapping"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        if not isinstance(self.fixed_parameters, (list, tuple)) or not all(isinstance(each, str) for each in self.fixed_parameters):
            raise ValueError(f"fixed_parameters must be a sequence of regular expressions, got {self.fixed_parameters!r}")
        if self.train_sampling_strategy == "group_by_length" and self.batch_sampler != "batch_sampler":
            raise ValueError(f'train_sampling_strategy "group_by_length" cannot go with batch_sampler {self.batch_sampler!r}')
        if not isinstance(self.prompts, (str, Mapping, type(None))):
            raise ValueError(f"prompts must be a text, or texts by column, got {self.prompts!r}")
        if self.fp16:
            raise ValueError("fp16 must be False: training computes in float32, with bf16=True its products in bfloat16")
        if self.report_to not in ("none", [], None):
            raise ValueError(f'report_to must be "none": nothing is sent anywhere, got {self.report_to!r}')
        if self.warmup_ratio is not None and not (_is_number(self.warmup_ratio) and 0 <= self.warmup_ratio <= 1):
            raise ValueError(f"warmup_ratio must be a number in 0 .. 1, got {self.warmup_ratio!r}")
        if self.eval_steps is None:
            self.eval_steps = self.logging_steps
        if not _is_number(self.eval_steps) or not 0 <= self.eval_steps < math.inf:
            raise ValueError(f"eval_steps must be a number of at least 0, got {self.eval_steps!r}")
        if self.load_best_model_at_end and self._leaves_out_a_best():
            raise ValueError(
                "load_best_model_at_end needs a checkpoint at each evaluation: set save_strategy and save_steps as eval_strategy "
                f"and eval_steps; got {self.save_strategy!r}, {self.save_steps} and {self.eval_strategy!r}, {self.eval_steps}"
            )

    def _check_whole_numbers(self) -> None:
        for name, least in (("max_steps", None), ("save_total_limit", None), ("seed", 0), ("data_seed", 0)):
            value = getattr(self, name)
            if value is None and name in ("save_total_limit", "data_seed"):
                continue
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or (least is not None and value < least):
                raise ValueError(f"{name} must be a whole number{'' if least is None else f' of at least {least}'}, got {value!r}")

    def _leaves_out_a_best(self) -> bool:
        """Tell whether the model may be evaluated where no checkpoint is written."""
        if self.eval_strategy == "no":
            return False
        if self.save_strategy != self.eval_strategy:
            return True
        every, evaluated = float(self.save_steps), float(self.eval_steps or 0)
        # A share of all steps is compared with a share only.
        aligned = every > 0 and (every < 1) == (evaluated < 1) and math.isclose(evaluated / every, round(evaluated / every))
        return self.eval_strategy == "steps" and not (aligned and evaluated >= every)

    def _check_best(self, total: int) -> None:
        """Raise a ValueError if a run of so many steps is evaluated where no checkpoint is written: each share is rounded up."""
        if not self.load_best_model_at_end or self.eval_strategy != "steps":
            return
        evaluated = self.eval_steps or 0
        if (found := interval(evaluated, total)) % (every := interval(self.save_steps, total)):
            raise ValueError(
                f"load_best_model_at_end needs a checkpoint at each evaluation: of {total} steps, save_steps {self.save_steps} is "
                f"every {every}, and eval_steps {evaluated} every {found}"
            )

    def _check(self, name: str, known: tuple[str, ...]) -> None:
        if getattr(self, name) not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments by name.

        Returns
        -------
        dict of str to object
        """
        return dataclasses.asdict(self)


class SentenceTransformerTrainingArguments(TrainingArguments):
    """`TrainingArguments` of a `SentenceTransformerTrainer`."""


class CrossEncoderTrainingArguments(TrainingArguments):
    """`TrainingArguments` of a `CrossEncoderTrainer`."""
