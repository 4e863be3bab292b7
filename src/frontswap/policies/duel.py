# cython: annotation_typing=False, infer_types=True
"""A duel of LRU and another policy: who had more hits lately, on a sample of the pages, says who leaves.

Policies that remember what was used often (LIRS above all) keep loops and scans from emptying the room, and pay for it
when the working set changes: the new one is missed a second time. LRU is never worse than its last uses.
"""

from __future__ import annotations

from ..errors import ParameterError
from .lru import Lru
from .registry import OURS, find
from .simulator import Simulation

QUEUE = 1
MOST = 8  # of the score, either way: so many hits on the sample and the lead changes
SAMPLE = 4  # one page of 16 is in the sample,
LEAST = 64  # or more of them, if the sample's room would be less than this


class Duel(Lru):
    """Two policies know all pages that are held, and the one that leads chooses who leaves; the other one forgets it.

    Both run beside it on a sixteenth of the pages with a sixteenth of the room, each alone. A page that only one of
    them holds when it is used counts for that one. LRU leads in the beginning, and when neither is better.

    Source: Qureshi, Jaleel, Patt, Steely, Emer, "Adaptive insertion policies for high performance caching", ISCA 2007,
    section 5, set dueling and its saturating counter PSEL. There sets of a cache play for the rest; a pool is one set,
    so the sample is one of pages, as in Waldspurger and others, "Efficient MRC construction with SHARDS", FAST '15.

    ``other``: the policy beside LRU, by name. Takes 11 bytes a page beside the other one's. ParameterError: a name that
    is none, or has nothing to compare. All else is as in :class:`Policy`.
    """

    def __init__(self, pages: int, capacity: int, other: str = "lirs") -> None:
        super().__init__(pages, capacity)
        if other in ("lru", "duel", "belady"):
            raise ParameterError("other", other, "one of " + ", ".join(sorted({*OURS} - {"lru", "duel", "belady"})))
        made = find(other)
        self.shift = 0
        while self.shift < SAMPLE and capacity >> (self.shift + 1) >= LEAST:
            self.shift += 1
        sample, room = ((pages - 1) >> self.shift) + 1, capacity >> self.shift
        self.other = made(pages, capacity)
        self.alone = Simulation(made(sample, room))
        self.alone_lru = Simulation(Lru(sample, room))
        self.score = 0

    def on_hit(self, page: int) -> None:
        """Both have seen it."""
        self.unlink(page)
        self.push(QUEUE, page)
        self.other.on_hit(page)
        self.compare(page)

    def on_insert(self, page: int) -> None:
        """Both have it."""
        self.push(QUEUE, page)
        self.other.on_insert(page)
        self.compare(page)

    def on_victim(self, coming: int) -> int:
        """Who leads chooses. So what LRU keeps is what the other one begins with, and the other way round."""
        if self.score > 0:
            page = self.other.on_victim(coming)
        else:
            page = self.oldest(QUEUE)
            self.other.on_remove(page)
        self.unlink(page)
        return page

    def on_remove(self, page: int) -> None:
        """Out of everything."""
        if self.holds(page):
            self.unlink(page)
        self.other.on_remove(page)
        if self.sampled(page):
            self.alone.remove(page >> self.shift)
            self.alone_lru.remove(page >> self.shift)

    def on_resize(self, capacity: int) -> None:
        """Of all of them; the sample stays what it is."""
        self.capacity = capacity
        self.other.on_resize(capacity)
        part = max(1, capacity >> self.shift)
        self.alone.policy.on_resize(part)
        self.alone_lru.policy.on_resize(part)

    def sampled(self, page: int) -> bool:
        """One of 2**shift neighbours is, each time another one: pages that are used with a stride must not all be."""
        mask = (1 << self.shift) - 1
        return ((page >> self.shift) * 40503 >> 12) & mask == page & mask

    def compare(self, page: int) -> None:
        """A use of a page."""
        if not self.sampled(page):
            return
        number = page >> self.shift
        ours = self.alone.policy.holds(number)
        lru = self.alone_lru.policy.holds(number)
        if ours and not lru and self.score < MOST:
            self.score += 1
        elif lru and not ours and self.score > -MOST:
            self.score -= 1
        self.alone.use(number)
        self.alone_lru.use(number)
