"""Memory cgroups, v1 and v2: a fresh group with a limit for each measured child."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.missing import Missing


@dataclass(frozen=True)
class Hierarchy:
    """Where groups are made, and how the files of this version are called."""

    version: int
    parent: Path

    @property
    def limit(self) -> str:
        return "memory.limit_in_bytes" if self.version == 1 else "memory.max"

    @property
    def peak(self) -> str:
        return "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"

    @property
    def events(self) -> str:
        return "memory.oom_control" if self.version == 1 else "memory.events"


def find(proc: Path = Path("/proc/self")) -> Hierarchy:
    """Find the memory controller: v1 below our own group, v2 below the root (inner groups hold no processes)."""
    own = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount, (kind, _, options) = Path(before.split()[4]), after.split()[:3]
        if kind == "cgroup" and "memory" in options.split(","):
            below = mount / own.get("memory", "/").lstrip("/")
            return Hierarchy(1, below if below.is_dir() else mount)
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                if "memory" in (mount / "cgroup.subtree_control").read_text().split():
                    return Hierarchy(2, mount)
    raise Missing("the memory controller of cgroup v1, or of v2 with +memory in the root's cgroup.subtree_control")


class MemoryGroup:
    """A group that exists inside its `with` block; whoever was put into it must have ended before the block does."""

    def __init__(self, hierarchy: Hierarchy, name: str, limit: int, *, swap: bool) -> None:
        self.hierarchy, self.limit, self.swap = hierarchy, limit, swap
        self.path = hierarchy.parent / name

    def __enter__(self) -> Self:
        self.path.mkdir()
        try:
            self._write(self.hierarchy.limit, self.limit)
            if not self.swap:
                self._forbid_swap()
        except BaseException:
            self.path.rmdir()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # the kernel needs a moment to take the last dead process out
        for _attempt in _moments(seconds=10):
            try:
                self.path.rmdir()
            except OSError:
                continue
            return
        raise OSError(f"{self.path} cannot be removed: is there still a process in it?")

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value))

    def _forbid_swap(self) -> None:
        if self.hierarchy.version == 2:
            self._write("memory.swap.max", 0)
        elif (self.path / "memory.memsw.limit_in_bytes").exists():
            self._write("memory.memsw.limit_in_bytes", self.limit)
        else:  # booted with swapaccount=0
            self._write("memory.swappiness", 0)

    @property
    def procs(self) -> Path:
        """A process joins by writing its number here."""
        return self.path / "cgroup.procs"

    def peak(self) -> int:
        """Most bytes that were ever charged to the group."""
        return int((self.path / self.hierarchy.peak).read_text())

    def oom_kills(self) -> int:
        """How many processes the kernel killed to keep the limit."""
        for line in (self.path / self.hierarchy.events).read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0


def _moments(seconds: float) -> Iterator[float]:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield left
        time.sleep(0.02)


def group_name(subject: str) -> str:
    return f"frontswap-bench-{os.getpid()}-{subject}"
