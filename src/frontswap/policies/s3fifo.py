# cython: annotation_typing=False, infer_types=True
"""S3-FIFO: a small queue that most new pages leave soon, a main one for those that were used, and ghosts.

Pages come into the small queue, a tenth of the room. Who was used twice there goes on to the main queue, others leave
and are remembered as ghosts; who comes back while it is one goes to the main queue at once. The main queue is a CLOCK
with two bits.
"""

from __future__ import annotations

import cython
import numpy as np

from .contract import Policy

if not cython.compiled:  # where it is, the .pxd imports them
    from .arrays import octets
from .arrays import zeros

OUT, SMALL, MAIN, GHOST = 0, 1, 2, 3
MOST = 3  # uses are counted in two bits


class S3Fifo(Policy):
    """Three queues: small (a tenth of ``capacity``, at least a page), main (the rest), ghosts (nine tenths).

    Source: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP '23, algorithm 1.
    What it leaves open is as in the authors' libCacheSim: uses begin at 0 again in the main queue, the small queue
    gives up pages until one leaves, a ghost is looked for before somebody leaves. And as there, while the room is
    filled for the first time, pages for which the small queue has no room go to the main one. The paper does not have
    that, and without it a loop is never hit. Parameters, units and errors: as :class:`Policy`.
    """

    def __init__(self, pages: int, capacity: int) -> None:
        super().__init__(pages, capacity, 2, 1)
        self.on_resize(capacity)
        self.filling = 1
        self.returning = pages
        self.counts = zeros(pages, np.uint8)
        self.uses = octets(self.counts)

    def on_hit(self, page: int) -> None:
        """One use more."""
        if self.uses[page] < MOST:
            self.uses[page] += 1

    def on_insert(self, page: int) -> None:
        """Ghosts come back to the main queue, all others to the small one."""
        self.uses[page] = 0
        if self.place[page] == GHOST:
            self.unlink(page)
            self.returning = page
        if page == self.returning or (self.filling != 0 and self.length[SMALL] >= self.room_small):
            self.push(MAIN, page)
        else:
            self.push(SMALL, page)
        self.returning = self.nobody

    def on_victim(self, coming: int) -> int:
        """From the main queue if it has more than its room, else from the small one."""
        self.filling = 0
        if coming != self.nobody and self.place[coming] == GHOST:
            self.unlink(coming)  # or who leaves could push it out
            self.returning = coming
        page = self.nobody
        if self.length[MAIN] <= self.room_main:
            page = self.leave_small()
        if page == self.nobody:  # the small queue had nobody who leaves
            page = self.leave_main()
        return page

    def on_remove(self, page: int) -> None:
        """Nor is it about to return."""
        if page == self.returning:
            self.returning = self.nobody
        if self.place[page] != OUT:
            self.unlink(page)

    def on_resize(self, capacity: int) -> None:
        """The same parts of it. Ghosts that are too many go when a page leaves."""
        self.capacity = capacity
        self.room_small = max(1, capacity // 10)
        self.room_main = capacity - self.room_small
        self.room_ghost = max(1, capacity * 9 // 10)

    def leave_small(self) -> int:
        """The first page of the small queue that was not used twice; those before it go to the main queue."""
        while self.length[SMALL] != 0:
            page = self.oldest(SMALL)
            self.unlink(page)
            if self.uses[page] >= 2:
                self.uses[page] = 0
                self.push(MAIN, page)
            else:
                while self.length[GHOST] >= self.room_ghost:
                    self.unlink(self.oldest(GHOST))
                self.push(GHOST, page)
                return page
        return self.nobody

    def leave_main(self) -> int:
        """The first page of the main queue that has no uses left; those before it have one less and go round."""
        page = self.oldest(MAIN)
        while self.uses[page] != 0:
            self.uses[page] -= 1
            self.unlink(page)
            self.push(MAIN, page)
            page = self.oldest(MAIN)
        self.unlink(page)
        return page
