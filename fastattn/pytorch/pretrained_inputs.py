"""The arguments of an encoder of transformers as rows for the kernels."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastattn.checkpoint.families import FAMILIES
from fastattn.checkpoint.torch_errors import NotAccelerated, Unsupported
from fastattn.checkpoint.torch_transformers import read_pretrained
from fastattn.config import Precision
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.every_position import Order, order, without_embeddings
from fastattn.encoder.tables import Tables
from fastattn.layer_config import convolution_of
from fastattn.pytorch.arrays import IDS, array

Array = NDArray[Any]

_MASKS = (torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32)


class Inputs(NamedTuple):
    """Rows (N,) or (N, C) for an encoder, in an order in which the real tokens of each sequence come first."""

    encoder: Encoder
    rows: Array
    placed: Order
    token_types: Array | None
    # Some position sees no token, in some layer.
    sees_nothing: bool


class Model:
    """The packed weights, and the parts of the module that a call uses."""

    def __init__(self, module: Any, precision: Precision) -> None:
        pretrained = read_pretrained(module)
        if pretrained is None:
            raise Unsupported("its class was changed")
        self.module = module
        self.config, parameters = pretrained.read(array)
        self.encoder = Encoder(self.config, parameters=parameters, precision=precision)
        _share_tables(self.encoder, parameters)
        self.body = without_embeddings(self.encoder)
        # Decoders look tokens up in a table of their own, and have no other embeddings.
        embeddings = getattr(module, "embeddings", None)
        self.padding_id: int | None = None
        if self.config.positions == "learned":
            self.padding_id = getattr(embeddings, "padding_idx", None)
        self.blind_padding = FAMILIES[module.config.model_type].blind_padding
        # The embeddings of some models depend on the mask.
        self.embeds_mask = embeddings is not None and "attention_mask" in _arguments(embeddings)
        windows = [self.config.layer(layer).window for layer in range(self.config.num_layers)]
        self.window = min((left for left, _ in windows if left is not None), default=None)
        self.is_causal = all(right == 0 for _, right in windows)
        # What the configuration said of the directions: transformers reads it in every call.
        self.directions = directions(module)

    def embed(self, arguments: dict[str, Any]) -> Array:
        """Return the embeddings (B, T, C), computed by the module's own parts."""
        part = getattr(self.module, "embeddings", None)
        if part is None:
            return array("inputs_embeds", arguments["inputs_embeds"])
        known = _arguments(part)
        names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
        with torch.no_grad():
            x = part(**{name: arguments.get(name) for name in names if name in known})
            project = getattr(self.module, "embeddings_project", None)
            project = project or getattr(getattr(self.module, "encoder", None), "embedding_hidden_mapping_in", None)
            return array("the embedding", x if project is None else project(x))

    def pool(self, hidden: Any, ids: Any) -> Any:
        """Return the output of the module's pooler, or the token that ends each text; None for a module without either."""
        pooler, end = getattr(self.module, "pooler", None), getattr(self.module, "eos_token_id", None)
        if pooler is None and end is not None and ids is not None:
            # CLIP takes the greatest id where its settings are older than their correction.
            place = (ids.to(torch.int32) if end == 2 else (ids == end).to(torch.int32)).argmax(dim=-1)
            return hidden[torch.arange(len(hidden)), place]
        if isinstance(pooler, nn.Linear):
            return self.module.pooler_activation(pooler(hidden[:, 0]))
        return None if pooler is None else pooler(hidden)


def _arguments(part: Any) -> Any:
    """Return the arguments of a submodule's forward, by name."""
    return inspect.signature(type(part).forward).parameters


def directions(module: Any) -> list[Any]:
    """Return the settings of a module that tell whether a token sees those behind it."""
    return [getattr(module.config, name, None) for name in ("is_causal", "use_bidirectional_attention")]


def _share_tables(encoder: Encoder, parameters: dict[str, Array]) -> None:
    """Let the kernels read the embedding tables in the module's own memory, where every write shows at once."""
    names = {"tokens": "embeddings.token", "positions": "embeddings.position", "token_types": "embeddings.token_type"}
    tables = {field: parameters[f"{name}.weight"] for field, name in names.items() if f"{name}.weight" in parameters}
    shared = {field: table.reshape(-1) for field, table in tables.items() if table.dtype == np.float32 and table.flags.carray}
    encoder._packed = encoder._packed._replace(**shared)
    encoder._tables = Tables(encoder.config, encoder._packed.positions, encoder._packed.relative)


