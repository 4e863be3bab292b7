# cython: annotation_typing=False, infer_types=True
"""The contract of the reclaim policies, and the lists that most of them are made of.

A page is a number, ``0 <= page < pages``. Whoever holds the pages (a simulator, a pool, a pager) tells the policy what
happens to them, and asks it which one leaves. The policy touches no page and knows no bytes.

Everything that is kept for a page lies in arrays (a list is two words for each page, its neighbours), so what a policy
takes follows from ``pages`` alone: 9 to 29 bytes a page, and nothing is allocated after it was made.
"""

from __future__ import annotations

from operator import index

import cython
import numpy as np

from ..errors import ParameterError

if not cython.compiled:  # where it is, the .pxd imports them
    from .arrays import octets, words
from .arrays import zeros

MOST_PAGES = 2**31 - 256  # two of them can be added in 32 bits
OUT = 0  # the place of a page that is in no list


class Lists:
    """Lists of pages, each of which is in one of them or in none. Numbered from 1; the pages from 0 to ``pages - 1``.

    ``lists`` are of pages that are held (0: they are in something else), those behind them of ``ghosts``, who were.
    """

    def __init__(self, pages: int, lists: int, ghosts: int) -> None:
        self.pages = pages
        self.count = 0
        self.ghosts = max(lists, 1) + 1
        ends = lists + ghosts + 1
        linked = pages + ends if lists else 1
        place, older, newer = zeros(pages, np.uint8), zeros(linked, np.uint32), zeros(linked, np.uint32)
        length = zeros(ends, np.uint32)
        if lists:  # each end is its own neighbour: all are empty
            older[pages:] = newer[pages:] = np.arange(pages, linked)
        self.kept = (place, older, newer, length)
        self.place = octets(place)
        self.older = words(older)
        self.newer = words(newer)
        self.length = words(length)

    def holds(self, page: int) -> bool:
        """True for a page in a list that is none of ghosts."""
        return OUT < self.place[page] < self.ghosts

    def push(self, number: int, page: int) -> None:
        """Put a page that is in no list into one, as its newest."""
        end = self.pages + number
        before = self.older[end]
        self.older[page] = before
        self.newer[page] = end
        self.newer[before] = page
        self.older[end] = page
        self.place[page] = number
        self.length[number] += 1
        if number < self.ghosts:
            self.count += 1

    def unlink(self, page: int) -> None:
        """Take a page out of the list that it is in."""
        number = self.place[page]
        before = self.older[page]
        after = self.newer[page]
        self.newer[before] = after
        self.older[after] = before
        self.place[page] = OUT
        self.length[number] -= 1
        if number < self.ghosts:
            self.count -= 1

    def oldest(self, number: int) -> int:
        """The page that was put into a list before all others there. The list is not empty."""
        return self.newer[self.pages + number]


class Policy(Lists):
    """Which of the pages that are held leaves next.

    ``pages``: how many there are, from 1 to 2**31 - 256. ``capacity``: how many can be held, as many; policies that
    divide their room or remember who has left measure both by it. ``len(policy)``: how many are held.
    ``page in policy``: is it?

    ``hit insert victim remove`` check what they are given: ParameterError. Compiled callers use ``on_hit`` and its
    like, which check nothing, need no GIL, and are what a policy implements.
    """

    def __init__(self, pages: int, capacity: int, lists: int = 1, ghosts: int = 0) -> None:
        if not 1 <= pages <= MOST_PAGES:
            raise ParameterError("pages", pages, f"a number of pages from 1 to {MOST_PAGES}")
        if not 1 <= capacity <= MOST_PAGES:
            raise ParameterError("capacity", capacity, f"a number of pages from 1 to {MOST_PAGES}")
        super().__init__(pages, lists, ghosts)
        self.capacity = capacity
        self.nobody = pages

    # --- for Python: with checks ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.count

    def __contains__(self, page: int) -> bool:
        return 0 <= page < self.pages and self.holds(page)

    def hit(self, page: int) -> None:
        """A page that is held was used."""
        self._check(page)
        if not self.holds(page):
            raise ParameterError("page", page, "held: insert() it first")
        self.on_hit(page)

    def insert(self, page: int) -> None:
        """A page has come in, for which there is room."""
        self._check(page)
        if self.holds(page):
            raise ParameterError("page", page, "a page that is not held yet")
        if self.count >= self.capacity:
            raise ParameterError("page", page, f"inserted where there is room: {self.capacity} are held, call victim()")
        self.on_insert(page)

    def victim(self, coming: int | None = None) -> int:
        """The page that leaves now; it is held no longer.

        ``coming``: the page that shall have its place, where one waits (a fault does, reclaim in the background does
        not). A policy may remember it.
        """
        if coming is not None:
            self._check(coming)
            if self.holds(coming):
                raise ParameterError("coming", coming, "a page that is not held yet")
        if self.count == 0:
            raise ParameterError("victim", None, "asked for while pages are held: none is")
        return self.on_victim(self.nobody if coming is None else coming)

    def remove(self, page: int) -> bool:
        """A page is no more, held or not (it was freed): nothing of it is remembered. True if it was held."""
        self._check(page)
        held = bool(self.holds(page))
        self.on_remove(page)
        return held

    def resize(self, capacity: int) -> None:
        """There is room for more or for fewer pages from now on. Nobody leaves: ``victim()`` says who, till it fits."""
        if not 1 <= capacity <= MOST_PAGES:
            raise ParameterError("capacity", capacity, f"a number of pages from 1 to {MOST_PAGES}")
        self.on_resize(capacity)

    def _check(self, page: int) -> None:
        if not 0 <= index(page) < self.pages:
            raise ParameterError("page", page, f"a page from 0 to {self.pages - 1}")

    # --- what a policy is -------------------------------------------------------------------------------------

    def on_hit(self, page: int) -> None:
        """A page that is held was used."""

    def on_insert(self, page: int) -> None:
        """A page that is not held has come in, and there was room."""

    def on_victim(self, coming: int) -> int:
        """Choose a page among those held (there is one), and take it out. ``coming``: who follows, or ``nobody``."""
        return self.nobody

    def on_resize(self, capacity: int) -> None:
        """Divide another room from now on. More may be held than it has."""
        self.capacity = capacity

    def on_remove(self, page: int) -> None:
        """Forget a page, held or not."""
        if self.place[page] != OUT:
            self.unlink(page)
