"""A text model as a graph: from token ids of a batch to embeddings or scores through which gradients flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.heads import StoredHead
from fastattn.config import Precision
from fastattn.kernels.backward.cross_entropy import cross_entropy
from fastattn.text.batches import TokenRow, end_to_end, gathered
from fastattn.text.modules import Dense, Dropout, Module, Normalize, Pooling, StaticEmbedding, Transformer
from fastattn.text.modules.learned import learn
from fastattn.training import arithmetic, functions
from fastattn.training.encoder import EncoderGraph, place_of
from fastattn.training.graph import Parameter, Tensor, learning
from fastattn.training.lora import LoraGraph
from fastattn.training.pooling import pooled
from fastattn.training.static import StaticGraph

__all__ = ["HeadGraph", "ModelGraph", "packed"]

Array = NDArray[Any]

# Rows whose scores over a vocabulary are held at once.
_ROWS = 256
# Activations of torch.nn, by class name, that have a gradient here.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": arithmetic.tanh,
    "ReLU": arithmetic.relu,
    "Sigmoid": arithmetic.sigmoid,
    "GELU": lambda x: functions.activation(x, "gelu"),
    "SiLU": lambda x: functions.activation(x, "silu"),
}


def _activation_of(module: Dense) -> str:
    """Return the class name of a Dense's activation, without the torch modules before it; of a function its description."""
    given = module.activation_function
    return given.rpartition(".")[2] if isinstance(given, str) else str(given)


class _Packed(NamedTuple):
    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    types: NDArray[np.int32] | None


def packed(rows: Sequence[TokenRow]) -> _Packed:
    """Return rows end to end."""
    found = gathered(rows)
    return _Packed(*end_to_end(found.ids), None if found.types is None else np.concatenate(found.types))


class HeadGraph:
    """Steps of a head on the hidden states of packed sequences.

    Parameters
    ----------
    head : StoredHead
        Its arrays are changed in place.
    encoder : EncoderGraph
        A weight of the head that is its token table too is one parameter with it.
    """

    def __init__(self, head: StoredHead, encoder: EncoderGraph) -> None:
        if head.pooling not in ("cls", "mean", "lasttoken", None) or head.end is not None or head.pooled_step:
            raise ValueError(f"a head with pooling {head.pooling!r} cannot be trained yet")
        self._head = head
        self.parameters: dict[str, Parameter] = {}
        known = {place_of(each.data): each for each in encoder.parameters.values()}
        self._made: list[dict[str, Parameter]] = []
        for i, step in enumerate(head.steps):
            parts = {name: getattr(step, name) for name in ("weight", "bias", "norm_weight", "norm_bias")}
            made = {
                name: known.get(place_of(array)) or Parameter(array, f"head.{i}.{name}")
                for name, array in parts.items()
                if array is not None
            }
            self.parameters |= {each.name: each for each in made.values()}
            self._made.append(made)
        self._linears = [functions.Linear([made["weight"]], [made.get("bias")]) for made in self._made]
        self.adapter: LoraGraph | None = None
        self._precision: Precision = "float32"

    def set_precision(self, precision: Precision) -> None:
        """Compute products with weights in another precision from the next forward on."""
        self._precision = precision
        for linear in self._linears:
            linear.set_precision(precision)

    def refresh(self, *, learned: bool = False) -> None:
        """Take notice that parameters were changed; with `learned`, those that learn."""
        for linear in self._linears:
            linear.refresh(learned=learned)

    def __call__(self, hidden: Tensor, offsets: NDArray[np.int64], drop: functions.Dropout) -> Tensor:
        """Return scores: a row for each sequence, or for each token without pooling."""
        x = hidden if self._head.pooling is None else pooled(hidden, offsets, self._head.pooling)
        # Dropout stands before the last product, as in transformers' heads.
        return self._step(len(self._made) - 1, drop(self._before_last(x, drop)), drop)

    def cross_entropy(self, hidden: Tensor, targets: NDArray[np.int64], drop: functions.Dropout) -> Tensor:
        """Return the mean cross-entropy of hidden states (N, C) against words (N,): rows x vocabulary are never held."""
        last, made = self._head.steps[-1], self._made[-1]
        if last.activation is not None or last.norm_weight is not None:
            raise ValueError("a language model's head whose last step has an activation or a norm cannot be trained yet")
        hidden = self._before_last(hidden, drop)
        return functions.linear_cross_entropy(hidden, made["weight"], made.get("bias"), targets, self._precision)

    def measure(self, hidden: Tensor, targets: NDArray[np.int64]) -> tuple[float, float]:
        """Return the mean cross-entropy against words (N,), and the share of rows whose greatest score is their word's."""
        x, loss, hits = self._before_last(hidden, functions.Dropout()).data, 0.0, 0
        for at in range(0, len(x), _ROWS):
            scores, words = self.scores(x[at : at + _ROWS]), targets[at : at + _ROWS]
            loss += float(cross_entropy(scores, words, reduction="sum"))
            hits += int((scores.argmax(axis=1) == words).sum())
        return loss / len(x), hits / len(x)

    def next_scores(self, hidden: Array) -> Array:
        """Return the scores of all words for hidden states (N, C)."""
        return self.scores(self._before_last(Tensor(hidden), functions.Dropout()).data)

    def scores(self, x: Array) -> Array:
        """Return the result of the last step alone."""
        return self._step(len(self._made) - 1, Tensor(x), functions.Dropout()).data

    def _before_last(self, x: Tensor, drop: functions.Dropout) -> Tensor:
        for i in range(len(self._made) - 1):
            x = self._step(i, x, drop)
        return x

    def _step(self, i: int, x: Tensor, drop: functions.Dropout) -> Tensor:
        name, made = self._head.steps[i].activation, self._made[i]
        y = self._linears[i](x)
        x = y if self.adapter is None else self.adapter.add(y, x, [made["weight"]], drop)
        x = arithmetic.tanh(x) if name == "tanh" else x if name is None else functions.activation(x, name)
        if "norm_weight" in made:
            x = functions.norm(x, made["norm_weight"], made.get("norm_bias"), self._head.layer_norm_eps, is_rms=False)
        return x


