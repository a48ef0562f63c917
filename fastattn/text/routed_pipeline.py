"""RoutedPipeline: the modules of a task in a row; RoutedModel: what a model with a Router shows of all modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from fastattn.config import Precision
from fastattn.text.modules import Module, Router, Transformer
from fastattn.text.pipeline import Pipeline

__all__ = ["RoutedModel", "RoutedPipeline"]


class RoutedPipeline(Pipeline):
    """The modules of a model in a row; with a Router, in whatever place, those of a task.

    Parameters
    ----------
    given : sequence of Module
        A Router or a module that reads texts, and the modules that follow it.
    routes : sequence of str, optional
        Names of the route of each Router; by default those of a call without a task, or the first ones.
    """

    def __init__(self, given: Sequence[Module], routes: Sequence[str] | None = None) -> None:
        self.given = list(given)
        self._routers = [module for module in self.given if isinstance(module, Router)]
        if self._routers and self.given[0] is self._routers[0] and not all(self._routers[0].sub_modules.values()):
            raise ValueError("a Router in the first place must have modules in each route")
        usual = (router.default_route or next(iter(router.sub_modules)) for router in self._routers)
        chosen = iter(usual if routes is None else routes)
        modules: list[Module] = []
        for module in self.given:
            modules += module.sub_modules[next(chosen)] if isinstance(module, Router) else [module]
        super().__init__(modules)
        kinds = ", ".join(module.kind for module in self.modules)
        for module in self.modules[1:]:
            if isinstance(module, self.first_kinds):
                raise ValueError(f"a {module.kind} must be the first module, got {kinds}")
            if isinstance(module, Router):
                raise ValueError(f"a Router must not be in a route of another, got {kinds}")
        # Pipelines of the other routes, as they are asked for.
        self._routes: dict[tuple[str, ...], Any] = {}

    def first_modules(self) -> list[Any]:
        """Return the modules that read texts: one, or that of each route."""
        first = self.given[0]
        return [modules[0] for modules in first.sub_modules.values()] if isinstance(first, Router) else [first]

    def everything(self) -> Iterator[Module]:
        """Yield all modules, those of every route in place of a Router."""
        for module in self.given:
            if isinstance(module, Router):
                yield from (inner for modules in module.sub_modules.values() for inner in modules)
            else:
                yield module

    def of_task(self, task: str | None) -> Any:
        """Return the pipeline of a task; ValueError if a Router has no route for it."""
        if not self._routers:
            return self
        routes = tuple(router._route(task) for router in self._routers)
        if routes not in self._routes:
            self._routes[routes] = type(self)(self.given, routes)
        return self._routes[routes]

    def tasks(self) -> list[str | None]:
        """Return the tasks for which every Router has a route; None is that of a call without a task."""
        named = (
            name
            for router in self._routers
            for name in (*router.sub_modules, *(task for task, _ in router.route_mappings if task is not None))
        )
        found: list[str | None] = []
        for task in dict.fromkeys((None, *named)):
            with contextlib.suppress(ValueError):
                for router in self._routers:
                    router._route(task)
                found.append(task)
        return found


class RoutedModel:
    """Modules of a model, Routers among them."""

    _pipeline: Any

    def __len__(self) -> int:
        """Number of modules."""
        return len(self._pipeline.given)

    def __getitem__(self, index: int) -> Module:
        """Return the module at an index."""
        module: Module = self._pipeline.given[index]
        return module

    def __iter__(self) -> Iterator[Module]:
        """Iterate over the modules."""
        return iter(self._pipeline.given)

    @property
    def precision(self) -> Precision:
        """Precision of the arithmetic, fixed when the model is loaded: the encoder's, the first where there are several."""
        modules = [*self._transformers(), *self._pipeline.first_modules()]
        return next((module.precision for module in modules if hasattr(module, "precision")), "float32")

    @property
    def transformers_model(self) -> Any:
        """The encoder, with its head if it has one, the first where there are several; None for a model without an encoder."""
        return next((module.auto_model for module in self._transformers()), None)

    def _transformers(self) -> list[Transformer]:
        return [module for module in self._pipeline.first_modules() if isinstance(module, Transformer)]

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text, special tokens included, longer texts are truncated; with a Router the greatest.

        Setting it sets that of each route.
        """
        most: int = max(module.max_seq_length for module in self._pipeline.first_modules())
        return most

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        for module in self._pipeline.first_modules():
            module.max_seq_length = value
