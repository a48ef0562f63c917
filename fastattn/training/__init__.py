"""Learning: losses, optimisers, schedules and trainers, under the names of torch, transformers and sentence-transformers."""

from fastattn.checkpoint.lora_config import LoraConfig
from fastattn.training import cross_encoder_losses, evaluation, losses
from fastattn.training.arguments import CrossEncoderTrainingArguments, SentenceTransformerTrainingArguments, TrainingArguments
from fastattn.training.classification import ClassificationTrainer
from fastattn.training.cross_encoder_trainer import CrossEncoderTrainer
from fastattn.training.encoder import EncoderGraph
from fastattn.training.fit import InputExample
from fastattn.training.graph import Parameter, Tensor
from fastattn.training.language_modeling import LanguageModelingTrainer
from fastattn.training.new_tokenizer import new_tokenizer
from fastattn.training.optimizer import Optimizer, clip_grad_norm_
from fastattn.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from fastattn.training.schedules import LRScheduler, get_scheduler
from fastattn.training.sentence_transformer_trainer import SentenceTransformerTrainer
from fastattn.training.state import TrainerState, TrainOutput
from fastattn.training.trainable_encoder import TrainableEncoder, generate

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ClassificationTrainer",
    "CrossEncoderTrainer",
    "CrossEncoderTrainingArguments",
    "EncoderGraph",
    "InputExample",
    "LRScheduler",
    "LanguageModelingTrainer",
    "LoraConfig",
    "Optimizer",
    "Parameter",
    "RMSprop",
    "SentenceTransformerTrainer",
    "SentenceTransformerTrainingArguments",
    "Tensor",
    "TrainOutput",
    "TrainableEncoder",
    "TrainerState",
    "TrainingArguments",
    "clip_grad_norm_",
    "cross_encoder_losses",
    "evaluation",
    "generate",
    "get_scheduler",
    "losses",
    "new_tokenizer",
]
