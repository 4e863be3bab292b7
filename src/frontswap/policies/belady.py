# cython: annotation_typing=False, infer_types=True
"""Belady's MIN: who is used last of all leaves. It knows what comes, so only a simulator can have it.

No policy misses less where every page that is used has to come in.
"""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

from ..errors import ParameterError
from .contract import Policy

if not cython.compiled:  # where it is, the .pxd imports them
    from .arrays import words

OUT, HELD = 0, 1
NEVER = 0xFFFFFFFF  # the next use of a page that is not used again, or is gone before


class Belady(Policy):
    """The optimum, with a heap of next uses.

    ``next_uses``: what :func:`~frontswap.policies.next_uses` returns, an array of uint32, for each reference when its
    page is used next. Each reference is one ``hit`` or ``insert``, in their order; after the last all is NEVER.
    Source: Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5 (1966);
    that it is the optimum: Mattson and others, 1970. Units and errors: as :class:`Policy`.
    """

    def __init__(self, pages: int, capacity: int, next_uses: Any) -> None:
        super().__init__(pages, capacity, 0)
        if next_uses.dtype != np.uint32 or next_uses.ndim != 1 or not next_uses.flags.c_contiguous:
            raise ParameterError("next_uses", next_uses.dtype, "a contiguous array of uint32, of next_uses()")
        heap = np.zeros(min(pages, capacity), np.uint32)
        spot, due = np.zeros(pages, np.uint32), np.zeros(pages, np.uint32)
        self.behind = (next_uses, heap, spot, due)
        self.references = len(next_uses)
        self.now = 0
        self.next_uses = words(next_uses if len(next_uses) else heap)
        self.heap = words(heap)
        self.spot = words(spot)
        self.due = words(due)

    def on_hit(self, page: int) -> None:
        """Is used later than before."""
        self.advance(page)
        self.rise(self.spot[page], page)

    def on_insert(self, page: int) -> None:
        """Into the heap."""
        self.advance(page)
        self.place[page] = HELD
        self.count += 1
        self.rise(self.count - 1, page)

    def on_victim(self, coming: int) -> int:
        """The top of the heap."""
        page = self.heap[0]
        self.take(page)
        return page

    def on_remove(self, page: int) -> None:
        """Out of the heap."""
        if self.holds(page):
            self.take(page)

    def advance(self, page: int) -> None:
        """One reference more."""
        self.due[page] = NEVER
        if self.now < self.references:
            self.due[page] = self.next_uses[self.now]
        self.now += 1

    # --- the heap: `at` is free, and `page` shall be there, or above, or below -----------------------------------

    def put(self, at: int, page: int) -> None:
        """There."""
        self.heap[at] = page
        self.spot[page] = at

    def rise(self, at: int, page: int) -> None:
        """There, or above."""
        due = self.due[page]
        while at > 0:
            above = self.heap[(at - 1) // 2]
            if self.due[above] >= due:
                break
            self.put(at, above)
            at = (at - 1) // 2
        self.put(at, page)

    def sink(self, at: int, page: int) -> None:
        """There, or below."""
        due = self.due[page]
        below = 2 * at + 1
        while below < self.count:
            if below + 1 < self.count and self.due[self.heap[below + 1]] > self.due[self.heap[below]]:
                below += 1
            if self.due[self.heap[below]] <= due:
                break
            self.put(at, self.heap[below])
            at = below
            below = 2 * at + 1
        self.put(at, page)

    def take(self, page: int) -> None:
        """Take a page out; the last one fills its place."""
        at = self.spot[page]
        self.place[page] = OUT
        self.count -= 1
        last = self.heap[self.count]
        if last != page:
            if self.due[last] > self.due[page]:
                self.rise(at, last)
            else:
                self.sink(at, last)
