"""Makes the trainer of a command: which model, which data, which loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.lora_config import LoraConfig
from fastattn.cli.training_data import read_columns, read_documents
from fastattn.config import EncoderConfig
from fastattn.training import cross_encoder_losses, losses
from fastattn.training.arguments import TrainingArguments
from fastattn.training.data import LABELS
from fastattn.training.trainer import Trainer

__all__ = ["Lora", "Request", "Sizes", "check_request", "learning_rate", "make_trainer"]

# Losses that are made of a model alone, or of it and what the data tell.
_OF_EMBEDDINGS = (
    "MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss",
    "CosineSimilarityLoss", "CoSENTLoss", "AnglELoss", "ContrastiveLoss", "OnlineContrastiveLoss", "TripletLoss", "MarginMSELoss",
    "SoftmaxLoss",
)  # fmt: skip
_IN_BATCH = ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss")
_OF_SCORES = tuple(cross_encoder_losses.__all__)
_RATES = {"nothing": 1e-3, "lora": 2e-4, "words": 5e-5, "rows": 2e-5}
_LENGTH = 128
_ALL = "all-linear"
# By the arguments of LoraConfig that errors begin with.
_LORA_OPTIONS = {"target_modules": "--lora-target", "lora_alpha": "--lora-alpha"}


class Sizes(NamedTuple):
    """Sizes of a model from nothing, None where the command says nothing."""

    layers: int | None
    heads: int | None
    dim: int | None
    ff: int | None
    vocab_size: int | None


class Lora(NamedTuple):
    """A LoRA adapter: rank, None for none, alpha, and the products that it changes."""

    r: int | None = None
    alpha: float | None = None
    targets: Sequence[str] = ()

    def adapt(self, model: Any, task_type: str | None = None, seed: int = 0) -> None:
        """Add the adapter, if there is one, to a model."""
        if self.r is None:
            return
        target: Any = list(self.targets) or None
        target = _ALL if target == [_ALL] else target
        alpha = self.r if self.alpha is None else self.alpha
        try:
            model.add_adapter(LoraConfig(r=self.r, lora_alpha=alpha, target_modules=target, task_type=task_type, seed=seed))
        except CheckpointError:
            raise
        except ValueError as error:
            option = next((option for name, option in _LORA_OPTIONS.items() if str(error).startswith(name)), None)
            if option is None:
                raise
            raise ValueError(f"{option}: {error}") from error


class Request(NamedTuple):
    """What is asked for: files, and how they are read; the model, and what it learns."""

    data: str
    evaluation: str | None
    format: str | None
    columns: Sequence[str]
    paragraphs: bool
    encoding: str
    model: str | None
    loss: str | None
    mlm: bool
    causal: bool
    sizes: Sizes
    length: int | None
    dropout: float | None
    seed: int
    lora: Lora

    @property
    def of_words(self) -> bool:
        """Whether words are predicted."""
        return self.mlm or self.causal

    @property
    def is_new(self) -> bool:
        """Whether the model is made from nothing."""
        return self.of_words and self.model is None


Callback = Callable[[Any, dict[str, Any]], object]


def learning_rate(request: Request) -> float:
    """Return the usual learning rate."""
    return _RATES["nothing" if request.is_new else "lora" if request.lora.r else "words" if request.of_words else "rows"]


def check_request(request: Request) -> None:
    """Raise ValueError for options that exclude each other."""
    if request.mlm and request.causal:
        raise ValueError("--mlm and --causal: a model predicts masked words or the next word, not both")
    given = [f"--{name.replace('_', '-')}" for name, value in request.sizes._asdict().items() if value is not None]
    if given and not request.is_new:
        raise ValueError(f"{given[0]}: goes with --mlm or --causal without --model, which make a model from nothing")
    if request.lora.r is None and (request.lora.alpha is not None or request.lora.targets):
        raise ValueError(f"--lora-{'target' if request.lora.targets else 'alpha'}: goes with --lora-r")
    if request.lora.r is not None and request.is_new:
        raise ValueError("--lora-r: a model from nothing has no weights to keep: give --model")
    if request.of_words and request.loss is not None:
        raise ValueError(f"--loss: --{'mlm' if request.mlm else 'causal'} has its own, cross-entropy")
    if request.of_words and len(request.columns) > 1:
        raise ValueError(f"--column: predicted words stand in one column, got {', '.join(request.columns)}")
    if not request.of_words and (request.length is not None or request.paragraphs):
        raise ValueError(f"{'--paragraphs' if request.paragraphs else '--length'}: goes with --mlm and --causal")
    if request.dropout is not None and not 0 <= request.dropout < 1:
        raise ValueError(f"--dropout must be in 0 .. 1, without 1, got {request.dropout}")
    known = (*_OF_EMBEDDINGS, *_OF_SCORES)
    if request.loss is not None and request.loss not in known:
        raise ValueError(f"--loss must be one of {', '.join(dict.fromkeys(known))}, got {request.loss!r}")


def make_trainer(request: Request, args: TrainingArguments, callbacks: Sequence[Callback]) -> Trainer:
    """Read the data, load or make the model, and return its trainer."""
    return _of_words(request, args, callbacks) if request.of_words else _of_rows(request, args, callbacks)


def _of_words(request: Request, args: TrainingArguments, callbacks: Sequence[Callback]) -> Trainer:
    from fastattn.training.language_modeling import LanguageModelingTrainer
    from fastattn.training.trainable_encoder import TrainableEncoder

    reading: dict[str, Any] = {
        "kind": request.format,
        "column": request.columns[0] if request.columns else None,
        "paragraphs": request.paragraphs,
        "encoding": request.encoding,
        "whole": request.causal,
    }
    texts = read_documents(request.data, **reading)
    evaluation = None if request.evaluation is None else read_documents(request.evaluation, **reading)
    if request.model is None:
        model = _new(request, texts)
    else:
        model = TrainableEncoder(request.model, "causal-lm" if request.causal else "masked-lm", dropout=request.dropout)
        request.lora.adapt(model, seed=request.seed)
    return LanguageModelingTrainer(model, args, texts, evaluation, block_size=request.length, callbacks=callbacks)


def _new(request: Request, texts: list[str]) -> Any:
    """Return a model from nothing, with a tokenizer of the texts."""
    from fastattn.training.new_tokenizer import new_tokenizer
    from fastattn.training.trainable_encoder import TrainableEncoder

    sizes, length = request.sizes, request.length or _LENGTH
    tokenizer = new_tokenizer(texts, causal=request.causal, vocab_size=sizes.vocab_size, model_max_length=length)
    dim = sizes.dim or 128
    fields: dict[str, Any] = {
        "num_layers": sizes.layers or 4,
        "num_heads": sizes.heads or 4,
        "hidden_dim": dim,
        "ff_dim": sizes.ff or 4 * dim,
        "dropout": request.dropout or 0.0,
        "vocab_size": len(tokenizer),
        "max_positions": length,
    }
    if request.causal:
        fields |= {
            "activation": "silu",
            "norm": "rms",
            "norm_first": True,
            "layer_norm_eps": 1e-6,
            "positions": "rotary",
            "is_causal": True,
            "gated": True,
        }
    else:
        fields |= {"positions": "learned", "type_vocab_size": 2}
    return TrainableEncoder.from_config(EncoderConfig(**fields), tokenizer, request.seed)


def _of_rows(request: Request, args: TrainingArguments, callbacks: Sequence[Callback]) -> Trainer:
    from fastattn.cli.check import check_model
    from fastattn.text.cross_encoder import CrossEncoder
    from fastattn.text.sentence_transformer import SentenceTransformer
    from fastattn.training.classification import ClassificationTrainer
    from fastattn.training.cross_encoder_trainer import CrossEncoderTrainer
    from fastattn.training.sentence_transformer_trainer import SentenceTransformerTrainer
    from fastattn.training.trainable_encoder import TrainableEncoder

    reading: dict[str, Any] = {"kind": request.format, "columns": request.columns, "encoding": request.encoding}
    data = read_columns(request.data, **reading)
    evaluation = None if request.evaluation is None else read_columns(request.evaluation, **reading)
    texts, has_labels = [name for name in data if name not in LABELS], any(name in LABELS for name in data)
    report = check_model(_named(request.model))
    if not report["loads"]:
        raise ValueError(str(report["problem"]))
    if len(texts) == 1 and has_labels:
        if request.loss is not None:
            raise ValueError(f"--loss: labelled texts have their own, cross-entropy; found columns {', '.join(data)}")
        # A classifier that is there keeps its classes.
        classes = None if "EncoderForSequenceClassification" in report.get("also", []) else _classes(data)
        task: Any = "sequence-classification"
        classifier = TrainableEncoder(report["folder"], task, dropout=request.dropout, num_labels=classes, seed=request.seed)
        request.lora.adapt(classifier, "SEQ_CLS", request.seed)
        return ClassificationTrainer(classifier, args, data, evaluation, callbacks=callbacks)
    options = {} if request.dropout is None else {"hidden_dropout_prob": request.dropout}
    known = _OF_SCORES if report["as"] == "CrossEncoder" else _OF_EMBEDDINGS
    if request.loss is not None and request.loss not in known:
        raise ValueError(f"--loss must be one of {', '.join(known)} for a {report['as']}, got {request.loss!r}")
    if report["as"] == "CrossEncoder":
        scorer = CrossEncoder(request.model, config_kwargs=options)
        request.lora.adapt(scorer, "SEQ_CLS", request.seed)
        made = None if request.loss is None else getattr(cross_encoder_losses, request.loss)(scorer)
        return CrossEncoderTrainer(scorer, args, data, evaluation, made, callbacks=callbacks)
    if len(texts) == 1:
        raise ValueError(
            f"{request.data}: one column of texts and no labels, got {', '.join(data)}: pairs, triplets, or a column "
            "named label or score are needed; --mlm and --causal train on texts alone"
        )
    model = SentenceTransformer(request.model, config_kwargs=options)
    request.lora.adapt(model, seed=request.seed)
    name = request.loss or ("CoSENTLoss" if has_labels else "MultipleNegativesRankingLoss")
    if name in _IN_BATCH:
        _check_batches(len(data[texts[0]]), args, name)
    return SentenceTransformerTrainer(model, args, data, evaluation, _loss(name, model, data), callbacks=callbacks)


def _named(model: str | None) -> str:
    from fastattn.checkpoint.hub import DEFAULT_MODEL

    return DEFAULT_MODEL if model is None else model


def _loss(name: str, model: Any, data: dict[str, list[Any]]) -> Any:
    """Return a loss; that of classes has as many as the labels say."""
    if name != "SoftmaxLoss":
        return getattr(losses, name)(model)
    return losses.SoftmaxLoss(model, model.get_embedding_dimension(), _classes(data))


def _classes(data: dict[str, list[Any]]) -> int:
    """Return the number of classes that the labels name."""
    labels = next((values for column, values in data.items() if column in LABELS), None)
    if labels is None or not all(type(label) is int and label >= 0 for label in labels):
        raise ValueError(f"classes must be whole numbers from 0, in a column named label; found columns {', '.join(data)}")
    return int(max(labels)) + 1


def _check_batches(rows: int, args: TrainingArguments, loss: str) -> None:
    """Raise for batches of one row, in which nothing is a negative; leave out a last one."""
    size = args.per_device_train_batch_size
    if min(size, rows) < 2:
        raise ValueError(
            f"--batch-size must be at least 2, and the data too, for {loss}: the other rows of a batch are the negatives; "
            f"got {size} for {rows} rows"
        )
    args.dataloader_drop_last = args.dataloader_drop_last or rows % size == 1
