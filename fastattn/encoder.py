"""Encoder: checks at the boundary, owns the packed weights and the workspace, chooses the schedule."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn import _packing, _training
from fastattn.checkpoint import read_encoder
from fastattn.config import EncoderConfig
from fastattn.kernels._arrays import Array, aligned_empty, panels
from fastattn.kernels._attend import scratch_size
from fastattn.kernels._jit import thread_count
from fastattn.kernels._layer import FF_ROWS, ff_stride, tail_scratch
from fastattn.kernels._pool import POOLINGS
from fastattn.kernels._schedule import encoder_kernel, latency_steps, throughput_steps
from fastattn.lookup import find_model

__all__ = ["Encoder", "EncoderConfig"]

# Tokens of a chunk: enough rows that streaming the weights costs nothing, few enough that activations stay in the cache.
CHUNK_TOKENS = 128
# Fewer rows a thread than this, and the threads share the columns of the weights, each of which is then read once.
_ROWS_PER_THREAD = 24
# Chunks are handed out where they keep the threads busy for this share of the time, and the steps are shared otherwise.
_BALANCED = 0.8
_FLOP_PER_US = 2e5
_IDS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)

_workspace = threading.local()


def _scratch(name: str, size: int) -> Array:
    """Return this thread's array of that name, of at least `size` elements; kept from call to call."""
    array: Array | None = getattr(_workspace, name, None)
    if array is None or array.size < size:
        array = aligned_empty(size, np.float32)
        setattr(_workspace, name, array)
    return array[:size]


