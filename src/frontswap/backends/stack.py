"""Stacks: a backend and the filters that stand on it, as objects or as a spec string.

``"active_only / limit:size=2GiB / zcache:codec=auto"`` is ``ActiveOnly() / Limit(size="2GiB") / Zcache()``: who is
asked first stands first. Several stacks, tried in order: ``"zcache + model"``, or a list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..core.adapter import PythonBackend
from ..core.native import Native
from ..errors import SpecError
from . import registry
from .contract import Backend
from .layers import Filter, Layer

_ALLOWED = "filters and at last a backend, with ' / ' between them"


@dataclass(frozen=True)
class Stack:
    """Layers, topmost first. Complete when the last is a backend."""

    layers: tuple[Layer | Backend, ...]

    def __truediv__(self, below: Layer | Stack | Backend) -> Stack:
        """Put these filters on `below`."""
        added = below.layers if isinstance(below, Stack) else (below,)
        if not all(isinstance(layer, Layer | Backend) for layer in added):
            raise SpecError(str(self), below, "a filter, a backend or a stack of them")
        if not isinstance(self.layers[-1], Filter):
            raise SpecError(str(self), str(Stack(added)), "nothing: a backend stands on nothing")
        return Stack((*self.layers, *added))

    @property
    def backend(self) -> Layer | Backend:
        """The last of its layers."""
        return self.layers[-1]

    @property
    def name(self) -> str:
        """The name of its backend."""
        return self.backend.name

    def __str__(self) -> str:
        return " / ".join(layer.name for layer in self.layers)

    def check(self) -> Stack:
        """The stack itself if it is complete: filters, and one backend at last."""
        for layer in self.layers[:-1]:
            if not isinstance(layer, Filter):
                raise SpecError(str(self), layer.name, f"{_ALLOWED}: {layer.name} is a backend, and must be the last")
        if isinstance(self.backend, Filter):
            raise SpecError(str(self), self.name, f"{_ALLOWED}: {self.name} is a filter, put a backend behind it")
        if not self.name:
            raise SpecError(str(self), type(self.backend).__name__, "a backend with a name")
        return self

    def native(self) -> list[Native]:
        """New native objects of its layers, topmost first, put together."""
        made = [
            layer.native() if isinstance(layer, Layer) else PythonBackend(layer.name, layer) for layer in self.layers
        ]
        for upper, lower in pairwise(made):
            upper.stand_on(lower)
        return made


Part = str | Layer | Backend | Stack
Spec = Part | Sequence[Part] | None


def parse(spec: str) -> list[Stack]:
    """The stacks of a spec string."""
    stacks = []
    for text in re.split(r"\s+\+\s+", spec.strip()) if spec.strip() else []:
        parts = re.split(r"\s+/\s+", text.strip())
        if not all(parts):
            raise SpecError("backends", text, _ALLOWED)
        stacks.append(Stack(tuple(registry.make(part) for part in parts)).check())
    return stacks


def stacks_of(spec: Spec) -> list[Stack]:
    """The stacks that a setting means: None and "" are none."""
    if spec is None:
        return []
    if isinstance(spec, str):
        return parse(spec)
    if isinstance(spec, Stack):
        return [spec.check()]
    if isinstance(spec, Layer | Backend):
        return [Stack((spec,)).check()]
    if not isinstance(spec, Sequence):
        raise SpecError("backends", spec, 'a spec such as "zcache" or "limit:size=1GiB / zcache", a backend, or a list')
    return [stack for part in spec for stack in stacks_of(part)]
