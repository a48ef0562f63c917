"""The forward of an encoder of transformers, through the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fastattn.checkpoint.torch_errors import NotAccelerated, Unsupported
from fastattn.config import Precision
from fastattn.encoder.every_position import encode
from fastattn.pytorch.forward import Forward
from fastattn.pytorch.pretrained_inputs import Inputs, Model, directions, read_inputs

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
_FLAGS = ("output_hidden_states", "output_attentions")
_TAKEN = (*_INPUTS, "return_dict", "use_cache", *_FLAGS)
_ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2", "flex_attention")
# Relative to the largest value: rounding errors stay below.  In low precision a computation that differs by less is not noticed.
_PROBE_LIMITS = {"float32": 1e-3, "bfloat16": 0.05, "int8": 0.2}


class _Form(NamedTuple):
    """The class of an output, and the names of its values."""

    output: Any
    names: list[str]


class _Plan:
    """The packed weights, and what comparisons with the original found."""

    def __init__(self, module: Any, precision: Precision) -> None:
        self.model = Model(module, precision)
        # By the further outputs that are asked for: the form of the output, or the reason why the original runs.
        self.forms: dict[tuple[str, ...], _Form | str] = {}
        # Whether the original returns the keys and values of all layers where use_cache is set.
        self.caches = False
        # Whether a position that sees no token gets what the original gives it; unknown until one is there.
        self.blank: bool | None = False if self.model.blind_padding else None


class PretrainedForward(Forward):
    """Forward of an encoder of transformers."""

    def plan(self) -> _Plan:
        """Pack the weights, and compare a small batch with the original."""
        plan = _Plan(self.module, self.precision)
        if "use_cache" in self._names:
            original: Any = self.__wrapped__
            with torch.no_grad():
                found = original(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=True, return_dict=True)
            plan.caches = found.get("past_key_values") is not None
        plan.forms[()] = self._form(plan.model, ())
        return plan

    def run(self, plan: _Plan, arguments: dict[str, Any]) -> Any:
        """Encode `input_ids` or `inputs_embeds`."""
        wanted = self._wanted(plan, arguments)
        as_tuple = self._as_tuple(arguments)
        if wanted not in plan.forms:
            try:
                plan.forms[wanted] = self._form(plan.model, wanted)
            except NotAccelerated as reason:
                plan.forms[wanted] = str(reason)
        form = plan.forms[wanted]
        if isinstance(form, str):
            raise NotAccelerated(form)
        inputs = read_inputs(plan.model, arguments)
        if inputs.sees_nothing and not self._is_blank_alike(plan):
            raise NotAccelerated("a padded position sees no token, and this model's attention then returns a mean of all")
        found = _compute(plan.model, inputs, wanted, arguments.get("input_ids"))
        out = form.output(last_hidden_state=found["last_hidden_state"])
        for name in form.names[1:]:
            out[name] = found.get(name, ())
        return out.to_tuple() if as_tuple else out

    def _wanted(self, plan: _Plan, arguments: dict[str, Any]) -> tuple[str, ...]:
        """Return the further outputs that are asked for; `NotAccelerated` for arguments that the kernels do not take."""
        settings, wanted = self.module.config, []
        for name in _FLAGS:
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
            if getattr(settings, name, False) and not plan.model.is_causal:
                raise NotAccelerated(f"config.{name} is set")
        if directions(self.module) != plan.model.directions:
            raise NotAccelerated("its config says since then whether a token sees those behind it: call accelerate again")
        cache = arguments.get("use_cache")
        if plan.caches and (getattr(settings, "use_cache", False) if cache is None else cache):
            raise NotAccelerated("use_cache is set, and its output then has the keys and values of all layers: set it to False")
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
        if wanted is False and "return_dict" in self._names and getattr(self.module, "pooler", self) is None:
            raise NotAccelerated("return_dict is False, and the model's pooler is None")
        return wanted is False

    def _form(self, model: Model, wanted: tuple[str, ...]) -> _Form:
        """Return the class and names of the original's output, after comparing the results for a small padded batch.

        The comparison finds changes that neither the configuration nor the submodules show: a patched method, another version
        of transformers.
        """
        size, padding = min(7, model.config.max_positions), model.padding_id
        ids = torch.arange(2 * size).reshape(2, size) * 31 % (model.config.vocab_size or 1)
        mask = torch.ones(2, size, dtype=torch.int64)
        if padding is not None:
            ids[ids == padding] = (padding + 1) % (model.config.vocab_size or 1)
        if size > 3:
            # With a window, each of them sees a token.
            padded = slice(size - min(3, 3 if model.window is None else model.window), size)
            mask[1, padded] = 0
            ids[1, padded] = ids[1, padded] if padding is None else padding
        theirs, ours = self._both(model, {"input_ids": ids, "attention_mask": mask}, wanted)
        names = [name for name, value in theirs.items() if value is not None]
        if names[0] != "last_hidden_state" or not set(ours) <= set(names) or any(len(theirs[n]) for n in set(names) - set(ours)):
            raise Unsupported(f"its output has {', '.join(names)}, and the kernels make {', '.join(ours)}")
        for name in ours:
            several = name in ("hidden_states", "attentions")
            pairs = zip(ours[name], theirs[name], strict=False) if several else [(ours[name], theirs[name])]
            if len(ours[name]) != len(theirs[name]) or not all(_alike(*pair, self.precision) for pair in pairs):
                raise Unsupported(f"on a few tokens its {name} differs from the kernels' result")
        return _Form(type(theirs), names)

    def _is_blank_alike(self, plan: _Plan) -> bool:
        """Tell whether the kernels compute what the original computes for a sequence without a real token."""
        if plan.blank is None:
            ids = torch.arange(3)[None] % (plan.model.config.vocab_size or 1)
            # In float32: a low precision may differ by as much as the mean of all tokens does.
            exact = plan.model if self.precision == "float32" else Model(self.module, "float32")
            theirs, ours = self._both(exact, {"input_ids": ids, "attention_mask": torch.zeros_like(ids)}, ())
            plan.blank = _alike(ours["last_hidden_state"], theirs["last_hidden_state"])
        return plan.blank

    def _both(self, model: Model, arguments: dict[str, Any], wanted: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
        """Return the outputs of the original and of the kernels."""
        # A flag that the call leaves out is the configuration's.
        flags = {name: name in wanted for name in _FLAGS if name in wanted or getattr(self.module.config, name, False)}
        flags |= {"use_cache": False} if "use_cache" in self._names else {}
        original: Any = self.__wrapped__
        with torch.no_grad():
            ours = _compute(model, read_inputs(model, arguments), wanted, arguments["input_ids"])
            theirs = original(**arguments, return_dict=True, **flags)
            if model.blind_padding:
                for name, value in theirs.items():
                    theirs[name] = _blanked(value, arguments["attention_mask"])
            return theirs, ours


def _blanked(value: Any, mask: Any) -> Any:
    """Return a value of an output, (B, T, C) or (B, H, T, T), or a tuple of them, with zeros for positions in the padding."""
    if isinstance(value, tuple):
        return tuple(_blanked(one, mask) for one in value)
    return value * (mask[:, None, :, None] if value.ndim == 4 else mask[:, :, None])


def _alike(ours: Any, theirs: Any, precision: Precision = "float32") -> bool:
    """Tell whether two results are the same up to the rounding of a precision."""
    if ours.shape != theirs.shape or not theirs.isfinite().all():
        return False
    return bool((ours - theirs).abs().max() <= _PROBE_LIMITS[precision] * theirs.abs().max())


def _compute(model: Model, inputs: Inputs, wanted: tuple[str, ...], ids: Any) -> dict[str, Any]:
    """Return the outputs under their names."""
    hidden_states, attentions = (flag in wanted for flag in _FLAGS)
    hidden, states, weights = encode(
        inputs.encoder, inputs.rows, inputs.placed, inputs.token_types, hidden_states=hidden_states, attention=attentions
    )
    found: dict[str, Any] = {"last_hidden_state": torch.from_numpy(hidden)}
    pooled = model.pool(found["last_hidden_state"], ids)
    if pooled is not None:
        found["pooler_output"] = pooled
    if hidden_states:
        found["hidden_states"] = (*map(torch.from_numpy, states[:-1]), found["last_hidden_state"])
    if attentions:
        found["attentions"] = tuple(map(torch.from_numpy, weights))
    return found