def read_inputs(model: Model, arguments: dict[str, Any]) -> Inputs:
    """Return the rows for the kernels; `NotAccelerated` for arguments that they do not take."""
    config = model.config
    ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    if ids is not None:
        x = array("input_ids", ids, IDS)
        if x.ndim != 2:
            raise NotAccelerated(f"input_ids has shape {x.shape}, not (B, T)")
    else:
        x = array("inputs_embeds", embeds)
        if x.ndim != 3 or x.shape[2] != config.input_dim:
            raise NotAccelerated(f"inputs_embeds has shape {x.shape}, not (B, T, {config.input_dim})")
    b, t = x.shape[:2]
    if not t:
        raise NotAccelerated("there are no tokens")
    placed = order(_real(arguments.get("attention_mask"), (b, t)))
    types = arguments.get("token_type_ids")
    if types is not None:
        types = array("token_type_ids", types, IDS)
        if types.shape != (b, t):
            raise NotAccelerated(f"token_type_ids has shape {types.shape} instead of {(b, t)}")
    is_relative = config.positions != "learned" or config.relative_buckets > 0 or bool(config.disentangled)
    is_relative = is_relative or convolution_of(config.layers) > 0
    if not placed.is_given and (is_relative or model.is_causal):
        raise NotAccelerated("the mask has holes or padding on the left, and in this model positions are relative")
    places = placed.rows(_places(model, arguments.get("position_ids"), None if ids is None else x, (b, t))).reshape(b, t)
    own = np.broadcast_to(np.arange(t), (b, t))
    if ids is not None and config.padding_idx is not None:
        own = _counted(placed.rows(x).reshape(b, t), config.padding_idx)
    nothing = bool((placed.keys == 0).any()) or (model.window is not None and bool((placed.keys + model.window < t).any()))
    is_moved = not (places == own).all()
    if is_moved and config.positions != "learned":
        raise NotAccelerated("position_ids are not 0, 1, 2, ...")
    last, longest = int(places.max(initial=-1)), int(placed.keys.max(initial=0))
    if not is_moved and config.positions == "learned" and longest <= config.max_positions <= last:
        raise NotAccelerated(f"there are {t} positions, padding among them, and the model has {config.max_positions}")
    if ids is None and model.embeds_mask and not is_moved:
        raise NotAccelerated("inputs_embeds are given, and this model takes them as hidden states")
    if model.blind_padding:
        placed = placed.without_padding()
    if ids is None or is_moved or model.embeds_mask:
        return Inputs(model.body, placed.rows(model.embed(arguments)), placed, None, nothing)
    return Inputs(model.encoder, placed.rows(x), placed, None if types is None else placed.rows(types), nothing)


def _real(mask: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return an attention mask (B, T) as bool, True for a real token."""
    if mask is None:
        return np.ones(shape, np.bool_)
    found = array("attention_mask", mask, _MASKS)
    if found.shape != shape:
        raise NotAccelerated(f"attention_mask has shape {found.shape} instead of (B, T) = {shape}")
    return found if found.dtype == np.bool_ else found != 0


def _first_place(model: Model) -> int:
    """Return the module's number of the first position."""
    return 0 if model.padding_id is None else model.padding_id + 1


def _places(model: Model, position_ids: Any, ids: Array | None, shape: tuple[int, int]) -> Array:
    """Return the position of each token, (B, T), where the first is 0."""
    if position_ids is not None:
        places = array("position_ids", position_ids, IDS)
        if places.shape not in (shape, (1, shape[1])):
            raise NotAccelerated(f"position_ids has shape {places.shape} instead of {shape}")
        return np.broadcast_to(places - _first_place(model), shape)
    if model.padding_id is not None and ids is not None:
        return _counted(ids, model.padding_id)
    return np.broadcast_to(np.arange(shape[1]), shape)


def _counted(ids: Array, padding_idx: int) -> Array:
    """Return the positions of ids (B, T) in RoBERTa and MPNet: they count the ids other than the padding's, which has -1."""
    counted = ids != padding_idx
    return np.where(counted, np.cumsum(counted, axis=1) - 1, -1)
