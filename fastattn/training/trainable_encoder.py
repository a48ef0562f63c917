"""An encoder with a head and a tokenizer, whose weights learn: of a folder, or from nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastattn.checkpoint.folder import CheckpointError, transformer_folder
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.lora import adapter_folder
from fastattn.checkpoint.lora_config import LoraConfig
from fastattn.checkpoint.reader import tasks_of
from fastattn.checkpoint.trainable import TrainableCheckpoint
from fastattn.checkpoint.weights import remove_other_weights
from fastattn.config import EncoderConfig, Precision
from fastattn.encoder.encoder import Encoder
from fastattn.runtime.files import write_json
from fastattn.tokenizer.tokenizer import Tokenizer, load_tokenizer
from fastattn.training.encoder import EncoderGraph
from fastattn.training.graph import Parameter, learning
from fastattn.training.lora import LoraGraph
from fastattn.training.model import HeadGraph
from fastattn.training.new_encoder import new_checkpoint

__all__ = ["TrainableEncoder", "generate"]

Task = Literal["masked-lm", "causal-lm", "sequence-classification", "token-classification"]
TASKS: tuple[Task, ...] = ("causal-lm", "masked-lm", "sequence-classification", "token-classification")
_WEIGHTS = "model.safetensors"


class TrainableEncoder:
    """Encoder with a head and a tokenizer, whose weights learn.

    Parameters
    ----------
    model_name_or_path : str or path
        A folder of transformers, or a name on the Hugging Face Hub, with a head for the task.
    task : {"masked-lm", "causal-lm", "sequence-classification", "token-classification"}, optional
        What the head is for; by default the first of these for which there is one, "causal-lm" before "masked-lm".
    dropout : float, optional
        Probability with which training drops an element of a hidden state; by default that of the configuration.
    num_labels : int, optional
        Number of classes: a head with random weights takes the place of one that is missing or has another number.
    seed : int
        Of these weights.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    CheckpointError
        A file is damaged or not supported, there is no such head, or the encoder of a "causal-lm" sees the words to predict.
    ValueError
        An argument has an unsupported value, or the encoder or the head has no gradient here.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, sections 3.1 and 3.2.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        task: Task | None = None,
        *,
        dropout: float | None = None,
        num_labels: int | None = None,
        seed: int = 0,
    ) -> None:
        if task is not None and task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        if dropout is not None and not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
        if num_labels is not None and (type(num_labels) is not int or num_labels < 1 or "classification" not in str(task)):
            raise ValueError(f"num_labels must be at least 1, and is of a classification alone, got {num_labels!r} for {task!r}")
        folder = transformer_folder(find_model(model_name_or_path))
        task = _task(folder) if task is None else task
        self._take(TrainableCheckpoint(folder, task, num_labels, seed), task, load_tokenizer(folder), dropout)

    def _take(self, checkpoint: TrainableCheckpoint, task: Task, tokenizer: Tokenizer, dropout: float | None) -> None:
        """Make parameters of a checkpoint's arrays."""
        self.task, self.config, self.tokenizer = task, checkpoint.config, tokenizer
        self._checkpoint = checkpoint
        if task == "causal-lm" and any(self.config.layer(i).window[1] != 0 for i in range(self.config.num_layers)):
            raise CheckpointError(f"{checkpoint.folder}: a layer sees what is behind a token, so the next word cannot be learned")
        if checkpoint.head is None:
            raise CheckpointError(f"{checkpoint.folder}: there is no head for {task}")
        self.dropout = self.config.dropout if dropout is None else dropout
        self.graph = EncoderGraph(self.config, checkpoint.parameters)
        self.head = HeadGraph(checkpoint.head, self.graph)
        self.id2label = dict(checkpoint.head.id2label)
        self.parameters: dict[str, Parameter] = {**self.graph.parameters, **self.head.parameters}
        self.adapter: LoraGraph | None = None
        self._precision: Precision = "float32"
        # As of a Transformer module.
        self.max_seq_length = min(tokenizer.model_max_length, self.config.max_positions)
        self.chat = None

    @classmethod
    def from_config(cls, config: EncoderConfig, tokenizer: Tokenizer, seed: int = 0) -> TrainableEncoder:
        """Make a model from nothing, with random weights.

        Parameters
        ----------
        config : EncoderConfig
            Sizes and choices, of a family in which transformers reads the model that is saved.  A Qwen2, for the next word: all
            layers see only what is before, positions "rotary", norm "rms" before each sublayer, gated.  A BERT, for masked
            words: learned positions, layer norms behind each sublayer, token types, no gate and no window.
        tokenizer : Tokenizer
            Its vocabulary has at most `config.vocab_size` tokens; `new_tokenizer` makes one.
        seed : int
            Of the weights: normal with standard deviation 0.02, as BERT starts.

        Returns
        -------
        TrainableEncoder

        Raises
        ------
        ValueError
            Neither family has such a configuration, or the vocabulary is larger than that of the configuration.
        """
        if config.vocab_size is not None and len(tokenizer) > config.vocab_size:
            raise ValueError(f"config: vocab_size must be at least {len(tokenizer)}, the tokenizer's, got {config.vocab_size}")
        checkpoint, task = new_checkpoint(config, tokenizer, seed)
        made = cls.__new__(cls)
        made._take(checkpoint, task, tokenizer, config.dropout)
        return made

    def __repr__(self) -> str:
        """Task and sizes."""
        c, count = self.config, sum(each.data.size for each in self.trained())
        return f"TrainableEncoder({self.task!r}, {c.num_layers} layers of {c.hidden_dim}, {count:,} parameters that learn)"

    def trained(self) -> Iterable[Parameter]:
        """Return each parameter that learns, once.

        Returns
        -------
        iterable of Parameter
        """
        return learning(self.parameters)

    def set_precision(self, precision: Precision) -> None:
        """Compute products with weights in another precision from the next forward on; a trainer does as its arguments say.

        Parameters
        ----------
        precision : {"float32", "bfloat16"}
            "bfloat16" rounds the operands; sums, weights and all else stay float32.

        Raises
        ------
        ValueError
            It is another one.
        """
        for part in (self.graph, self.head, self.adapter):
            if part is not None:
                part.set_precision(precision)
        self._precision = precision

    def refresh(self, *, learned: bool = False) -> None:
        """Take notice that parameters were changed.

        Parameters
        ----------
        learned : bool
            Only those that learn.
        """
        for part in (self.graph, self.head, self.adapter):
            if part is not None:
                part.refresh(learned=learned)

    def commit(self) -> None:
        """Do nothing: an encoder is made when it is asked for."""

    def encoder(self) -> Encoder:
        """Return an encoder with the weights as they are now.

        Returns
        -------
        Encoder
        """
        return Encoder(self.config, parameters=self._checkpoint.applied()[0])

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Let low-rank changes of some products learn in place of the weights, as `SentenceTransformer.add_adapter` does.

        Parameters
        ----------
        adapter_config : LoraConfig, or peft.LoraConfig
            Which products, and how.
        adapter_name : str, optional
            Ignored, for compatibility.

        Raises
        ------
        TypeError
            `adapter_config` is of another kind.
        ValueError
            The model has an adapter already, or no product that the configuration names.
        """
        self._checkpoint.add_adapter(LoraConfig.of(adapter_config))
        self._adapt()

    def load_adapter(self, peft_model_id: str | os.PathLike[str], adapter_name: str | None = None) -> None:
        """Take over the adapter of a folder, as `SentenceTransformer.load_adapter` does.

        Parameters
        ----------
        peft_model_id : str or path
            A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        adapter_name : str, optional
            Ignored, for compatibility.

        Raises
        ------
        CheckpointError
            The adapter is of another model, or not supported.
        """
        self._checkpoint.load_adapter(adapter_folder(peft_model_id))
        self._adapt()

    def _adapt(self) -> None:
        """Make parameters of the adapter's arrays."""
        self.adapter = LoraGraph.of(self._checkpoint.adapter, self.graph, self.head)
        if self.adapter is not None:
            self.parameters |= self.adapter.parameters
        self.set_precision(self._precision)
        # An adapter may bring tensors that replace the model's.
        self.refresh()

    def save_adapter(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the adapter alone, which peft and `load_adapter` read.

        Parameters
        ----------
        save_directory : str or path
            Folder to write; created if missing.

        Raises
        ------
        ValueError
            There is no adapter.
        """
        self._checkpoint.write_adapter(Path(save_directory), str(self._checkpoint.folder))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write a folder that transformers reads, and `Encoder.from_pretrained` and `SentenceTransformer` load.

        Parameters
        ----------
        save_directory : str or path
            Folder to write; created if missing.
        """
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        self._checkpoint.write(target / _WEIGHTS)
        remove_other_weights(target, (_WEIGHTS,))
        write_json(target / "config.json", self._checkpoint.settings)
        self.tokenizer.save_pretrained(target)


def _task(folder: Path) -> Task:
    """Return the task of a folder's head."""
    found = tasks_of(folder)
    for task in TASKS:
        if task in found:
            return task
    raise CheckpointError(f"{folder}: there is no head for {', '.join(TASKS)}, only for {', '.join(found) or 'nothing'}")


def generate(model: TrainableEncoder, prompt: str, max_new_tokens: int = 50, *, temperature: float = 0.0, seed: int = 0) -> str:
    """Continue a text, a token at a time: each from softmax(scores / temperature), or the one with the greatest score.

    Parameters
    ----------
    model : TrainableEncoder
        Of the task "causal-lm".
    prompt : str
        Beginning of the text; empty for what texts begin with.
    max_new_tokens : int
        Tokens that are added; fewer if the text ends.
    temperature : float
        0 takes the token with the greatest score; the larger, the more others are drawn.
    seed : int
        Of what is drawn.

    Returns
    -------
    str
        The continuation, without the prompt.

    Raises
    ------
    ValueError
        The model is of another task, `temperature` or `max_new_tokens` is negative, or the prompt is empty and the tokenizer has
        no token for the end of a text, behind which the next begins.

    Notes
    -----
    Every token is computed from the last `max_positions` tokens anew: O(T) forwards of up to T tokens.
    """
    if model.task != "causal-lm":
        raise ValueError(f'model must be of the task "causal-lm" to continue a text, got one of {model.task!r}')
    if not temperature >= 0 or max_new_tokens < 0:
        raise ValueError(f"temperature and max_new_tokens must be at least 0, got {temperature!r} and {max_new_tokens!r}")
    tokenizer, encoder, rng = model.tokenizer, model.encoder(), np.random.default_rng(seed)
    end = tokenizer.get_vocab().get(tokenizer.special_tokens_map.get("eos_token", ""))
    ids = list(tokenizer.encode(prompt, add_special_tokens=False)) or ([] if end is None else [end])
    if not ids:
        raise ValueError("prompt must not be empty: the tokenizer has no token for the end of a text")
    start = len(ids)
    while len(ids) - start < max_new_tokens:
        seen = np.array(ids[-model.config.max_positions :], np.int32)
        hidden = encoder.forward_packed(seen, np.array([0, len(seen)]), pooling="lasttoken")
        # Rows of the table behind the vocabulary are of no token.
        scores = model.head.next_scores(hidden)[0, : len(tokenizer)].astype(np.float64)
        if temperature:
            weights = np.exp((scores - scores.max()) / temperature)
            chosen = int(rng.choice(len(weights), p=weights / weights.sum()))
        else:
            chosen = int(scores.argmax())
        if chosen == end:
            break
        ids.append(chosen)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)
