# cython: annotation_typing=False, infer_types=True
"""CLOCK, or second chance: FIFO, but who was used since it came, or since the hand passed, goes round once more."""

from __future__ import annotations

import cython
import numpy as np

from .contract import Policy

if not cython.compiled:  # where it is, the .pxd imports them
    from .arrays import octets
from .arrays import zeros

QUEUE = 1


class Clock(Policy):
    """The second chance, with one bit a page. A page comes in without it: its first use is not a second one.

    Source: Corbato, "A paging experiment with the Multics system", MIT Project MAC report MAC-M-384 (1968). Parameters,
    units and errors: as :class:`Policy`.
    """

    def __init__(self, pages: int, capacity: int) -> None:
        super().__init__(pages, capacity)
        self.marks = zeros(pages, np.uint8)
        self.used = octets(self.marks)

    def on_hit(self, page: int) -> None:
        """Has a second chance."""
        self.used[page] = 1

    def on_insert(self, page: int) -> None:
        """Last in the queue."""
        self.used[page] = 0
        self.push(QUEUE, page)

    def on_victim(self, coming: int) -> int:
        """The first in the queue that has no second chance; those before it have had theirs."""
        page = self.oldest(QUEUE)
        while self.used[page] != 0:
            self.used[page] = 0
            self.unlink(page)
            self.push(QUEUE, page)
            page = self.oldest(QUEUE)
        self.unlink(page)
        return page
