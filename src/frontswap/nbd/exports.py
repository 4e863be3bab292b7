"""Exports: swap areas with names, and what they and their bases are made of."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..area import MOST_PAGES, MOST_WEIGHT, Frontswap, parse_weight
from ..backends.stack import Spec, Stack, stacks_of
from ..backends.zcache import SMALLEST, Zcache
from ..core.nbd import Export as Transmission
from ..errors import BaseError, ClosedError, InUseError, ParameterError
from ..sizes import format_size, parse_size
from .base import PAGE, Base, RamBase
from .locked import take_memory, take_pages
from .protocol import MOST_NAME

#: a base of one export, as large as page numbers allow
MOST_SIZE = PAGE << 28
#: exports of a server: each has a swap area
MOST_EXPORTS = 63
#: of set_shares(): it stays as it is
KEEP = -1


@dataclass(frozen=True)
class Wanted:
    """An export that is asked for."""

    name: str
    size: int  #: bytes
    base: Path | None  #: None: RAM
    quota: int | None = None  #: bytes of the pool that its pages may take; None: no quota
    weight: int | None = None  #: of its share of the pool; None: 1

    def __post_init__(self) -> None:
        if len(self.name.encode(errors="replace")) > MOST_NAME or "\0" in self.name or not _is_text(self.name):
            raise ParameterError("export", self.name, f"a name in UTF-8 of at most {MOST_NAME} bytes, without NUL")
        _check_size(self.size)


def _check_size(size: int) -> None:
    if not 0 < size <= MOST_SIZE or size % PAGE:
        raise ParameterError("size", size, f"a multiple of {PAGE} bytes, more than 0, at most {format_size(MOST_SIZE)}")


def _is_text(name: str) -> bool:
    """Can it be sent? An argument that is no UTF-8 has surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_export(text: str) -> Wanted:
    """The export that NAME:SIZE or NAME:SIZE:BASE means."""
    match = re.fullmatch(r"([^:]*):([^:]+)(?::(.+))?", text, re.DOTALL)
    if match is None:
        raise ParameterError("export", text, "NAME:SIZE or NAME:SIZE:BASE, as disk:8G:/var/lib/disk")
    name, size, base = match.groups()
    return Wanted(name, parse_size(size, "export"), Path(base) if base else None)


def with_shares(wanted: Sequence[Wanted], quotas: Sequence[str], weights: Sequence[str]) -> list[Wanted]:
    """The same exports with what NAME=SIZE (quotas) and NAME=N (weights) say.

    Raises:
        ParameterError: there is no such export, two are for one, or a value is not allowed.
    """
    sizes = {name: parse_size(value, f"quota {name!r}") for name, value in _by_name(wanted, quotas, "quota").items()}
    numbers: dict[str, int | None] = {}
    for name, value in _by_name(wanted, weights, "weight").items():
        if not value.isdecimal():
            raise ParameterError(f"weight {name!r}", value, f"0 to {MOST_WEIGHT}")
        numbers[name] = parse_weight(int(value), f"weight {name!r}")
    return [replace(one, quota=sizes.get(one.name), weight=numbers.get(one.name)) for one in wanted]


