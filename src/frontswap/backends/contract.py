"""The contract of a backend written in Python, and the values it answers with.

The same contract for native backends stands at ``backend_t`` in ``core/layout.pxd``. A page's life with a backend::

    init(type) ── store ──> held ── load ──> held ── store (again) ──> held, the new bytes
                    │         │                        └─ refused ──> gone: invalidate_page
                    └─ refused: was never here         └─ invalidate_page, invalidate_area ──> gone
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..core.native import REFUSAL_NAMES

if TYPE_CHECKING:
    from ..area import SwapArea


class Refusal(enum.IntEnum):
    """Why a backend does not take a page. False in a condition, as it is no acceptance; one counter each."""

    REFUSED = 1  #: no reason given
    INCOMPRESSIBLE = 2  #: it does not get smaller
    POOL_FULL = 3  #: no room
    LIMIT = 4  #: the filter ``limit``
    INACTIVE = 5  #: the filter ``active_only``: it has not come back soon after it left
    SLOW = 6  #: the filter ``latency``
    PRESSURE = 7  #: memory is short
    STOPPED = 8  #: ``area.stop()``
    INJECTED = 9  #: the filter ``inject``
    ERROR = 10  #: the backend raised
    QUOTA = 11  #: the area's quota in zcache, or its share when the pool is full

    def __bool__(self) -> bool:
        return False


class Pressure(enum.IntEnum):
    """How short memory is: what ``pressure(level)`` asks for."""

    NONE = 0  #: all is well: take what your limits allow
    LOW = 1  #: give a quarter back
    MEDIUM = 2  #: give half back
    CRITICAL = 3  #: near OOM: give back what you can and refuse every store until the level falls


class Backend(ABC):
    """What stands behind the hooks: keeps pages until they are invalidated, or refuses them.

    Called by many threads at once, but for one page by one thread at a time: the hooks own the page meanwhile. Any
    method may block; the page's readers wait, and others do not. A backend must not call the hooks that call it, but
    for ``area.stop()`` and ``area.resume()``. Source of the contract: ``struct frontswap_ops``, frontswap v15 (2012).
    """

    #: name in specs, counters and files; a class without one cannot be registered
    name: str = ""

    def init(self, type: int, area: SwapArea) -> None:  # noqa: B027  # allowed to do nothing
        """Area number `type` is on, empty: `area.page` bytes a page, `area.pages` of them. What it raises stops it.

        `area` is a weak proxy: a backend that keeps it does not keep the area. It may be resized, up to
        `area.most_pages`: offsets are less than the `area.pages` of the moment.
        """

    @abstractmethod
    def store(self, type: int, offset: int, page: memoryview) -> bool | Refusal:
        """Keep a copy of a page's bytes (a 1-d view of bytes, valid during this call only).

        True: the copy is made, and `load` will bring it back until the page is invalidated. False or a
        :class:`Refusal`: no, at any time, for any reason. A page that is here already is replaced, or refused: then
        `invalidate_page` follows. What it raises counts as a refusal, and `invalidate_page` follows.
        """

    @abstractmethod
    def load(self, type: int, offset: int, into: memoryview) -> bool:
        """Fill `into` (a writable 1-d view of the page's size) with the copy, which stays. False: it is lost.

        Only asked for what it has accepted. Lost, raising and wrong all poison the page: never zeros, never old bytes.
        """

    @abstractmethod
    def invalidate_page(self, type: int, offset: int) -> None:
        """The copy is of no use any more. Also for pages that it does not have; not an error then."""

    @abstractmethod
    def invalidate_area(self, type: int) -> None:
        """The area goes: none of its pages is of any use."""

    def pressure(self, level: Pressure) -> None:  # noqa: B027
        """Memory is so short: shed, write back, refuse, until the next call. It must end, whatever is pinned."""

    def statistics(self) -> Mapping[str, int]:
        """Counters of its own."""
        return {}


assert [member.name.lower() for member in Refusal] == list(REFUSAL_NAMES)
