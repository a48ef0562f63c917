"""Router: modules of their own for queries and documents, or for other tasks."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastattn.checkpoint.folder import CheckpointError, confined
from fastattn.runtime.files import write_json
from fastattn.text.modules.module import SENTENCE, Module, read_config

__all__ = ["Router"]

_FILE = "router_config.json"
Key = tuple[str | None, str | tuple[str, ...] | None]


class Router(Module):
    """Chooses the modules of a text by the task, "query" or "document".

    As the first module of a model its routes read texts; behind others they go on from what these made, and a route may be empty.
    `encode_query` of a `SentenceTransformer` or `SparseEncoder` asks for the task "query", `encode_document` for "document" and
    `encode` for none.

    Parameters
    ----------
    sub_modules : mapping of str to sequence of Module
        The modules of each route.
    default_route : str, optional
        Route of a call without a task; by default the first one, with `allow_empty_key`.
    allow_empty_key : bool
        Whether there is a default route if none is named.
    route_mappings : mapping of (task, modality) to str, optional
        Routes of tasks; None stands for any task or modality.  The modality is always "text".

    Raises
    ------
    ValueError
        There are no routes, or a route is named that is not there.
    """

    kind = "Router"

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
        route_mappings: Mapping[Key, str] | None = None,
    ) -> None:
        self.sub_modules = {name: list(modules) for name, modules in sub_modules.items()}
        if not any(self.sub_modules.values()):
            raise ValueError(f"sub_modules must have routes with modules, got {self.sub_modules!r:.200}")
        self.route_mappings = dict(route_mappings or {})
        for route in (*([] if default_route is None else [default_route]), *self.route_mappings.values()):
            if route not in self.sub_modules:
                raise ValueError(f"there is no route {route!r}; routes: {', '.join(self.sub_modules)}")
        self.default_route = next(iter(self.sub_modules)) if default_route is None and allow_empty_key else default_route
        self.allow_empty_key = allow_empty_key

    @classmethod
    def for_query_document(
        cls,
        query_modules: Sequence[Module],
        document_modules: Sequence[Module],
        default_route: str | None = "document",
        allow_empty_key: bool = True,
    ) -> Router:
        """Make a router of two routes, "query" and "document".

        Parameters
        ----------
        query_modules, document_modules : sequence of Module
            The modules of each.
        default_route : str, optional
            As in the constructor.
        allow_empty_key : bool
            As in the constructor.

        Returns
        -------
        Router
        """
        return cls({"query": query_modules, "document": document_modules}, default_route, allow_empty_key)

    @classmethod
    def _load(cls, folder: Path, read: Callable[[str, Path, Path], Module]) -> Router:
        """Read the module's folder; `read` reads a module of a class name from its folder, with the file that names them."""
        path = folder / _FILE if (folder / _FILE).exists() else folder / "config.json"
        content = read_config(path)
        types, structure, parameters = (content.get(key, {}) for key in ("types", "structure", "parameters"))
        if not all(isinstance(part, dict) for part in (types, structure, parameters)):
            raise CheckpointError(f"{path}: types, structure and parameters must be JSON objects")
        modules = {}
        for name, kind in types.items():
            if not isinstance(kind, str):
                raise CheckpointError(f"{path}: the module {name!r} has type {kind!r}")
            modules[name] = read(kind.rpartition(".")[2], confined(folder, name, path), path)
        try:
            routes = {route: [modules[name] for name in names] for route, names in structure.items()}
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: structure must list names of types, {error} is none") from error
        mappings = parameters.get("route_mappings") or {}
        try:
            return cls(
                routes,
                parameters.get("default_route"),
                bool(parameters.get("allow_empty_key", True)),
                {_key(name): route for name, route in mappings.items()},
            )
        except (AttributeError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    def _route(self, task: str | None) -> str:
        """Return the name of the route of a task; ValueError if there is none."""
        for key in ((task, "text"), (task, None), (None, "text"), (None, None)):
            if key in self.route_mappings:
                return self.route_mappings[key]
        if task in self.sub_modules and task:
            return task
        if "text" in self.sub_modules:
            return "text"
        if task is not None or self.default_route is None:
            routes = ", ".join(map(repr, self.sub_modules))
            advice = "" if task is not None else "; call encode_query or encode_document, or give `task`"
            raise ValueError(f"there is no route for the task {task!r}; routes: {routes}{advice}")
        return self.default_route

    def _width(self, widths: dict[str, int]) -> None:
        """Record the widths that every route writes; those of an embedding may differ, as sentence-transformers allows."""
        found: list[dict[str, int]] = []
        for modules in self.sub_modules.values():
            written = dict(widths)
            for module in modules:
                module._width(written)
            found.append(written)
        widths.update({name: width for name, width in found[0].items() if all(name in written for written in found)})
        if SENTENCE not in widths:
            raise ValueError(f"every route must end in a {SENTENCE}; routes: {', '.join(self.sub_modules)}")

    def get_embedding_dimension(self) -> int | None:
        """Return the width of the embeddings of the first route whose modules tell it.

        Returns
        -------
        int or None
            C, or V of a sparse model.
        """
        for modules in self.sub_modules.values():
            for module in reversed(modules):
                if hasattr(module, "get_embedding_dimension"):
                    return int(module.get_embedding_dimension())
        return None

    def get_config_dict(self) -> dict[str, Any]:
        """Return the parameters in ``router_config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        mappings = {str(key): route for key, route in self.route_mappings.items()}
        return {"default_route": self.default_route, "allow_empty_key": self.allow_empty_key, "route_mappings": mappings}

    def save(self, output_path: str | os.PathLike[str]) -> None:
        """Write the routes into a folder.

        Parameters
        ----------
        output_path : str or path
            Folder to write; created if missing.
        """
        folder = Path(output_path)
        folder.mkdir(parents=True, exist_ok=True)
        names: dict[int, str] = {}
        types, structure = {}, {}
        for route, modules in self.sub_modules.items():
            for i, module in enumerate(modules):
                # Two routes may share a module.
                if id(module) not in names:
                    name = names[id(module)] = f"{route}_{i}_{module.kind}"
                    types[name] = f"{module.library}.{module.kind}"
                    module.save(folder / name)
            structure[route] = [names[id(module)] for module in modules]
        write_json(folder / _FILE, {"types": types, "structure": structure, "parameters": self.get_config_dict()})

    def __repr__(self) -> str:
        """Show the routes."""
        routes = {route: [module.kind for module in modules] for route, modules in self.sub_modules.items()}
        return f"Router({routes}, default_route={self.default_route!r})"


def _key(text: str) -> Key:
    """Return a (task, modality) that is written as Python writes a tuple."""
    found = ast.literal_eval(text)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"route_mappings must have keys of a task and a modality, found {text!r:.200}")
    return found