class Encoder:
    """Transformer encoder.

    Parameters
    ----------
    config : EncoderConfig
        Sizes and choices.
    seed : int
        Of the random weights; not used with `parameters`.
    parameters : mapping of str to float32 arrays, optional
        Weights under the names that ``fastattn.reference.encoder`` takes.  They are packed once; matrices are not kept.

    Raises
    ------
    ValueError
        A parameter is missing or has the wrong shape.

    Notes
    -----
    Each sequence is encoded by itself: its bits do not depend on the batch, the order, the threads or the schedule.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762; Devlin et al. 2018, arXiv:1810.04805.  Definition: fastattn.reference.encoder.
    """

    def __init__(self, config: EncoderConfig, seed: int = 0, *, parameters: Mapping[str, Array] | None = None) -> None:
        if parameters is None:
            parameters = _packing.random_parameters(config, seed)
        self.config = config
        self.parameters_count = sum(int(array.size) for array in parameters.values())
        self._packed = _packing.pack(config, parameters)

    @classmethod
    def from_pretrained(cls, path_or_name: str | os.PathLike[str], precision: str = "float32") -> Encoder:
        """Read the encoder of a checkpoint folder.

        Parameters
        ----------
        path_or_name : str or path
            A folder with ``config.json`` and safetensors weights, or a name as in `SentenceTransformer`.
        precision : "float32"
            Of the arithmetic.

        Returns
        -------
        Encoder

        Raises
        ------
        FileNotFoundError
            The folder or a file in it is missing.
        ValueError
            The checkpoint is damaged or not supported, or `precision` is not.
        """
        if precision != "float32":
            raise ValueError(f'precision must be "float32", got {precision!r}')
        config, parameters = read_encoder(find_model(path_or_name))
        return cls(config, parameters=parameters)

    def __call__(
        self,
        x: Any,
        attention_mask: Any = None,
        *,
        token_type_ids: Any = None,
        training: bool = False,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.float32]:
        """Encode a batch.

        Parameters
        ----------
        x : int (B, T) or float (B, T, C)
            Token ids, or vectors that take the place of the token embeddings.
        attention_mask : bool or 0/1, (B, T), optional
            True marks a real token.  The others are not read, take up no position, and come back as zeros.
        token_type_ids : int, (B, T), optional
            Zeros by default.
        training : bool
            Apply dropout: to the attention's output, and in the feed-forward network after the activation and at its end.
        rng : numpy.random.Generator, optional
            Source of the dropout; needed where `training` and the configuration's dropout ask for it.

        Returns
        -------
        float32, (B, T, C)

        Raises
        ------
        TypeError
            `x` is neither int nor float, or `token_type_ids` is not int.
        ValueError
            A shape is wrong, an id is out of range, a sequence is longer than the positions, or `rng` is missing.
        """
        x = np.asarray(x)
        c = self.config.hidden_dim
        given = x.dtype.kind == "f"
        if given and (x.ndim != 3 or x.shape[2] != c):
            raise ValueError(f"x must have shape (B, T, {c}) for hidden states, got {x.shape}")
        if not given and x.dtype.type not in _IDS:
            raise TypeError(f"x must hold integer token ids or float hidden states, got {x.dtype}")
        if not given and x.ndim != 2:
            raise ValueError(f"x must have shape (B, T) for token ids, got {x.shape}")
        real = self._mask(attention_mask, x.shape[:2])
        offsets = np.concatenate([[0], np.cumsum(real.sum(axis=1))]).astype(np.int64)
        types = None
        if token_type_ids is not None:
            types = np.asarray(token_type_ids)
            if types.shape != x.shape[:2]:
                raise ValueError(f"token_type_ids must have shape {x.shape[:2]}, got {types.shape}")
            types = types[real]
        packed = self._encode(x[real], offsets, types, None, False, training, rng)
        out = np.zeros((*x.shape[:2], c), np.float32)
        out[real] = packed
        return out

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
            Token ids of all sequences, or vectors that take the place of the token embeddings.
        offsets : int, (B + 1,)
            Sequence b is tokens offsets[b] .. offsets[b + 1] - 1.
        token_type_ids : int, (N,), optional
            Zeros by default.
        pooling : "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken" or None
            How a sequence becomes one vector; None leaves its tokens.
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
        """
        ids, offsets = np.asarray(ids), np.asarray(offsets)
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
            raise ValueError(f"offsets must be whole numbers of shape (B + 1,), got {offsets.dtype} of shape {offsets.shape}")
        offsets = offsets.astype(np.int64, copy=False)
        if offsets[0] != 0 or offsets[-1] != len(ids) or np.any(offsets[1:] < offsets[:-1]):
            raise ValueError(f"offsets must rise from 0 to N = {len(ids)}, got {offsets[0]} .. {offsets[-1]}")
        return self._encode(ids, offsets, token_type_ids, pooling, normalize, False, None, out)

    def _mask(self, attention_mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        if attention_mask is None:
            return np.ones(shape, np.bool_)
        mask = np.asarray(attention_mask)
        if mask.shape != shape:
            raise ValueError(f"attention_mask must have shape (B, T) = {shape}, got {mask.shape}")
        if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
            raise ValueError(f"attention_mask must hold bool or 0 and 1 (1 is a real token), got {mask.dtype} with other values")
        return mask.astype(np.bool_)

    def _whole_numbers(self, name: str, values: Any, shape: tuple[int, ...], limit: int) -> NDArray[np.int32]:
        array = np.asarray(values)
        if array.dtype.type not in _IDS:
            raise TypeError(f"{name} must be whole numbers, got {array.dtype}")
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        if array.size and (int(array.min()) < 0 or int(array.max()) >= limit):
            wrong = array[(array < 0) | (array >= limit)][0]
            raise ValueError(f"{name} must be in 0 .. {limit - 1}, got {wrong}")
        return np.ascontiguousarray(array, np.int32)

    def _positions(self, longest: int) -> Array:
        """Return the table of positions, flat; empty for none."""
        config = self.config
        if config.positions == "learned" and longest > config.max_positions:
            raise ValueError(f"a sequence of {longest} tokens is longer than the {config.max_positions} positions of the model")
        if config.positions != "sinusoidal":
            return self._packed.positions
        t = np.arange(longest)[:, None]
        pair = np.arange(config.hidden_dim) // 2 * 2
        angle = t / 10000.0 ** (pair / config.hidden_dim)
        return np.where(np.arange(config.hidden_dim) % 2, np.cos(angle), np.sin(angle)).astype(np.float32).reshape(-1)

    def _encode(
        self,
        x: Array,
        offsets: NDArray[np.int64],
        token_type_ids: Any,
        pooling: str | None,
        normalize: bool,
        training: bool,
        rng: np.random.Generator | None,
        out: Array | None = None,
    ) -> NDArray[np.float32]:
        config, packed = self.config, self._packed
        c = config.hidden_dim
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(map(repr, POOLINGS))}, got {pooling!r}")
        n = int(offsets[-1])
        ids, given, tokens = np.empty(0, np.int32), np.empty(0, np.float32), packed.tokens
        if x.dtype.kind == "f":
            if x.shape != (n, c):
                raise ValueError(f"hidden states must have shape ({n}, {c}), got {x.shape}")
            given, tokens = np.ascontiguousarray(x, np.float32).reshape(-1), given
        elif config.vocab_size is None:
            raise ValueError("this encoder has no token embedding (vocab_size is None): give it float hidden states")
        else:
            ids = self._whole_numbers("token ids", x, (n,), config.vocab_size)
        types = np.empty(0, np.int32)
        if token_type_ids is not None and config.type_vocab_size:
            types = self._whole_numbers("token_type_ids", token_type_ids, (n,), config.type_vocab_size)
        positions = self._positions(int(np.diff(offsets).max(initial=0)))
        shape = (len(offsets) - 1 if pooling else n, c)
        if out is None:
            out = np.empty(shape, np.float32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.float32:
            raise TypeError(f"out must be a float32 array, got {getattr(out, 'dtype', type(out).__name__)}")
        elif out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"out must be a writable C-contiguous array of shape {shape}, got shape {out.shape}")
        if out.size == 0:
            return out
        inputs = (ids, types, given, tokens, positions, packed.token_types)
        if training and config.dropout > 0:
            if rng is None:
                raise ValueError("rng must be a numpy.random.Generator where training applies dropout, got None")
            out[...] = _training.forward(config, packed, offsets, inputs, rng)
            return out
        self._run(offsets, inputs, POOLINGS[pooling], normalize, out)
        return out

    def _run(self, offsets: NDArray[np.int64], inputs: tuple[Array, ...], mode: int, normalize: bool, out: Array) -> None:
        """Choose the schedule by the amount of work, and run it."""
        packed, c, f = self._packed, self.config.hidden_dim, self.config.ff_dim
        lengths = np.diff(offsets)
        n, longest = int(offsets[-1]), int(lengths.max())
        chunks = plan_chunks(lengths)
        sizes = offsets[chunks[1:]] - offsets[chunks[:-1]]
        flop = self.config.num_layers * (2 * (4 * c * c + 2 * c * f) * n + 4 * c * float(np.dot(lengths, lengths)))
        workers = min(thread_count(), max(1, int(flop / _FLOP_PER_US / 50)))
        attention = self._attention_scratch(longest)
        tail = tail_scratch(c, f)
        rows_max, blocks, width = int(sizes.max()), 0, 0
        if workers == 1 or balance(sizes, workers) > _BALANCED:
            steps = throughput_steps()
            workers = min(workers, len(sizes))
            per_worker = 2 * rows_max * c + max(3 * rows_max * c + attention, tail)
        else:
            by_columns = n < _ROWS_PER_THREAD * workers
            steps = latency_steps(self.config.num_layers, by_columns)
            blocks = workers * max(1, round(n / (workers * FF_ROWS)))
            per_worker, width = max(attention, tail), n
        columns = width if blocks and by_columns else 0
        x, qkv, ctx = (_scratch(name, width * m) for name, m in (("x", c), ("qkv", 3 * c), ("ctx", c)))
        y, expanded = _scratch("y", columns * c), _scratch("expanded", columns * ff_stride(f))
        scratch = _scratch("scratch", workers * -(-per_worker // 16) * 16)
        encoder_kernel(
            steps, chunks, blocks, rows_max, offsets, packed.dims, *inputs, packed.weights, packed.layout,
            self.config.layer_norm_eps, mode, normalize, x, qkv, ctx, y, expanded, scratch, np.zeros(16, np.int64),
            out.reshape(-1), workers,
        )  # fmt: skip

    def _attention_scratch(self, tokens: int) -> int:
        """Elements that `attend_heads` needs for one head of a sequence of that length."""
        d = self.config.hidden_dim // self.config.num_heads
        count, width = panels(tokens, np.float32)
        d_count = panels(d, np.float32)[0]
        return count * width * d + tokens * (d_count * width + 1) + scratch_size(tokens, d, np.float32)


def plan_chunks(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first sequence of each chunk, and the end: neighbours together up to CHUNK_TOKENS tokens, never part of one."""
    starts, tokens = [0], 0
    for i, count in enumerate(lengths.tolist()):
        if tokens and tokens + count > CHUNK_TOKENS:
            starts.append(i)
            tokens = 0
        tokens += count
    return np.array([*starts, len(lengths)], np.int64)


def balance(sizes: NDArray[np.int64], workers: int) -> float:
    """Return the share of the time that `workers` work, where each takes the next chunk when it is free."""
    if len(sizes) > 16 * workers:
        return 1.0
    busy = [0] * workers
    for size in sizes.tolist():
        least = busy.index(min(busy))
        busy[least] += size
    return sum(busy) / (workers * max(busy)) if max(busy) else 1.0
