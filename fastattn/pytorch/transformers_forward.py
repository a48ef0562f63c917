"""The forward of an encoder of transformers, through the kernels."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastattn.checkpoint.torch_errors import NotAccelerated, Unsupported
from fastattn.checkpoint.torch_transformers import read_pretrained
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.padding import pack, unpack
from fastattn.pytorch.arrays import IDS, array
from fastattn.pytorch.forward import Forward

Array = NDArray[Any]

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
_TAKEN = (*_INPUTS, "return_dict", "use_cache", "output_hidden_states", "output_attentions")
_ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flex_attention")
_MASKS = (torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32)
# Relative to the largest value: rounding errors stay far below, a different computation is far above.
_PROBE_LIMIT = 1e-3


class _Form(NamedTuple):
    """The class of an output, and the names of its values."""

    output: Any
    names: list[str]


class _Model:
    """The packed weights, and the parts of the module that a call uses."""

    def __init__(self, module: Any) -> None:
        pretrained = read_pretrained(module)
        if pretrained is None:
            raise Unsupported("its class was changed")
        self.module = module
        self.config, self._parameters = pretrained.read(array)
        self.encoder = Encoder(self.config, parameters=self._parameters)
        self.padding_id = getattr(module.embeddings, "padding_idx", None)
        self._body: Encoder | None = None
        self._lock = threading.Lock()
        # By (output_hidden_states, output_attentions): the form of the output, or the reason why the original runs.
        self.forms: dict[tuple[bool, bool], _Form | str] = {}

    def body(self) -> Encoder:
        """Return the encoder without its embeddings, packed when it is first needed."""
        with self._lock:
            if self._body is None:
                positions = None if self.config.positions == "learned" else self.config.positions
                config = dataclasses.replace(
                    self.config, vocab_size=None, type_vocab_size=0, embedding_dim=None, positions=positions
                )
                kept = {name: value for name, value in self._parameters.items() if not name.startswith("embeddings.")}
                self._body = Encoder(config, parameters=kept)
            return self._body

    def embed(self, arguments: dict[str, Any]) -> Array:
        """Return the embeddings (B, T, C), computed by the module's own parts."""
        part = self.module.embeddings
        known = inspect.signature(type(part).forward).parameters
        names = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")
        with torch.no_grad():
            x = part(**{name: arguments.get(name) for name in names if name in known})
            project = getattr(self.module, "embeddings_project", None)
            project = project or getattr(getattr(self.module, "encoder", None), "embedding_hidden_mapping_in", None)
            return array("the embedding", x if project is None else project(x))

    def pool(self, hidden: Any) -> Any:
        """Return the output of the module's pooler; None without a pooler."""
        pooler = getattr(self.module, "pooler", None)
        if isinstance(pooler, nn.Linear):
            return self.module.pooler_activation(pooler(hidden[:, 0]))
        return None if pooler is None else pooler(hidden)


