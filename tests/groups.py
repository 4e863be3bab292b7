"""Memory cgroups for tests, of version 1 or 2."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import wait_until


class Group:
    """A memory cgroup, version 1 or 2."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.v2 = (path / "cgroup.controllers").exists()
        if not self.limit(limit):
            raise RuntimeError(f"{path} takes no limit of {limit}")

    def limit(self, limit: int) -> bool:
        """Set it; False: more is in use. Version 2 would kill for it, so there it is not even tried."""
        try:
            if self.v2 and int((self.path / "memory.current").read_text(encoding="utf-8")) > limit:
                return False
            (self.path / ("memory.max" if self.v2 else "memory.limit_in_bytes")).write_text(
                str(limit), encoding="utf-8"
            )
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    @property
    def kills(self) -> int:
        text = (self.path / ("memory.events" if self.v2 else "memory.oom_control")).read_text(encoding="utf-8")
        return int(text.split("oom_kill ")[1].split()[0])


def _where_groups_can_be() -> Path | str:
    """A cgroup that we may make children with a memory limit in, or why there is none."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mine = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
            mine = mine if mine.is_dir() else Path("/sys/fs/cgroup/memory")
            return mine if os.access(mine, os.W_OK) else f"needs root: makes a memory cgroup in {mine}"
        if number == "0":
            # Of version 2 a group that has children with limits holds no processes: ours is a child itself.
            mine = Path("/sys/fs/cgroup") / path.lstrip("/")
            for unified in (mine, mine.parent):
                control = unified / "cgroup.subtree_control"
                if control.exists() and "memory" in control.read_text(encoding="utf-8").split():
                    return unified if os.access(unified, os.W_OK) else f"needs root: makes a memory cgroup in {unified}"
    return "no memory controller that a cgroup can be made with: neither version 1 nor delegated version 2"


@contextmanager
def memory_group(limit: int) -> Iterator[Group]:
    """A cgroup of this process' own with a limit in bytes, gone afterwards; skips where there can be none."""
    where = _where_groups_can_be()
    if isinstance(where, str):
        pytest.skip(where)
    path = where / f"frontswap-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a memory cgroup: {error}")

    def removed() -> bool:
        try:
            path.rmdir()
        except OSError:  # its last process is still being buried
            return False
        return True

    try:
        yield Group(path, limit)
    finally:
        wait_until(removed, f"processes in {path}")
