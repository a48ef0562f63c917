"""LoraConfig: which products a LoRA adapter changes, and how, under peft's names."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

__all__ = ["LoraConfig", "by_pattern", "scale_of"]

_ALL = "all-linear"
_BIASES = ("none", "all", "lora_only")
_STARTS = (True, False, "gaussian")
# Tasks whose classifier learns as a whole, and the names that it has in transformers' classes.
_CLASSIFYING, _CLASSIFIERS = ("SEQ_CLS", "TOKEN_CLS"), ("classifier", "score")
_TASKS = (*_CLASSIFYING, "SEQ_2_SEQ_LM", "CAUSAL_LM", "QUESTION_ANS", "FEATURE_EXTRACTION")
# Options of peft that change what an adapter computes or where it starts, where they are not empty.
_OTHERS = (
    "arrow_config", "corda_config", "eva_config", "kasa_config", "layer_replication", "layers_pattern", "lora_bias",
    "lora_ga_config", "megatron_config", "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora",
    "use_dora", "use_qalora", "velora_config", "alora_invocation_tokens",
)  # fmt: skip


@dataclass(kw_only=True)
class LoraConfig:
    r"""Which products a LoRA adapter changes, and how.

    ::

        y = x (W + s B A)^T + b       s = lora_alpha / r

    for A (r, C_in) and B (C_out, r), which learn, while W stays as it is.

    Parameters
    ----------
    r : int
        Rank of the change.
    target_modules : str or sequence of str, optional
        Products by the names of their modules in transformers' class: whole names, or their ends, such as ``["query", "value"]``
        or ``["q_proj"]``; a str is a regular expression for the whole name; "all-linear" is each product but that with the
        vocabulary.  By default those of the queries and values of all layers.
    exclude_modules : str or sequence of str, optional
        Products that are left out, named in the same ways.
    lora_alpha : float
        Numerator of the scale s.
    lora_dropout : float
        Probability with which training drops an element of x before A.
    bias : {"none", "all", "lora_only"}
        Biases that learn too: none, all, or those of the products that are changed.
    use_rslora : bool
        s = lora_alpha / sqrt(r).
    modules_to_save : sequence of str, optional
        Modules that learn as a whole, by name.  A new classifier does in any case.
    init_lora_weights : bool or "gaussian"
        True: A uniform in +-1 / sqrt(C_in), and B zero; "gaussian": A normal with standard deviation 1 / r, and B zero; False: B
        uniform in +-1 / sqrt(r) too.
    layers_to_transform : int or sequence of int, optional
        Numbers of the layers whose products are changed.
    rank_pattern, alpha_pattern : mapping
        Ranks and alphas by regular expression of a product's name, or of its end.
    task_type : str, optional
        With "SEQ_CLS" and "TOKEN_CLS" the classifier learns as a whole.  peft's other tasks change nothing.
    inference_mode : bool
        Must be False, as in peft for an adapter that learns.
    seed : int
        Of A and B.

    Raises
    ------
    ValueError
        An argument is out of range; the message names it.

    References
    ----------
    Hu et al. 2021, arXiv:2106.09685, sections 4.1 and 4.2; Kalajdzievski 2023, arXiv:2312.03732, for `use_rslora`.  Arguments:
    peft.LoraConfig.
    """

    r: int = 8
    target_modules: str | Sequence[str] | None = None
    exclude_modules: str | Sequence[str] | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    bias: str = "none"
    use_rslora: bool = False
    modules_to_save: Sequence[str] | None = None
    init_lora_weights: bool | str = True
    layers_to_transform: int | Sequence[int] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    task_type: str | None = None
    inference_mode: InitVar[bool] = False
    seed: int = 0

    def __post_init__(self, inference_mode: bool) -> None:
        """Check every argument."""
        if inference_mode:
            raise ValueError(f"inference_mode must be False: an adapter is added to learn, got {inference_mode!r}")
        for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"):
            given = getattr(self, name)
            if isinstance(given, (set, frozenset)):
                # A set has no order that another process has too.
                setattr(self, name, sorted(given, key=str))
        for name, rank in (("r", self.r), *_by_key("rank_pattern", self.rank_pattern)):
            if type(rank) is not int or rank < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {rank!r}")
        for name, alpha in (("lora_alpha", self.lora_alpha), *_by_key("alpha_pattern", self.alpha_pattern)):
            if not _is_number(alpha) or not math.isfinite(alpha):
                raise ValueError(f"{name} must be a finite number, got {alpha!r}")
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), got {self.lora_dropout!r}")
        if self.bias not in _BIASES:
            raise ValueError(f"bias must be one of {', '.join(_BIASES)}, got {self.bias!r}")
        if not any(self.init_lora_weights is start or self.init_lora_weights == start for start in _STARTS):
            raise ValueError(f'init_lora_weights must be True, False or "gaussian", got {self.init_lora_weights!r}')
        saved, layers = self.modules_to_save, self.layers_to_transform
        if isinstance(saved, str) or not all(isinstance(each, str) for each in saved or ()):
            raise ValueError(f"modules_to_save must be a sequence of names, got {saved!r}")
        if any(type(each) is not int for each in ([layers] if isinstance(layers, int | str) else layers or ())):
            raise ValueError(f"layers_to_transform must be numbers of layers, got {layers!r}")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        # Members of peft's TaskType are strings too.
        self.task_type = None if self.task_type is None else str(getattr(self.task_type, "value", self.task_type))
        if self.task_type not in (None, *_TASKS):
            raise ValueError(f"task_type must be one of {', '.join(_TASKS)}, got {self.task_type!r}")
        for name in ("target_modules", "exclude_modules"):
            _matches(name, getattr(self, name))

    @classmethod
    def of(cls, config: Any) -> LoraConfig:
        """Return a configuration as it is, and one of peft, or the content of its file, as one of these.

        Parameters
        ----------
        config : LoraConfig, peft.LoraConfig or mapping
            The configuration.

        Returns
        -------
        LoraConfig

        Raises
        ------
        TypeError
            `config` is of another kind.
        ValueError
            It is of another method than LoRA, or has an option that is not supported.
        """
        if isinstance(config, cls):
            return config
        values = config if isinstance(config, Mapping) else config.to_dict() if hasattr(config, "peft_type") else None
        if values is None:
            raise TypeError(f"adapter_config must be a fastattn.training.LoraConfig, got {type(config).__name__}")
        kind = values.get("peft_type", "LORA")
        if (kind := str(getattr(kind, "value", kind))) != "LORA":
            raise ValueError(f"adapter_config must be of LoRA, got one of {kind}")
        if unknown := [name for name in _OTHERS if values.get(name)]:
            raise ValueError(f"adapter_config: {unknown[0]} {values[unknown[0]]!r:.80} is not supported")
        names = {each.name for each in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names and value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments by name.

        Returns
        -------
        dict of str to object
        """
        return dataclasses.asdict(self)

    def rank_of(self, module: str) -> int:
        """Return the rank of a product's change.

        Parameters
        ----------
        module : str
            Name of the product.

        Returns
        -------
        int
            r.
        """
        return int(by_pattern(self.rank_pattern, module, self.r))

    def scale_of(self, module: str) -> float:
        """Return the scale of a product's change.

        Parameters
        ----------
        module : str
            Name of the product.

        Returns
        -------
        float
            s.
        """
        return scale_of(by_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank_of(module), self.use_rslora)

    def saved_of(self, tensors: Iterable[str]) -> list[str]:
        """Return the names of the tensors that learn as a whole.

        Parameters
        ----------
        tensors : iterable of str
            The names of the model's tensors.

        Returns
        -------
        list of str

        Raises
        ------
        ValueError
            A module has no tensor.
        """
        tensors, found = list(tensors), []
        wanted = tuple(self.modules_to_save or ())
        for module in (*wanted, *(_CLASSIFIERS if self.task_type in _CLASSIFYING else ())):
            of_module = [name for name in tensors if re.match(rf"(.*\.)?{re.escape(module)}\.", name)]
            if module in wanted and not of_module:
                raise ValueError(f"modules_to_save: the model has no module {module!r}; it has {_listed(tensors)}")
            found += [name for name in of_module if name not in found]
        return found

    def chosen(self, modules: Mapping[str, bool], saved: Container[str] = ()) -> list[str]:
        """Return the names of the products that are changed.

        Parameters
        ----------
        modules : mapping of str to bool
            The model's products by name, and whether each is one of queries or values.
        saved : container of str
            The names of the tensors that learn as a whole; their products are not changed.

        Returns
        -------
        list of str

        Raises
        ------
        ValueError
            No product has a name of `target_modules`; the message lists the products.
        """
        given = self.target_modules
        if given is None:
            found = [name for name, is_usual in modules.items() if is_usual]
        elif given == _ALL:
            found = list(modules)
        else:
            for each in [given] if isinstance(given, str) else given:
                if not any(map(_matches("target_modules", each if each is given else [each]), modules)):
                    raise ValueError(f"target_modules: no product of the model has the name {each!r}; it has {_listed(modules)}")
            found = list(filter(_matches("target_modules", given), modules))
        left_out, layers = _matches("exclude_modules", self.exclude_modules), self.layers_to_transform
        numbers = None if layers is None else {layers} if isinstance(layers, int) else set(layers)
        kept = [name for name in found if not left_out(name) and (numbers is None or _layer_of(name) in numbers)]
        if not kept:
            raise ValueError(f"exclude_modules and layers_to_transform leave no product; the model has {_listed(modules)}")
        if not any(f"{name}.weight" not in saved for name in kept):
            raise ValueError(f"target_modules: {_listed(kept)} learn as a whole, by modules_to_save or task_type: name others")
        return [name for name in kept if f"{name}.weight" not in saved]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _by_key(argument: str, patterns: Any) -> list[tuple[str, Any]]:
    """Return the values of a mapping of patterns, each with what it is called in an error."""
    if not isinstance(patterns, Mapping) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{argument} must map patterns to numbers, got {patterns!r:.80}")
    for pattern in patterns:
        _compiled(argument, pattern, _ended(pattern))
    return [(f"{argument}[{pattern!r}]", value) for pattern, value in patterns.items()]


