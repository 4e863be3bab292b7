"""The settings of a Memory, checked before anything is allocated."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from .. import causes
from ..backends.stack import Spec, Stack, stacks_of
from ..backends.zcache import Zcache
from ..core import signals
from ..core.plane import kernel_access, kernel_features, protection_access
from ..core.resize import largest_page
from ..errors import ParameterError
from ..machine import Machine
from ..sizes import MAX_PAGE, format_size, parse_page, parse_size

MIN_LIMIT = 16 << 20
MIN_SEGMENT = 256 << 10
MAX_FAULT_CONTEXTS = 7
#: Linux's own vm.max_map_count
MAPPINGS = 65530
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes in bytes. ``page`` 0 means "auto"."""

    limit: int
    limit_most: int  #: what it may be raised to: tables are made for so much
    limit_later: int  #: what it is expected to be raised to: where pages are protected the smallest one goes with it
    page: int
    max_page: int  #: also the payload of a segment of the record log: a page must fit in one
    page_most: int  #: what an array may have; less than `max_page` when the limit has been lowered
    segment: int
    arena: int
    allocate: int
    threshold: int
    contexts: int
    stacks: tuple[Stack, ...]
    overcommit: bool
    faults: str  #: who catches them: "sigbus", "thread", "sigsegv"
    mappings: int  #: that this process may have
    move: bool
    splits_any: bool  #: for tests: pages are split, and made whole again, whatever the faults were
    huge: int  #: arrays from so many bytes on ask for huge pages, as long as all fits in the limit; 0: none
    early: bool

    @classmethod
    def check(
        cls,
        *,
        limit: int | str,
        page: int | str,
        backends: Spec,
        allocate: int | str | None,
        arena: int | str,
        threshold: int | str,
        swap: object,
        overcommit: bool,
        later: int = 0,
        process: bool = False,
    ) -> Settings:
        """The checked settings; ParameterError names the first one that is not allowed.

        `later`: see `limit_later`; `process`: all of it is to come from there.
        """
        bytes_limit = parse_limit(limit)
        # Segments are a 128th of the limit: seven of them are set aside.
        largest = largest_page(bytes_limit)
        bytes_arena = parse_size(arena, "arena")
        if bytes_arena < bytes_limit or bytes_arena > 1 << 45:
            raise ParameterError("arena", arena, f"between the limit and {format_size(1 << 45)}")
        if swap is not None and not isinstance(os.fspath(swap) if isinstance(swap, os.PathLike) else swap, str):
            raise ParameterError("swap", swap, '"auto", a directory or a new file as str or Path, or None')
        if allocate is not None and swap is not None:
            raise ParameterError("allocate", allocate, "given only with swap=None: a swap file grows as needed")
        if overcommit and swap is None:
            raise ParameterError("overcommit", overcommit, "given only with a swap file")
        stacks = tuple(stacks_of(backends))
        for stack in stacks:
            if isinstance(stack.backend, Zcache):
                stack.backend.check_for_memory(process=process, swap=swap is not None)
        faults = _faults()
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
        settings = cls(
            limit=bytes_limit,
            limit_most=max(bytes_limit, min(bytes_arena // 2, machine)),
            limit_later=later,
            page=0,
            max_page=largest,
            page_most=largest,
            # With headers, a segment holds one largest page, or as much of smaller ones, uncompressed.
            segment=largest + max(4096, largest // 256),
            arena=bytes_arena // MAX_PAGE * MAX_PAGE,
            allocate=bytes_limit if allocate is None else parse_size(allocate, "allocate"),
            threshold=parse_size(threshold, "threshold"),
            contexts=min(MAX_FAULT_CONTEXTS, 2 * (os.cpu_count() or 1)),
            stacks=stacks,
            overcommit=overcommit,
            faults=faults,
            mappings=Machine().number("/proc/sys/vm/max_map_count") or MAPPINGS,
            move=_choice("FRONTSWAP_EVICT", ("move", "wp")) == "move"
            and faults != "sigsegv"
            and kernel_features()["move"],
            huge=huge_from(),
            splits_any=_choice("FRONTSWAP_SPLIT", ("follow", "any")) == "any",
            early=_choice("FRONTSWAP_REGISTER", ("late", "early")) == "early",
        )
        return replace(settings, page=settings.checked_page(page))

    def resized(self, limit: int | str, least: int, most: int) -> Settings:
        """The same with another limit, of `least` to `most` bytes; ParameterError if that cannot be."""
        size = parse_size(limit, "limit")
        least = max(least, MIN_LIMIT)
        if size < least:
            raise ParameterError(
                "limit", limit, f"at least {format_size(least)}, twice what this Memory sets aside for its own work"
            )
        if size > most:
            raise ParameterError(
                "limit", limit, f"at most {format_size(most)}, what this Memory has tables and mappings for"
            )
        return replace(
            self,
            limit=size,
            page_most=min(largest_page(size), self.max_page),
            # by default as much as the limit
            allocate=size if self.allocate == self.limit else self.allocate,
        )

    def checked_page(self, page: int | str) -> int:
        """A page size in bytes, 0 for "auto"; ParameterError if this Memory cannot have it."""
        if page == "auto":
            return 0
        size = parse_page(page, '"auto" or ')
        if size > self.page_most:
            raise ParameterError(
                "page", page, f"at most a 128th of the limit, {format_size(self.page_most)} here: raise limit="
            )
        return size


def parse_limit(limit: int | str) -> int:
    """The bytes of a limit; ParameterError if no Memory can have so few."""
    size = parse_size(limit, "limit")
    if size < MIN_LIMIT:
        raise ParameterError("limit", limit, f"at least {format_size(MIN_LIMIT)}")
    return size


def huge_from() -> int:
    """Bytes from which on plain NumPy arrays get huge pages in this process; 0: they get none.

    NumPy asks for them for arrays of 4 MiB and more (unless NUMPY_MADVISE_HUGEPAGE=0); a kernel that is set to "always"
    gives them to everybody.
    """
    try:
        kernel = HUGE_PAGES.read_bytes()
    except OSError:
        return 0
    if b"[always]" in kernel:
        return 2 << 20
    return 4 << 20 if b"[madvise]" in kernel and numpy_asks() else 0


def numpy_asks() -> bool:
    """True if NumPy asks for huge pages for its large arrays, or will when it is imported."""
    try:
        return bool(sys.modules["numpy"]._core.multiarray._get_madvise_hugepage())
    except (KeyError, AttributeError):  # not there yet, or not a public name: what NumPy does by default
        return os.environ.get("NUMPY_MADVISE_HUGEPAGE", "1") != "0"


def _faults() -> str:
    """Who catches faults: the thread that has them, wherever that can be.

    A thread that blocks SIGBUS would be killed at its first fault: where there is one, a handler thread catches them.
    Where userfaultfd is forbidden, pages are protected and the thread gets SIGSEGV: slower, and said once.
    """
    faults = _choice("FRONTSWAP_FAULTS", ("auto", "sigbus", "thread", "sigsegv"))
    if faults == "auto":
        refused, _ = kernel_access()
        if causes.without_userfaultfd(refused) and protection_access() == 0:
            faults = "sigsegv"
            _say_once(refused)
    signals.watch(faults == "sigsegv")
    if faults == "auto":
        faults = "thread" if Machine().threads_that_block(signal.SIGBUS) else "sigbus"
    return faults


@cache
def _say_once(refused: int) -> None:
    """Warn who makes the first Memory, in the line that does: the first one that is not frontswap's own."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("frontswap."):
        level, frame = level + 1, frame.f_back
    warnings.warn(causes.instead_of_userfaultfd(refused), RuntimeWarning, stacklevel=level)


def _choice(variable: str, allowed: tuple[str, ...]) -> str:
    """An environment variable for tests and for machines that need the other way; the first is the default."""
    value = os.environ.get(variable, allowed[0])
    if value not in allowed:
        raise ParameterError(variable, value, " or ".join(allowed))
    return value
