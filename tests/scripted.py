"""Pages for swap areas, and a backend whose answers a test decides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import frontswap
from frontswap.testing.model import Model

PAGE = 4096


def page(generation: int, kind: str = "ramp") -> npt.NDArray[np.uint64]:
    if kind == "noise":
        return np.random.default_rng(generation).integers(0, 1 << 63, PAGE // 8, np.uint64)
    return np.arange(PAGE // 8, dtype=np.uint64) + np.uint64(generation * 1000)


def rough(pages: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Pages that shrink by a third."""
    walks = np.random.default_rng(seed).normal(size=pages * PAGE // 4).astype("f4").cumsum(dtype="f4")
    return walks.view(np.uint64).reshape(pages, -1)


def load(area: frontswap.SwapArea, offset: int) -> npt.NDArray[np.uint64]:
    found = np.full(area.page // 8, 0xDEAD, np.uint64)
    area.load(offset, found)
    return found


class Scripted(Model):
    """A model whose answers a test decides, and which notes what it is asked."""

    name = "scripted"

    def __init__(self) -> None:
        super().__init__()
        self.answer: object = True
        self.loads: object = True
        self.before_store: Callable[[int], None] = lambda offset: None
        self.calls: list[tuple[object, ...]] = []

    def init(self, type: int, area: frontswap.SwapArea) -> None:
        self.calls.append(("init", type))

    def store(self, type: int, offset: int, page: memoryview) -> bool:
        self.before_store(offset)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is True:
            return super().store(type, offset, page)
        return self.answer  # type: ignore[return-value]  # answers of all kinds

    def load(self, type: int, offset: int, into: memoryview) -> bool:
        if isinstance(self.loads, Exception):
            raise self.loads
        return super().load(type, offset, into) if self.loads is True else self.loads  # type: ignore[return-value]

    def invalidate_page(self, type: int, offset: int) -> None:
        self.calls.append(("invalidate_page", type, offset))
        super().invalidate_page(type, offset)

    def invalidate_area(self, type: int) -> None:
        self.calls.append(("invalidate_area", type))
        super().invalidate_area(type)