class PretrainedForward(Forward):
    """Forward of an encoder of transformers.  Positions where the attention mask has 0 come back as zeros."""

    def plan(self) -> _Model:
        """Pack the weights, and compare a small batch with the original."""
        model = _Model(self.module)
        model.forms[False, False] = self._form(model, ())
        return model

    def run(self, plan: _Model, arguments: dict[str, Any]) -> Any:
        """Encode `input_ids` or `inputs_embeds`."""
        wanted = self._wanted(arguments)
        as_tuple = self._as_tuple(arguments)
        flags = "output_hidden_states" in wanted, "output_attentions" in wanted
        if flags not in plan.forms:
            try:
                plan.forms[flags] = self._form(plan, wanted)
            except NotAccelerated as reason:
                plan.forms[flags] = str(reason)
        form = plan.forms[flags]
        if isinstance(form, str):
            raise NotAccelerated(form)
        found = _compute(plan, arguments, *flags)
        out = form.output(last_hidden_state=found["last_hidden_state"])
        for name in form.names[1:]:
            out[name] = found.get(name, ())
        return out.to_tuple() if as_tuple else out

    def _wanted(self, arguments: dict[str, Any]) -> tuple[str, ...]:
        """Return the further outputs that are asked for; `NotAccelerated` for arguments that the kernels do not take."""
        settings, wanted = self.module.config, []
        for name in ("output_hidden_states", "output_attentions"):
            value = arguments.get(name)
            value = getattr(settings, name, False) if value is None else value
            if value is not True and value is not False and value is not None:
                raise NotAccelerated(f"{name} is {value!r}")
            if value:
                wanted.append(name)
        attention = getattr(settings, "_attn_implementation", None)
        if attention not in _ATTENTIONS or ("output_attentions" in wanted and attention != "eager"):
            raise NotAccelerated(
                f"{'output_attentions is set and ' if wanted else ''}the attention implementation is {attention!r}"
            )
        for name in ("is_decoder", "is_causal"):
            if getattr(settings, name, False):
                raise NotAccelerated(f"config.{name} is set")
        for name, value in arguments.items():
            if name not in _TAKEN and value is not None and value is not False:
                raise NotAccelerated(f"the argument {name} is given")
        if (arguments.get("input_ids") is None) == (arguments.get("inputs_embeds") is None):
            raise NotAccelerated("exactly one of input_ids and inputs_embeds must be given")
        return tuple(wanted)

    def _as_tuple(self, arguments: dict[str, Any]) -> bool:
        """Tell whether the output is a tuple instead of an object with names."""
        usual = getattr(self.module.config, "return_dict", True)
        wanted = arguments.get("return_dict", usual)
        if wanted is None and usual is False:
            raise NotAccelerated("return_dict is None, and False in the configuration")
        if wanted is False and "return_dict" in self._names and getattr(self.module, "pooler", None) is None:
            raise NotAccelerated("return_dict is False, and the model has no pooler")
        return wanted is False

    def _form(self, model: _Model, wanted: tuple[str, ...]) -> _Form:
        """Return the class and names of the original's output, after comparing the results for a small padded batch.

        The comparison finds changes that neither the configuration nor the submodules show: a patched method, another version
        of transformers.
        """
        size = min(7, model.config.max_positions)
        ids = torch.arange(2 * size).reshape(2, size) * 31 % (model.config.vocab_size or 1)
        mask = torch.ones(2, size, dtype=torch.int64)
        if size > 3:
            mask[1, size - 3 :] = 0
        arguments = {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            theirs = self.__wrapped__(**arguments, return_dict=True, **dict.fromkeys(wanted, True))  # type: ignore[attr-defined]
            ours = _compute(model, arguments, "output_hidden_states" in wanted, "output_attentions" in wanted)
        names = [name for name, value in theirs.items() if value is not None]
        if names[0] != "last_hidden_state" or not set(ours) <= set(names) or any(len(theirs[n]) for n in set(names) - set(ours)):
            raise Unsupported(f"its output has {', '.join(names)}, and the kernels make {', '.join(ours)}")
        real = mask.numpy().astype(bool)
        for name in ours:
            several = name in ("hidden_states", "attentions")
            pairs = zip(ours[name], theirs[name], strict=False) if several else [(ours[name], theirs[name])]
            if len(ours[name]) != len(theirs[name]) or not all(_alike(a.numpy(), b.numpy(), real) for a, b in pairs):
                raise Unsupported(f"on a few tokens its {name} differs from the kernels' result")
        return _Form(type(theirs), names)


def _alike(ours: Array, theirs: Array, real: Array) -> bool:
    """Tell whether two results are the same up to rounding at real tokens."""
    if ours.shape != theirs.shape:
        return False
    if ours.ndim == 4:  # (B, H, T, T)
        ours, theirs = ours.swapaxes(1, 2), theirs.swapaxes(1, 2)
    if ours.ndim > 2:
        ours, theirs = ours[real], theirs[real]
    return bool(np.isfinite(theirs).all() and np.abs(ours - theirs).max() <= _PROBE_LIMIT * np.abs(theirs).max())


def _compute(model: _Model, arguments: dict[str, Any], hidden_states: bool, attentions: bool) -> dict[str, Any]:
    """Return the outputs under their names."""
    encoder, source, real, types = _inputs(model, arguments)
    found: dict[str, Any] = {}
    if hidden_states or attentions:
        out, *more = encoder(source, real, token_type_ids=types, return_hidden_states=hidden_states, return_attention=attentions)
        names = [name for name, asked in (("hidden_states", hidden_states), ("attentions", attentions)) if asked]
        found = {name: tuple(map(torch.from_numpy, arrays)) for name, arrays in zip(names, more, strict=True)}
    else:
        out = _encode(encoder, source, real, types)
    hidden = torch.from_numpy(out)
    if hidden_states:
        found["hidden_states"] = (*found["hidden_states"][:-1], hidden)
    pooled = model.pool(hidden)
    return {"last_hidden_state": hidden} | ({} if pooled is None else {"pooler_output": pooled}) | found


def _encode(encoder: Encoder, source: Array, real: Array | None, types: Array | None) -> Array:
    """Return hidden states (B, T, C) of ids (B, T) or embeddings (B, T, C)."""
    batch = pack(source, real, types)
    return unpack(encoder.forward_packed(batch.rows, batch.offsets, token_type_ids=batch.token_types), batch.real)


def _inputs(model: _Model, arguments: dict[str, Any]) -> tuple[Encoder, Array, Array | None, Array | None]:
    """Return an encoder and its inputs: ids or embeddings, the real tokens (None: all), token types."""
    ids = arguments.get("input_ids")
    embeds = arguments.get("inputs_embeds")
    if ids is not None:
        x = array("input_ids", ids, IDS)
        if x.ndim != 2:
            raise NotAccelerated(f"input_ids has shape {x.shape}, not (B, T)")
    else:
        x = array("inputs_embeds", embeds)
        if x.ndim != 3 or x.shape[2] != model.config.input_dim:
            raise NotAccelerated(f"inputs_embeds has shape {x.shape}, not (B, T, {model.config.input_dim})")
    b, t = x.shape[:2]
    if not t:
        raise NotAccelerated("there are no tokens")
    real = _real(arguments.get("attention_mask"), (b, t))
    types = arguments.get("token_type_ids")
    if types is not None:
        types = array("token_type_ids", types, IDS)
        if types.shape != (b, t):
            raise NotAccelerated(f"token_type_ids has shape {types.shape} instead of {(b, t)}")
    relative = model.config.positions != "learned" or model.config.relative_buckets > 0
    if real is not None and not _starts_at_zero(real):
        raise NotAccelerated("a sequence begins with padding: its first position, which heads read, would be zeros")
    if relative and real is not None and (real[:, 1:] > real[:, :-1]).any():
        raise NotAccelerated("the mask has holes, and in this model positions are relative")
    usual = _usual_positions(model, arguments.get("position_ids"), None if ids is None else x, real, (b, t))
    if not usual and model.config.positions != "learned":
        raise NotAccelerated("position_ids are not 0, 1, 2, ...")
    if usual and ids is not None:
        return model.encoder, x, real, types
    return model.body(), model.embed(arguments), real, None


def _real(mask: Any, shape: tuple[int, int]) -> Array | None:
    """Return an attention mask (B, T) as bool, True for a real token; None without a mask."""
    if mask is None:
        return None
    found = array("attention_mask", mask, _MASKS)
    if found.shape != shape:
        raise NotAccelerated(f"attention_mask has shape {found.shape} instead of (B, T) = {shape}")
    return found if found.dtype == np.bool_ else found != 0


def _starts_at_zero(real: Array) -> bool:
    """Tell whether each sequence that has a real token has one at position 0."""
    return bool((real[:, 0] | ~real.any(axis=1)).all())


def _usual_positions(model: _Model, position_ids: Any, ids: Array | None, real: Array | None, shape: tuple[int, int]) -> bool:
    """Tell whether the real tokens of each sequence have the positions that the encoder gives them: 0, 1, 2, ..."""
    first = 0 if model.padding_id is None else model.padding_id + 1
    if position_ids is not None:
        places = array("position_ids", position_ids, IDS)
        if places.shape not in (shape, (1, shape[1])):
            raise NotAccelerated(f"position_ids has shape {places.shape} instead of {shape}")
        places = np.broadcast_to(places - first, shape)
    elif model.padding_id is not None and ids is not None:
        # RoBERTa and MPNet count positions by the ids that are not the padding id; the mask has no effect on the count.
        counted = ids != model.padding_id
        places = np.where(counted, np.cumsum(counted, axis=1) - 1, -1)
    else:
        places = np.broadcast_to(np.arange(shape[1]), shape)
    own = np.ones(shape, np.bool_) if real is None else real
    counted = own if model.padding_id is None or ids is None else own & (ids != model.padding_id)
    return bool((places == np.where(counted, np.cumsum(counted, axis=1) - 1, -1))[own].all())