def _matches(argument: str, given: str | Sequence[str] | None) -> Callable[[str], bool]:
    """Return what tells whether a name is one of those given: by a regular expression, or by names and their ends."""
    if given is None:
        return lambda name: False
    if isinstance(given, str):
        pattern = _compiled(argument, given, given)
        return lambda name: pattern.fullmatch(name) is not None
    ends = list(given)
    if not all(isinstance(end, str) for end in ends):
        raise ValueError(f"{argument} must be names, got {given!r:.80}")
    return lambda name: any(name == end or name.endswith(f".{end}") for end in ends)


def scale_of(alpha: float, rank: int, use_rslora: bool) -> float:
    """Return the scale s of a change."""
    return alpha / (math.sqrt(rank) if use_rslora else rank)


def by_pattern(patterns: Mapping[str, Any], module: str, usual: Any) -> Any:
    """Return the number that the first fitting pattern has for a module."""
    return next((value for pattern, value in patterns.items() if re.match(_ended(pattern), module)), usual)


def _ended(pattern: str) -> str:
    """Return the expression for a name, or the end of one, that a pattern fits."""
    return rf"(.*\.)?({pattern})$"


def _compiled(argument: str, given: str, expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise ValueError(f"{argument}: {given!r} is no regular expression: {error}") from error


def _layer_of(name: str) -> int | None:
    """Return the number of a module's layer."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _listed(names: Iterable[str]) -> str:
    """Name modules or tensors, those of all layers as one."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in names))
