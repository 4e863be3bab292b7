# cython: annotation_typing=False, infer_types=True
"""SIEVE: a second chance as CLOCK's, but who has it stays where it is, and the hand goes on to newer ones.

So new pages that nobody uses again are met by the hand early, and old ones that are used stay: a quick demotion with
one queue.
"""

from __future__ import annotations

import cython
import numpy as np

from .contract import Policy

if not cython.compiled:  # where it is, the .pxd imports them
    from .arrays import octets
from .arrays import zeros

QUEUE = 1


class Sieve(Policy):
    """One queue, one bit a page, and a hand from the oldest to the newest.

    Source: Zhang, Yang, Yue, Vigfusson, Rashmi, "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm
    for web caches", NSDI '24, algorithm 1. Its authors say that it is not made for scans, as block and page traces
    have them. Parameters, units and errors: as :class:`Policy`.
    """

    def __init__(self, pages: int, capacity: int) -> None:
        super().__init__(pages, capacity)
        self.hand = pages + QUEUE
        self.marks = zeros(pages, np.uint8)
        self.visited = octets(self.marks)

    def on_hit(self, page: int) -> None:
        """Has a second chance."""
        self.visited[page] = 1

    def on_insert(self, page: int) -> None:
        """Newest in the queue."""
        self.visited[page] = 0
        self.push(QUEUE, page)

    def on_victim(self, coming: int) -> int:
        """The first from the hand on that has no second chance; those before it have had theirs."""
        end = self.pages + QUEUE
        page = self.hand
        if page == end:
            page = self.oldest(QUEUE)
        while self.visited[page] != 0:
            self.visited[page] = 0
            page = self.newer[page]
            if page == end:
                page = self.oldest(QUEUE)
        self.hand = self.newer[page]
        self.unlink(page)
        return page

    def on_remove(self, page: int) -> None:
        """The hand does not stay where nobody is."""
        if self.holds(page):
            if self.hand == page:
                self.hand = self.newer[page]
            self.unlink(page)
