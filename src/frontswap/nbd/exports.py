"""Exports: swap areas with names, and what they and their bases are made of."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..area import MOST_PAGES, MOST_WEIGHT, Frontswap, parse_weight
from ..backends.stack import Spec, Stack, stacks_of
from ..backends.zcache import SMALLEST, Zcache
from ..core.nbd import Export as Transmission
from ..errors import ParameterError
from ..sizes import format_size, parse_size
from .base import PAGE, Base, RamBase
from .protocol import MOST_NAME

#: a base of one export, as large as page numbers allow
MOST_SIZE = PAGE << 28


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
        weight: int | None,
    ) -> None:
        """Swap on; `base` is the area's from now on. `spare`: pages by which it may grow. `weight`: the area's."""
        self.name = wanted.name
        self.size = wanted.size
        self.base = base
        self.written_through = written_through
        self.clients = 0  #: connections that have it now
        self.left = time.monotonic()  #: when the last one went
        self.area = hooks.swapon(
            size=wanted.size,
            page=PAGE,
            swap=base,
            most_pages=wanted.size // PAGE + spare,
            quota=wanted.quota,
            weight=weight,
        )
        if isinstance(base, Base) and base.kept:
            for first, pages in base.extents():
                self.area.slots_have(first, pages)
        self.transmission = Transmission(hooks._core, type=self.area.type, written_through=written_through)

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
    """The exports of a server, behind one set of hooks. The first is the default too: the one without a name."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        *,
        memory: int | str,
        backends: Spec = "zcache",
        writethrough: bool = False,
        overcommit: bool = False,
        discard: bool = False,
    ) -> None:
        """Open the bases, swap the areas on.

        Args:
            wanted: the exports.
            memory: bytes of RAM for pages: what zcache may take, and what exports without a base may have in all.
            backends: stacks in front of the bases, see docs/frontswap.md.
            writethrough: each write is in the base before it is acknowledged, and counts after a restart.
            overcommit: do not reserve the disk space of files.
            discard: what is in the bases may go.

        Raises:
            ParameterError: exports of one name, or that do not fit; a backend that wants more than `memory`.
            BaseError: a base cannot be used.
        """
        most = parse_size(memory, "memory")
        _check(wanted, most, writethrough)
        stacks = [_within(stack, most) for stack in stacks_of(backends)]
        self.memory = most
        self._exports: dict[str, Export] = {}
        self._resizing = threading.Lock()
        # Page numbers that nobody needs cost nothing; each area begins at a multiple of 32.
        spare = (MOST_PAGES - sum(one.size // PAGE + 64 for one in wanted)) // len(wanted) // 32 * 32
        self.hooks = Frontswap(stacks)
        try:
            self.hooks.writethrough(writethrough)
            for one in wanted:
                base: Base | RamBase = (
                    RamBase(one.size)
                    if one.base is None
                    else Base(one.base, one.size, writethrough=writethrough, overcommit=overcommit, discard=discard)
                )
                # Where weights count, RAM in the place of a base is not what the others' pages make way for.
                weight = 0 if one.base is None and any(other.weight is not None for other in wanted) else one.weight
                self._exports[one.name] = Export(
                    self.hooks, one, base, writethrough, spare=max(0, spare), weight=weight
                )
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Export:
        if not name and name not in self._exports:
            return next(iter(self._exports.values()))
        return self._exports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._exports)

    def __len__(self) -> int:
        return len(self._exports)

    @property
    def unsaved_pages(self) -> int:
        """Pages that are lost when the server ends."""
        return sum(export.area.used_pages() for export in self.values() if not export.written_through)

    def statistics(self) -> dict[str, Any]:
        """All of them, and what is behind them."""
        hooks = asdict(self.hooks.statistics())
        del hooks["areas"]  # they are the exports'
        return {"exports": [export.statistics() for export in self.values()], "hooks": hooks}

    def resize(self, name: str, size: int) -> None:
        """Give an export another size in bytes, while clients use it. It shrinks only if nothing is lost by that.

        Raises:
            ParameterError: no export of that name, a size that it cannot have, or more RAM than there is for it.
            InUseError: pages that it would lose are in use. Nothing has changed.
            BaseError: its base cannot follow. Pages that are there are safe; it may have lost those that were not used.
        """
        with self._resizing:
            if name not in self._exports and (name or not self._exports):
                raise ParameterError("name", name, f"an export: {', '.join(map(repr, self._exports))}")
            export = self[name]
            _check_size(size)
            if isinstance(export.base, RamBase):
                plain = sum(one.size for one in self.values() if isinstance(one.base, RamBase))
                _fits(plain - export.size + size, self.memory)
            if size > export.area.most_pages * PAGE:
                most = format_size(export.area.most_pages * PAGE)
                raise ParameterError("size", format_size(size), f"at most {most}: so far do its page numbers reach")
            export.resize(size)

    def close(self) -> None:
        """Swap off. Nobody may transmit any more."""
        with self._resizing:
            self.hooks.close(force=True)


def _check(wanted: Sequence[Wanted], most: int, writethrough: bool) -> None:
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
    bases = [os.path.realpath(one.base) for one in wanted if one.base]
    if len(set(bases)) < len(bases):
        raise ParameterError("base", bases[0], "of one export only")
    _fits(sum(one.size for one in wanted if one.base is None), most)
    for one in wanted:
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
    if writethrough and any(one.base is None for one in wanted):
        raise ParameterError("writethrough", True, "for exports with a base: there is nothing to write through to")


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
