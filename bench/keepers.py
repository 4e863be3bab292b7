"""Who keeps the array in a measured child, and what it can say about the memory it uses."""

import dataclasses
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.zram import read_pool


class Keeper(Protocol):
    """An array of bytes from somewhere. Made outside of the memory cgroup; `make` is called inside."""

    def make(self, count: int, dtype: str) -> NDArray[Any]:
        """Hand out the one array."""

    def before_random(self) -> None:
        """Random access comes now: give the advice that this keeper was made with, if any."""

    def sample(self) -> dict[str, float]:
        """Counters, as they stand."""

    def close(self) -> None:
        """Let go of everything; the array must be gone."""


class Anonymous:
    """NumPy's own memory."""

    def make(self, count: int, dtype: str) -> NDArray[Any]:
        return np.empty(count, dtype)

    def before_random(self) -> None:
        pass

    def sample(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


class Zram(Anonymous):
    """The same, which the kernel swaps to zram."""

    def __init__(self, mm_stat: str) -> None:
        self._mm_stat = Path(mm_stat)

    def sample(self) -> dict[str, float]:
        return dataclasses.asdict(read_pool(self._mm_stat))


class Memmap:
    """A file in the page cache."""

    def __init__(self, file: str, advice: str | None) -> None:
        self._file = Path(file)
        self._advice = {None: None, "random": mmap.MADV_RANDOM}[advice]
        self._array: np.memmap[Any, Any] | None = None

    def make(self, count: int, dtype: str) -> NDArray[Any]:
        self._array = np.memmap(self._file, dtype, mode="w+", shape=(count,))
        return self._array

    def before_random(self) -> None:
        if self._advice is not None and self._array is not None:
            mapped = self._array.base
            assert isinstance(mapped, mmap.mmap)
            mapped.madvise(self._advice)

    def sample(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._array = None
        self._file.unlink()


class Frontswap:
    """The memory door."""

    def __init__(self, limit: int, folder: str, page: int | None) -> None:
        import frontswap  # only its own child may load it: it changes the process

        self._type = frontswap.Memory
        self._limit, self._folder, self._page = limit, folder, page

    def make(self, count: int, dtype: str) -> NDArray[Any]:
        self._memory = self._type(limit=self._limit, swap=self._folder)
        return self._memory.empty((count,), dtype, page=self._page)

    def before_random(self) -> None:
        pass

    def sample(self) -> dict[str, float]:
        return dataclasses.asdict(self._memory.statistics())

    def close(self) -> None:
        self._memory.close()


def keeper(name: str, **settings: Any) -> Keeper:
    """Make the keeper of a subject."""
    makers: dict[str, Callable[..., Keeper]] = {
        "anonymous": Anonymous,
        "zram": Zram,
        "memmap": Memmap,
        "frontswap": Frontswap,
    }
    return makers[name](**settings)
