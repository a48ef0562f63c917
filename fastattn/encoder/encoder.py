"""Encoder: checks arguments, and owns the packed weights and the tables by position."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import read_encoder
from fastattn.config import EncoderConfig, Precision, check_precision
from fastattn.encoder import forward, layers, packing
from fastattn.encoder.arguments import IDS, PLAIN, row_numbers
from fastattn.encoder.pack_cache import pack_or_load
from fastattn.encoder.padding import pack, unpack
from fastattn.encoder.recorder import Recorder
from fastattn.encoder.slower import warn_if_slower
from fastattn.encoder.tables import Tables
from fastattn.encoder.torch_names import TorchNames
from fastattn.kernels.encoder.pool import POOLINGS
from fastattn.kernels.ops._arrays import Array, checked_offsets, writable
from fastattn.kernels.records import Batch, Result
from fastattn.parameters import random_parameters
from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding

__all__ = ["Encoder", "EncoderConfig"]


class Encoder(TorchNames):
    """Transformer encoder.

    Parameters
    ----------
    config : EncoderConfig
        Sizes and choices.
    seed : int
        Of the random weights; not used with `parameters`.
    parameters : mapping of str to float32 arrays, optional
        Weights under the names that ``fastattn.reference.encoder`` takes; other floats are rounded.  They are packed once;
        matrices are not kept.  Layers that share an array object share its packed copy too.
    precision : {"float32", "bfloat16", "int8"}
        Of the arithmetic in the products of the layers; hidden states are float32.

    Raises
    ------
    TypeError
        `parameters` are no mapping, or one of them is no array of floats.
    ValueError
        A parameter is missing, has the wrong shape, or is not used with `config`; `precision` is unknown.
    MemoryError
        The parameters would not fit in the memory that is free; raised before any is allocated.

    Notes
    -----
    Each sequence is encoded by itself: its bits do not depend on the batch, the order, the threads or the schedule.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762; Devlin et al. 2018, arXiv:1810.04805.  Definition: fastattn.reference.encoder.
    """

    def __init__(
        self,
        config: EncoderConfig,
        seed: int = 0,
        *,
        parameters: Mapping[str, Array] | None = None,
        precision: Precision = "float32",
    ) -> None:
        self._precision = check_precision(precision)
        warn_if_slower(precision)
        if parameters is None:
            parameters = random_parameters(config, seed)
        self.config = config
        self._packed = pack_or_load(config, parameters, self._precision)
        self._format = packing.pack_format(precision)
        # Layers may share their arrays.
        self.parameters_count = sum(int(array.size) for array in {id(array): array for array in parameters.values()}.values())
        self._tables = Tables(config, self._packed.positions, self._packed.relative)

    @property
    def precision(self) -> Precision:
        """Precision of the arithmetic, fixed when the encoder is made."""
        return self._precision

    def __repr__(self) -> str:
        """Sizes, parameters and precision."""
        c = self.config
        sizes = f"num_layers={c.num_layers}, num_heads={c.num_heads}, hidden_dim={c.hidden_dim}, ff_dim={c.ff_dim}"
        return f"Encoder({sizes}, vocab_size={c.vocab_size}, {self.parameters_count:,} parameters, {self.precision})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the tables, which are computed again."""
        return {name: value for name, value in vars(self).items() if name != "_tables"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle.  Arrays over a shared buffer come back read-only, a type for which the kernels would be compiled anew."""
        packing.check_pack_format(state.get("_format"), state.get("_precision", "float32"))
        vars(self).update(state)
        self._packed = packing.Packed(*map(writable, self._packed))
        self._tables = Tables(self.config, self._packed.positions, self._packed.relative)

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | os.PathLike[str], precision: Precision = "float32", *, adapter: str | None = None
    ) -> Encoder:
        """Read the encoder of a checkpoint folder.

        Parameters
        ----------
        path_or_name : str or path
            A folder with ``config.json`` and safetensors weights, or a name as in `SentenceTransformer`.
        precision : {"float32", "bfloat16", "int8"}
            Of the arithmetic, whatever the dtype of the checkpoint.
        adapter : str, optional
            Task, of those for which the model has an adapter, for example "retrieval.query"; it is merged into the weights.

        Returns
        -------
        Encoder

        Raises
        ------
        FileNotFoundError
            The folder or a file in it is missing.
        ValueError
            The checkpoint is damaged or not supported, or has no such adapter; or `precision` is unknown.
        """
        check_precision(precision)
        config, parameters = read_encoder(find_model(path_or_name), adapter)
        return cls(config, parameters=parameters, precision=precision)

    @classmethod
    def from_torch(cls, module: Any, precision: Precision = "float32") -> Encoder:
        """Take over the encoder of a torch module, without keeping the module.

        Parameters
        ----------
        module : torch.nn.Module
            An encoder of transformers, ``torch.nn.TransformerEncoder`` or ``TransformerEncoderLayer``, or a model that holds
            one; of any dtype and on any device.  The result computes the same as the module in evaluation mode.
        precision : {"float32", "bfloat16", "int8"}
            Of the arithmetic, whatever the dtype of the module.

        Returns
        -------
        Encoder
            Of token ids for an encoder of transformers, of hidden states (B, T, C) for one of torch.

        Raises
        ------
        ImportError
            torch is not installed.
        TypeError
            `module` is not a torch module.
        ValueError
            It holds no encoder of a supported kind, or several; the message says which modules were found.  `precision` is
            unknown, or is not "float32" for a float64 module.
        """
        from fastattn.checkpoint.torch_module import read_module

        config, parameters = read_module(module, check_precision(precision))
        return cls(config, parameters=parameters, precision=precision)

    @overload
    def __call__(
        self,
        x: Any,
        attention_mask: Any = None,
        *,
        token_type_ids: Any = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
        return_hidden_states: Literal[False] = False,
        return_attention: Literal[False] = False,
    ) -> NDArray[np.float32]: ...

    @overload
    def __call__(
        self,
        x: Any,
        attention_mask: Any = None,
        *,
        token_type_ids: Any = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
        return_hidden_states: bool = False,
        return_attention: bool = False,
    ) -> Any: ...

    def __call__(
        self,
        x: Any,
        attention_mask: Any = None,
        *,
        token_type_ids: Any = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
        return_hidden_states: bool = False,
        return_attention: bool = False,
    ) -> Any:
        """Encode a batch.

        Parameters
        ----------
        x : int (B, T) or float (B, T, C)
            Token ids, or vectors that take the place of the token embeddings (of width E with an `embedding_dim`).
        attention_mask : bool or 0/1, (B, T), optional
            True marks a real token.  Padding is not read, takes up no position, and comes back as zeros.
        token_type_ids : int, (B, T), optional
            Zeros by default.
        training : bool
            Apply dropout: to the attention's output, and in the feed-forward network after the activation and at its end.
        rng : numpy.random.Generator, optional
            Source of the dropout; needed where `training` and the configuration's dropout ask for it.
        return_hidden_states : bool
            Return the hidden states of every layer too.
        return_attention : bool
            Return the attention weights of every layer and head too.

        Returns
        -------
        hidden : float32, (B, T, C)
            Alone, or with the following, the first of a tuple; the same bits either way.
        hidden_states : float32, (layers + 1, B, T, C)
            With `return_hidden_states`: the input of each layer, then `hidden`.
        attention : float32, (layers, B, H, T, T)
            With `return_attention`: the weight of token s in the context of token t, at [layer, b, head, t, s].  Rows of real
            tokens sum to 1; 0 from and to padding.  Below float32 they are those before the rounding to bfloat16.

        Raises
        ------
        TypeError
            `x` is neither int nor float, `token_type_ids` is not int, or `rng` is needed and is another object.
        ValueError
            A shape is wrong, an id is out of range, a sequence is longer than the positions, or `rng` is missing; hidden states
            or attention are asked for and dropout as well; `training` is set and the precision is not "float32".
        MemoryError
            The result and the working memory would not fit in the memory that is free; raised before anything is computed.

        Notes
        -----
        Memory O(layers B H T^2) for the attention: 18 MiB for the 72 heads of MiniLM and a text of 256 tokens.
        """
        if training and self.precision != "float32":
            raise ValueError(f'training needs precision="float32", got an encoder of {self.precision}: make another one to train')
        x = np.asarray(x)
        width, is_embedded = self.config.input_dim, x.dtype.kind == "f"
        if is_embedded and (x.ndim != 3 or x.shape[2] != width):
            raise ValueError(f"x must have shape (B, T, {width}) for hidden states, got {x.shape}")
        if not is_embedded and x.dtype.type not in IDS:
            raise TypeError(f"x must hold integer token ids or float hidden states, got {x.dtype}")
        if not is_embedded and x.ndim != 2:
            raise ValueError(f"x must have shape (B, T) for token ids, got {x.shape}")
        padded_bytes = 4 * x.shape[0] * x.shape[1] * self.config.hidden_dim
        check_large(2 * padded_bytes, "hidden states of {} x {} tokens, without and with padding,", *x.shape[:2])
        rows, offsets, types, real = pack(x, attention_mask, token_type_ids)
        recorder = None
        if return_hidden_states or return_attention:
            if training and self.config.dropout > 0:
                raise ValueError("return_hidden_states and return_attention show the encoder without dropout: leave out training")
            wanted = {"hidden_states": return_hidden_states, "attention": return_attention}
            recorder = Recorder(self.config, self._packed, real.shape, np.flatnonzero(real), offsets, None, **wanted)
        packed = self._encode(rows, offsets, types, training=training, rng=rng, recorder=recorder, reserved_bytes=padded_bytes)
        out = unpack(packed, real)
        if recorder is None:
            return out
        shown = ((return_hidden_states, recorder.hidden_states), (return_attention, recorder.attention))
        return (out, *(array for is_wanted, array in shown if is_wanted))

    def forward_packed(
        self,
        ids: Any,
        offsets: Any,
        *,
        token_type_ids: Any = None,
        pooling: str | None = None,
        normalize: bool = False,
        out: Array | None = None,
    ) -> NDArray[np.float32]:
        """Encode sequences that lie end to end, without padding.

        Parameters
        ----------
        ids : int (N,) or float (N, C)
            Token ids of all sequences, or vectors that take the place of the token embeddings (of width E with an
            `embedding_dim`).
        offsets : int, (B + 1,)
            Sequence b is tokens offsets[b] .. offsets[b + 1] - 1.
        token_type_ids : int, (N,), optional
            Zeros by default.
        pooling : "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken" or None
            How a sequence becomes one vector; None returns the hidden states of its tokens.
        normalize : bool
            Divide each pooled vector by its L2 norm, or by 1e-12 where that is less.
        out : float32, (B, C) or (N, C), optional
            Written and returned; C-contiguous.

        Returns
        -------
        float32, (B, C), or (N, C) without pooling

        Raises
        ------
        TypeError
            An array has the wrong dtype.
        ValueError
            A shape is wrong, the offsets do not rise from 0 to N, an id is out of range, or a sequence is longer than the
            positions.
        MemoryError
            The result and the working memory would not fit in the memory that is free; raised before anything is computed.
        """
        return encode_rows(self, ids, offsets, token_type_ids, pooling, normalize, out)

    def _encode(
        self,
        x: Array,
        offsets: NDArray[np.int64],
        token_type_ids: Any,
        pooling: str | None = None,
        normalize: bool = False,
        out: Array | None = None,
        *,
        training: bool = False,
        rng: np.random.Generator | None = None,
        recorder: Recorder | None = None,
        reserved_bytes: int = 0,
        keys: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Encode packed rows, after checking all that depends on the configuration.

        `keys` (B,): the first keys[b] tokens of sequence b are seen, and the others only see; all by default.
        """
        config, packed, c = self.config, self._packed, self.config.hidden_dim
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(map(repr, POOLINGS))}, got {pooling!r}")
        n, ids, input_embeds = int(offsets[-1]), np.empty(0, np.int32), np.empty(0, np.float32)
        if x.dtype.kind == "f":
            if x.shape != (n, config.input_dim):
                raise ValueError(f"hidden states must have shape ({n}, {config.input_dim}), got {x.shape}")
            with rounding():
                input_embeds = np.require(x, np.float32, PLAIN).reshape(-1)
        elif config.vocab_size is None:
            raise ValueError("this encoder has no token embedding (vocab_size is None): give it float hidden states")
        else:
            ids = row_numbers("token ids", x, (n,), config.vocab_size)
        types = np.empty(0, np.int32)
        if token_type_ids is not None and config.type_vocab_size:
            types = row_numbers("token_type_ids", token_type_ids, (n,), config.type_vocab_size)
        lengths = np.diff(offsets)
        longest = int(lengths.max(initial=0))
        embedded = self._tables.around_special(packed.embeddings, ids, offsets)
        if embedded is None:
            positions = self._tables.positions(longest)
        else:
            ids, input_embeds, positions = ids[:0], embedded, embedded[:0]
        shape = (len(offsets) - 1 if pooling else n, c)
        if out is None:
            reserved_bytes += 4 * shape[0] * c
            check_large(reserved_bytes, "hidden states of shape {}", shape)
            out = np.empty(shape, np.float32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.float32:
            raise TypeError(f"out must be a float32 array, got {getattr(out, 'dtype', type(out).__name__)}")
        elif out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"out must be a writable C-contiguous array of shape {shape}, got shape {out.shape}")
        if out.size == 0:
            return out
        rotary, relative = self._tables.rotary(longest), self._tables.relative(longest)
        batch = Batch(offsets, lengths if keys is None else keys, ids, types, input_embeds, positions, rotary, relative)
        if training and config.dropout > 0:
            if rng is None:
                raise ValueError("rng must be a numpy.random.Generator where training applies dropout, got None")
            if not isinstance(rng, np.random.Generator):
                raise TypeError(f"rng must be a numpy.random.Generator (default_rng makes one), got {type(rng).__name__}")
            out[...] = layers.forward_with_dropout(config, packed, batch, rng)
            return out
        result = Result(out.reshape(-1), POOLINGS[pooling], normalize)
        forward.run(config, packed, batch, result, recorder, reserved_bytes)
        return out


# Functions for this package, with arguments that the public methods do not show.
def encode_rows(
    encoder: Encoder,
    rows: Any,
    offsets: Any,
    token_type_ids: Any,
    pooling: str | None,
    normalize: bool = False,
    out: Array | None = None,
    reserved_bytes: int = 0,
) -> NDArray[np.float32]:
    """Encode as `Encoder.forward_packed`; the caller needs `reserved_bytes` afterwards, which must be free as well."""
    rows, offsets = np.asarray(rows), np.asarray(offsets)
    offsets = checked_offsets(offsets, len(rows))
    return encoder._encode(rows, offsets, token_type_ids, pooling, normalize, out, reserved_bytes=reserved_bytes)
