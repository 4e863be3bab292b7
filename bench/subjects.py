"""Who is measured, and in how much RAM."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from bench import zram, zswap
from bench.missing import Missing

ZRAM = "zram-lz4"
COMPRESSING = frozenset({"zram", "zswap", "frontswap"})


@dataclass(frozen=True)
class Subject:
    """One way to hold more array than RAM."""

    name: str
    keeper: str  # who keeps the array: a class of keepers.py
    what: str
    page: int | None = None  # frontswap's page; None: its own choice
    algorithm: str = ""  # zram's
    advice: str | None = None  # madvise() of the mapping before the random touches
    limited: bool = True
    same_ram: bool = False  # the limit, and beside it as much as zram's uncharged pool took
    only: tuple[str, ...] | None = None  # the steps it is there for; None: all
    python: str | None = None  # whose frontswap it is; None: that of this Python

    def takes(self, step: str) -> bool:
        if step == "memory":
            return self.keeper in COMPRESSING and not self.same_ram
        return self.only is None or step in self.only


RANDOM = ("random", "random-write")
SMALL_PAGES = (
    "fill",
    *RANDOM,
)  # what small pages are for; and who takes them for scans waits for the disk 4 KiB at a time

SUBJECTS = (
    Subject("no-limit", "anonymous", "plain NumPy array, all of it in RAM: what there is to lose", limited=False),
    Subject(
        ZRAM,
        "zram",
        "plain NumPy array, swapped to zram with lz4; the pool is not charged to the limit",
        algorithm="lz4",
    ),
    Subject("zram-lzo-rle", "zram", "the same with lzo-rle, the kernel's default", algorithm="lzo-rle"),
    Subject("zswap", "zswap", "plain NumPy array, swapped to a file in --dir behind zswap"),
    Subject("memmap", "memmap", "np.memmap of a file in --dir"),
    Subject("memmap-random", "memmap", "the same with MADV_RANDOM", advice="random", only=RANDOM),
    Subject("frontswap", "frontswap", "page size of its own choice; limit = resident + compressed"),
    Subject("frontswap-4k", "frontswap", "the same with 4 KiB pages", page=4096, only=SMALL_PAGES),
    Subject("frontswap-ram", "frontswap", "limit = the same RAM as zram really used", same_ram=True),
    Subject(
        "frontswap-ram-4k",
        "frontswap",
        "the same with 4 KiB pages",
        page=4096,
        same_ram=True,
        only=SMALL_PAGES,
    ),
)


def subject(name: str) -> Subject:
    return next(known for known in SUBJECTS if known.name == name)


def check(chosen: Subject, folder: Path, size: int) -> None:
    """Say what `chosen` lacks on this machine, before anything is changed."""
    if os.geteuid() != 0:
        raise Missing("root (for a memory cgroup)")
    if chosen.keeper == "zram":
        zram.check(chosen.algorithm)
    if chosen.keeper == "zswap":
        zswap.check(filesystem(folder))
    if chosen.keeper == "frontswap" and importlib.util.find_spec("frontswap") is None:
        raise Missing("frontswap, installed in this Python")
    if chosen.keeper in {"memmap", "frontswap", "zswap"}:
        if (kind := filesystem(folder)) in {"tmpfs", "ramfs"}:
            raise Missing(f"a --dir on a disk ({folder} is {kind}, which is RAM)")
        stat = os.statvfs(folder)
        if stat.f_bavail * stat.f_frsize < zswap.file_bytes(size):
            raise Missing(f"{zswap.file_bytes(size) >> 20} MiB free in {folder}")


def filesystem(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Type of the file system that `folder` lies in."""
    where, best, kind = folder.resolve(), -1, "unknown"
    for line in mounts.read_text().splitlines():
        _, mount, found, *_ = line.split()
        if where.is_relative_to(mount) and len(Path(mount).parts) >= best:
            best, kind = len(Path(mount).parts), found
    return kind