class ModelGraph:
    """The modules of a SentenceTransformer, or the encoder and head of a CrossEncoder, whose parameters learn in place.

    Parameters
    ----------
    modules : sequence of Module
        A `Transformer` or a `StaticEmbedding` first.

    Raises
    ------
    ValueError
        A module has no gradient here.
    CheckpointError
        The checkpoint cannot be written back.
    """

    def __init__(self, modules: Sequence[Module]) -> None:
        first = modules[0]
        self.first: Transformer | StaticEmbedding
        self.adapter: LoraGraph | None = None
        self.head: HeadGraph | None = None
        self.encoder: EncoderGraph | StaticGraph
        if isinstance(first, StaticEmbedding):
            self.first, self.dropout = first, 0.0
            self.encoder = StaticGraph(first)
        elif isinstance(first, Transformer):
            self.first, checkpoint = first, learn(first).checkpoint
            # Dropout is that of the loaded configuration, which arguments may have changed.
            self.dropout = first.encoder.config.dropout
            self.encoder = EncoderGraph(checkpoint.config, checkpoint.parameters)
            self.head = None if checkpoint.head is None else HeadGraph(checkpoint.head, self.encoder)
            self.adapter = LoraGraph.of(checkpoint.adapter, self.encoder, self.head)
        else:
            kinds = "a Transformer or a StaticEmbedding"
            raise ValueError(f"the first module of a model that is trained must be {kinds}, got {type(first).__name__}")
        self._modules = list(modules[1:])
        self._dense: dict[int, tuple[functions.Linear, functions.Linear | None]] = {}
        self.parameters: dict[str, Parameter] = dict(self.encoder.parameters)
        if self.head is not None:
            self.parameters |= self.head.parameters
        if self.adapter is not None:
            self.parameters |= self.adapter.parameters
        for i, module in enumerate(self._modules):
            self._add(i, module)

    def _add(self, index: int, module: Module) -> None:
        """Check a module behind the first, and make its parameters."""
        if isinstance(module, Dense):
            name = _activation_of(module)
            if name not in _ACTIVATIONS:
                raise ValueError(f"a Dense with activation {name} cannot be trained; supported: {', '.join(_ACTIVATIONS)}")
            module.learn()
            stem = f"{index + 1}.linear"
            weight = Parameter(module.weight, f"{stem}.weight")
            bias = None if module.bias_weight is None else Parameter(module.bias_weight, f"{stem}.bias")
            residual = None if module.residual is None else Parameter(module.residual, f"{index + 1}.residual.weight")
            self.parameters |= {each.name: each for each in (weight, bias, residual) if each is not None}
            beside = None if residual is None else functions.Linear([residual], [None])
            self._dense[index] = functions.Linear([weight], [bias]), beside
        elif not isinstance(module, (Pooling, Normalize, Dropout)):
            raise ValueError(f"module {type(module).__name__} cannot be trained; supported: Dense, Dropout, Normalize, Pooling")

    def trained(self) -> Iterator[Parameter]:
        """Return each parameter that learns, once."""
        return learning(self.parameters)

    def set_precision(self, precision: Precision) -> None:
        """Compute products with weights in another precision from the next forward on."""
        dense = [each for pair in self._dense.values() for each in pair]
        for part in (self.encoder, self.head, self.adapter, *dense):
            if part is not None:
                part.set_precision(precision)

    def refresh(self, *, learned: bool = False) -> None:
        """Take notice that parameters were changed; with `learned`, those that learn."""
        dense = [each for pair in self._dense.values() for each in pair]
        for part in (self.encoder, self.head, self.adapter, *dense):
            if part is not None:
                part.refresh(learned=learned)

    def check_adapter(self) -> None:
        """Raise a ValueError if the model got an adapter after the graph was made."""
        if not isinstance(self.first, Transformer) or self.adapter is not None:
            return
        if learn(self.first).checkpoint.adapter is not None:
            raise ValueError(
                "model has an adapter that its trainer does not know: make the trainer after add_adapter or load_adapter"
            )

    def commit(self) -> None:
        """Let the model encode with the parameters as they are now."""
        if isinstance(self.first, Transformer):
            learn(self.first).install(self.first)
        else:
            self.first.install()

    def __call__(self, rows: Sequence[TokenRow], key: Sequence[int] | None = None) -> Tensor:
        """Return the embeddings (B, C), or the scores, of a batch.

        key: what the masks of dropout follow from; None for no dropout.
        """
        ids, offsets, types = packed(rows)
        drop = functions.Dropout(0.0 if key is None else self.dropout, () if key is None else key)
        x = self.encoder(ids, offsets, types, drop)
        if self.head is not None:
            return self.head(x, offsets, drop)
        for i, module in enumerate(self._modules):
            if isinstance(module, Pooling):
                skips = None if module.include_prompt else np.array([row.prompt_tokens for row in rows], np.int64)
                parts = [pooled(x, offsets, mode, skips) for mode in module.modes]
                x = parts[0] if len(parts) == 1 else arithmetic.concatenate(parts, axis=1)
            elif isinstance(module, Normalize):
                x = arithmetic.normalize(x)
            elif isinstance(module, Dense):
                linear, beside = self._dense[i]
                y = _ACTIVATIONS[_activation_of(module)](linear(x))
                x = y if not module.use_residual else y + (x if beside is None else beside(x))
        return x