def _by_name(wanted: Sequence[Wanted], given: Sequence[str], parameter: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names = [one.name for one in wanted]
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or name not in names:
            known = ", ".join(map(repr, names))
            raise ParameterError(parameter, text, f"NAME={'SIZE' if parameter == 'quota' else 'N'}, of one of: {known}")
        if name in found:
            raise ParameterError(parameter, text, "one for each export: there are two of it")
        found[name] = value
    return found


class Export:
    """A swap area under a name."""

    def __init__(
        self,
        hooks: Frontswap,
        wanted: Wanted,
        base: Base | RamBase,
        written_through: bool,
        *,
        spare: int,
    ) -> None:
        """Swap on; `base` is the area's from now on. `spare`: pages by which it may grow."""
        self.name = wanted.name
        self.size = wanted.size
        self.base = base
        self.written_through = written_through
        self._removing = False
        self._changed = threading.Condition()  # of the next one, and of _removing
        self.clients = 0  #: connections that have it now
        self.left = time.monotonic()  #: when the last one went
        self.area = hooks.swapon(
            size=wanted.size,
            page=PAGE,
            swap=base,
            most_pages=wanted.size // PAGE + spare,
            quota=wanted.quota,
            weight=wanted.weight,
        )
        try:
            if isinstance(base, Base) and base.kept:
                for first, pages in base.extents():
                    self.area.slots_have(first, pages)
        except BaseException:
            self.area.swapoff()
            raise
        self.transmission = Transmission(hooks._core, type=self.area.type, written_through=written_through)

    def admit(self) -> bool:
        """A connection begins to have it, until leave(). False: it is being removed."""
        with self._changed:
            if not self._removing:
                self.clients += 1
            return not self._removing

    def leave(self) -> None:
        """A connection has it no more."""
        with self._changed:
            self.clients -= 1
            self.left = time.monotonic()
            self._changed.notify_all()

    def remove(self, hang_up: Callable[[str], int], *, force: bool) -> None:
        """Swap off. What was written through is in the base, and its disk has it.

        Race: its transmission knows the area by number, which the next area may have. So nobody is let in any more
        before it is known that nobody is there.

        Args:
            hang_up: end the connections to the export of this name.
            force: even if connections are ended and pages lost by that.

        Raises:
            InUseError: connections have it, or pages are in use that are nowhere else. Nothing has changed.
            BaseError: what was written through may not be on the disk. Nothing has changed.
        """
        with self._changed:
            if not force and self.clients:
                raise InUseError(f"remove: {self.clients} clients have export {self.name!r}; detach, or --force")
            if not force and self.unsaved_pages:
                raise InUseError(
                    f"remove: {self.unsaved_pages} pages of export {self.name!r} are in use and are nowhere else; "
                    "swapoff and trim them, or --force"
                )
            self._removing = True
        hang_up(self.name)
        with self._changed:
            self._changed.wait_for(lambda: self.clients == 0)
        if not self.transmission.sync() and not force:
            self._removing = False
            raise BaseError(
                errno.EIO,
                f"export {self.name!r}: its base could not be written to the disk; what was written through may be "
                "lost (--force removes it all the same)",
            )
        self.area.swapoff()

    @property
    def unsaved_pages(self) -> int:
        """Pages that are lost when it goes."""
        try:
            return 0 if self.written_through else self.area.used_pages()
        except ClosedError:  # it has gone
            return 0

    @property
    def idle_for(self) -> float:
        """Seconds since the last client went, or since it was made."""
        return time.monotonic() - self.left

    @property
    def description(self) -> str:
        """What it stands on, for people."""
        if isinstance(self.base, RamBase):
            return "frontswap: RAM"
        return f"frontswap: {'written through to' if self.written_through else 'in front of'} {self.base.path}"

    def resize(self, size: int) -> None:
        """Have another size: who connects from now on sees it, and every request is held against it."""
        if size >= self.area.pages * PAGE:
            self.base.resize(size)
            self.area.resize(size // PAGE)
        else:
            self.area.resize(size // PAGE)
            self.size = size
            self.base.resize(size)
        self.size = size

    def statistics(self) -> dict[str, Any]:
        """Counters of this moment: what clients asked for, and what became of the pages."""
        found = asdict(self.area.statistics())
        del found["type"], found["page"]
        return {
            "name": self.name,
            "size": self.size,
            "used_pages": self.area.used_pages(),
            "clients": self.clients,
            **self.transmission.counters(),
            **found,
        }


class Exports(Mapping[str, Export]):
    """The exports of a server, behind one set of hooks. The first is the default too: the one without a name.

    They come and go while others look at them: who looks has those of that moment.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        *,
        memory: int | str,
        backends: Spec = "zcache",
        writethrough: bool = False,
        overcommit: bool = False,
        discard: bool = False,
        lock: bool = False,
    ) -> None:
        """Open the bases, swap the areas on.

        Args:
            wanted: the exports.
            memory: bytes of RAM for pages: what zcache may take, and what exports without a base may have in all.
            backends: stacks in front of the bases, see docs/frontswap.md.
            writethrough: each write is in the base before it is acknowledged, and counts after a restart.
            overcommit: do not reserve the disk space of files.
            discard: what is in the bases may go.
            lock: have the RAM of all that they will ever use, now; see locked.py.

        Raises:
            ParameterError: exports of one name, or that do not fit; a backend that wants more than `memory`.
            BaseError: a base cannot be used.
            LockError: there is not so much RAM.
        """
        most = parse_size(memory, "memory")
        self._writethrough, self._overcommit, self._lock = writethrough, overcommit, lock
        self._check(wanted, most)
        stacks = [_within(stack, most) for stack in stacks_of(backends)]
        self.memory = most
        self.locked = 0  #: bytes that are locked
        self._exports: dict[str, Export] = {}  # never changed: replaced
        self._default = wanted[0].name  # for good: no client without a name is to get another one's pages
        self._closed = False
        self._changing = threading.Lock()
        # Page numbers that nobody needs cost nothing; each area begins at a multiple of 32. Half of what is left is for
        # exports to come.
        spare = (MOST_PAGES - sum(one.size // PAGE + 64 for one in wanted)) // 2 // len(wanted) // 32 * 32
        self.hooks = Frontswap(stacks)
        try:
            self.hooks.writethrough(writethrough)
            for one in wanted:
                self._open(one, max(0, spare), discard)
            if lock:
                self.locked += take_memory(self.hooks)
            self._settle_weights()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Export:
        exports = self._exports
        return exports[self._default if not name and name not in exports else name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._exports)

    def __len__(self) -> int:
        return len(self._exports)

    def values(self) -> ValuesView[Export]:
        """Those of this moment."""
        return self._exports.values()

    @property
    def unsaved_pages(self) -> int:
        """Pages that are lost when the server ends."""
        return sum(export.unsaved_pages for export in self.values())

    def statistics(self) -> dict[str, Any]:
        """All of them, and what is behind them."""
        hooks = asdict(self.hooks.statistics())
        del hooks["areas"]  # they are the exports'
        exports = []
        for export in self.values():
            with suppress(ClosedError):  # removed meanwhile
                exports.append(export.statistics())
        return {"exports": exports, "hooks": hooks}

    # --- changes of a running server -------------------------------------------------------------

    def add(self, wanted: Wanted, *, discard: bool = False) -> Export:
        """One more export, as at the beginning. It may grow to twice its size, while most page numbers are left.

        Raises:
            ParameterError: as of the constructor; or no page numbers are left for its size.
            InUseError: there are 63.
            BaseError: its base cannot be used.
        """
        with self._changing:
            self._check_open()
            if len(self) == MOST_EXPORTS:
                raise InUseError(f"add: there are {MOST_EXPORTS} exports, as many as there can be")
            if self.get(wanted.name) is not None:
                raise ParameterError("name", wanted.name, "a name that no export has")
            there = [
                Wanted(one.name, one.size, None if isinstance(one.base, RamBase) else one.base.path)
                for one in self.values()
            ]
            self._check([*there, wanted], self.memory)
            pages, room = wanted.size // PAGE, self.hooks._core.room()
            if pages > room:
                raise ParameterError(
                    "size", format_size(wanted.size), f"at most {format_size(room * PAGE)}, here and now"
                )
            export = self._open(wanted, min(pages, (room - pages) // 8) // 32 * 32, discard)
            self._settle_weights()
            return export

    def remove(self, name: str, hang_up: Callable[[str], int], *, force: bool = False) -> None:
        """Take an export away, see Export.remove(). Who asks for no name gets none, if it was the first one.

        Raises:
            ParameterError: no export of that name.
            InUseError, BaseError: it would lose something, and not `force`. Nothing has changed.
        """
        with self._changing:
            export = self._named(name)
            export.remove(hang_up, force=force)
            self._exports = {key: one for key, one in self._exports.items() if one is not export}
            self._settle_weights()

    def set_shares(self, name: str, *, quota: int | None = KEEP, weight: int | None = KEEP) -> Export:
        """Another quota in bytes and weight of an export, None: none. What it has above its quota leaves for its base.

        Raises:
            ParameterError: no export of that name, or what it cannot have.
        """
        with self._changing:
            export = self._named(name)
            one = Wanted(
                export.name,
                export.size,
                None if isinstance(export.base, RamBase) else export.base.path,
                None if quota == KEEP else quota,
                None if weight == KEEP else weight,
            )
            _check_shares(one, self.memory)
            if weight != KEEP:
                export.area.set_weight(weight)
                self._settle_weights()
            if quota != KEEP:
                export.area.set_quota(quota)
            return export

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the server ends")

    def _named(self, name: str) -> Export:
        self._check_open()
        export = self.get(name)
        if export is None:
            raise ParameterError("name", name, f"an export: {', '.join(map(repr, self))}")
        return export

    def _open(self, one: Wanted, spare: int, discard: bool) -> Export:
        base: Base | RamBase = (
            RamBase(one.size)
            if one.base is None
            else Base(one.base, one.size, writethrough=self._writethrough, overcommit=self._overcommit, discard=discard)
        )
        export = Export(self.hooks, one, base, self._writethrough, spare=spare)
        if self._lock:
            try:
                self.locked += take_pages(export.area, export.area.pages)
            except BaseException:
                export.area.swapoff()
                raise
        self._exports = {**self._exports, one.name: export}
        return export

    def _settle_weights(self) -> None:
        """Where weights count, RAM in the place of a base is not what the others' pages make way for."""
        plain = [one for one in self.values() if isinstance(one.base, RamBase)]
        weighted = any(one.area.weight is not None for one in self.values() if one not in plain)
        for one in plain:
            one.area.set_weight(0 if weighted else None)

    def resize(self, name: str, size: int) -> None:
        """Give an export another size in bytes, while clients use it. It shrinks only if nothing is lost by that.

        Raises:
            ParameterError: no export of that name, a size that it cannot have, or more RAM than there is for it.
            InUseError: pages that it would lose are in use. Nothing has changed.
            BaseError: its base cannot follow. Pages that are there are safe; it may have lost those that were not used.
        """
        with self._changing:
            export = self._named(name)
            _check_size(size)
            if isinstance(export.base, RamBase):
                plain = sum(one.size for one in self.values() if isinstance(one.base, RamBase))
                _fits(plain - export.size + size, self.memory)
            if size > export.area.most_pages * PAGE:
                most = format_size(export.area.most_pages * PAGE)
                raise ParameterError("size", format_size(size), f"at most {most}: so far do its page numbers reach")
            if self._lock and size > export.size:
                self.locked += take_pages(export.area, size // PAGE) - take_pages(export.area, export.area.pages)
            export.resize(size)

    def close(self) -> None:
        """Swap off. Nobody may transmit any more."""
        with self._changing:
            self._closed = True
            self.hooks.close(force=True)

    def _check(self, wanted: Sequence[Wanted], most: int) -> None:
        _check(wanted, most)
        check_bases(wanted, writethrough=self._writethrough, lock=self._lock)


def check_bases(wanted: Sequence[Wanted], *, writethrough: bool, lock: bool) -> None:
    """ParameterError: an export needs a base for that, and has none."""
    for flag, parameter, why in (
        (writethrough, "writethrough", "there is nothing to write through to"),
        (lock, "lock", "RAM in its place could be swapped out itself"),
    ):
        if flag and any(one.base is None for one in wanted):
            raise ParameterError(parameter, True, f"for exports with a base: {why}")


def _check(wanted: Sequence[Wanted], most: int) -> None:
    if not wanted:
        raise ParameterError("export", "nothing", "--size, or at least one --export NAME:SIZE")
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not SMALLEST <= most <= machine:
        allowed = f"from {format_size(SMALLEST)} to the machine's RAM, {format_size(machine)}"
        raise ParameterError("memory", format_size(most), allowed)
    names = [one.name for one in wanted]
    for one in wanted:
        if names.count(one.name) > 1:
            raise ParameterError("export", one.name, "a name of its own: there are two of it")
    if len(names) > MOST_EXPORTS:
        raise ParameterError("export", len(names), f"{MOST_EXPORTS} at most")
    bases = [os.path.realpath(one.base) for one in wanted if one.base]
    for base in bases:
        if bases.count(base) > 1:
            raise ParameterError("base", base, "of one export only")
    _fits(sum(one.size for one in wanted if one.base is None), most)
    for one in wanted:
        _check_shares(one, most)


def _check_shares(one: Wanted, most: int) -> None:
    if one.base is None and (one.quota is not None or one.weight is not None):
        raise ParameterError(
            f"{'weight' if one.quota is None else 'quota'} {one.name!r}",
            one.weight if one.quota is None else format_size(one.quota),
            "for an export with a base: what leaves the pool goes there. Without one it would take more RAM, not "
            "less; its size is what bounds it",
        )
    if one.quota is not None and one.quota > most:
        raise ParameterError(
            f"quota {one.name!r}", format_size(one.quota), f"at most --memory, {format_size(most)}: all there is"
        )


def _fits(plain: int, most: int) -> None:
    """Exports without a base, of so many bytes, must fit in --memory."""
    if plain > most:
        raise ParameterError(
            "size",
            format_size(plain),
            f"at most --memory, {format_size(most)}, where there is no base: pages that do not compress have no other "
            "place (--base FILE gives them one)",
        )


def _within(stack: Stack, most: int) -> Stack:
    """A stack whose zcache takes `most` bytes at most."""
    backend = stack.backend
    if not isinstance(backend, Zcache):
        return stack
    if int(backend.size) > most:
        raise ParameterError("zcache:size", format_size(int(backend.size)), f"at most --memory, {format_size(most)}")
    return replace(stack, layers=(*stack.layers[:-1], replace(backend, size=int(backend.size) or most)))
