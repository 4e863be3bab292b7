"""Who keeps the array in a measured child, and what it can say about the memory it uses."""

import ctypes
import dataclasses
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bench.metadata import rested, rss, settled, status
from bench.proc import field
from bench.zram import read_pool
from bench.zswap import held

MADV_PAGEOUT = 21  # linux/mman.h; since 5.4
LARGE = 512 << 20  # bytes: with less (--quick) nobody waits half a minute
TRIES = 10


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


@runtime_checkable
class Packing(Keeper, Protocol):
    """One that compresses."""

    def push_out(self) -> dict[str, float]:
        """Have all of the array leave RAM; what keeps it then: see needs()."""


def needs(size: int, stayed: int, pool: float, disk: float) -> dict[str, float]:
    """What it takes to keep an array, all overhead counted: a page that did not leave takes itself."""
    return {"size_bytes": size, "ram_bytes": pool + stayed, "disk_bytes": disk, "stayed_bytes": stayed}


class Anonymous:
    """NumPy's own memory."""

    def make(self, count: int, dtype: str) -> NDArray[Any]:
        self._array = np.empty(count, dtype)
        return self._array

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

    def push_out(self) -> dict[str, float]:
        """The kernel's page tables are not counted, nor zram's own table: 16 bytes a page."""
        stayed = page_out(self._array)
        return needs(self._array.nbytes, stayed, self.sample()["mem_used_total"], 0)


class Zswap(Anonymous):
    """The same, which the kernel swaps to zswap."""

    def sample(self) -> dict[str, float]:
        return held()

    def push_out(self) -> dict[str, float]:
        """What zswap does not take goes to the swap file as it is."""
        before = written()
        stayed = page_out(self._array)
        return needs(self._array.nbytes, stayed, self.sample()["mem_used_total"], written() - before)


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
        self._before = rss()
        self._memory = self._type(limit=self._limit, swap=self._folder)
        self._array: NDArray[Any] | None = self._memory.empty((count,), dtype, page=self._page)
        return self._array

    def before_random(self) -> None:
        pass

    def sample(self) -> dict[str, float]:
        return dataclasses.asdict(self._memory.statistics())

    def push_out(self) -> dict[str, float]:
        """By RSS: whatever this process has more in RAM since it made the Memory, which is not resident pages."""
        assert self._array is not None
        for _ in range(TRIES):
            self._memory.advise(self._array, "cold")
            if not self._memory.statistics().resident_bytes:
                break
            time.sleep(0.1)  # a page that has to wait for the disk is left out
        if self._array.nbytes >= LARGE:
            rested(self._memory)
        beside = settled(self._memory) - self._before
        found = self._memory.statistics()
        return {
            **needs(self._array.nbytes, found.resident_bytes, beside + found.pool_bytes, found.swapped_bytes),
            "pool_bytes": found.pool_bytes,
            "pool_live_bytes": found.pool_live_bytes,
        }

    def close(self) -> None:
        self._array = None
        self._memory.close()


def page_out(array: NDArray[Any]) -> int:
    """Have the kernel swap an array out; the bytes that did not leave."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    out = -1
    while (now := status("VmSwap")) > out:
        out = now
        if madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_PAGEOUT):
            raise OSError(ctypes.get_errno(), f"MADV_PAGEOUT: {os.strerror(ctypes.get_errno())}")
    return max(0, array.nbytes - out)


def written() -> int:
    """Bytes that the kernel has written to swap devices since it started."""
    return field(Path("/proc/vmstat"), "pswpout") * mmap.PAGESIZE


def keeper(name: str, **settings: Any) -> Keeper:
    """Make the keeper of a subject."""
    makers: dict[str, Callable[..., Keeper]] = {
        "anonymous": Anonymous,
        "zram": Zram,
        "zswap": Zswap,
        "memmap": Memmap,
        "frontswap": Frontswap,
    }
    return makers[name](**settings)
