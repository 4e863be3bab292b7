"""The reclaim policies in plain Python, written from their papers: what those of frontswap must do, page by page.

``access(page)`` is one reference as the papers have it: the page that leaves for it, or None; ``page in model`` tells
before whether it will hit. ``remove(page)`` frees a page; those that the papers say nothing about (ARC) have none.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

Queue = OrderedDict[int, int]  # from the oldest to the newest


def first(queue: Queue) -> int:
    return next(iter(queue))


class Fifo:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: Queue = OrderedDict()

    def __contains__(self, page: int) -> bool:
        return page in self.queue

    def access(self, page: int) -> int | None:
        if page in self.queue:
            self.hit(page)
            return None
        victim = self.evict() if len(self.queue) == self.capacity else None
        self.queue[page] = 0
        return victim

    def hit(self, page: int) -> None:
        pass

    def evict(self) -> int:
        return self.queue.popitem(last=False)[0]

    def remove(self, page: int) -> None:
        self.queue.pop(page, None)


class Lru(Fifo):
    def hit(self, page: int) -> None:
        self.queue.move_to_end(page)


class Clock(Fifo):
    def hit(self, page: int) -> None:
        self.queue[page] = 1

    def evict(self) -> int:
        while self.queue[page := first(self.queue)]:
            self.queue[page] = 0
            self.queue.move_to_end(page)
        return super().evict()


class Sieve(Fifo):
    """Figure 1 of the paper: the hand is at an object, which it looks at next; at none, it begins at the tail."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.hand: int | None = None

    def hit(self, page: int) -> None:
        self.queue[page] = 1

    def newer(self, page: int) -> int | None:
        pages = list(self.queue)
        at = pages.index(page) + 1
        return pages[at] if at < len(pages) else None

    def evict(self) -> int:
        page = first(self.queue) if self.hand is None else self.hand
        while self.queue[page]:
            self.queue[page] = 0
            after = self.newer(page)
            page = first(self.queue) if after is None else after
        self.hand = self.newer(page)
        del self.queue[page]
        return page

    def remove(self, page: int) -> None:
        if page in self.queue and page == self.hand:
            self.hand = self.newer(page)
        super().remove(page)


class S3Fifo:
    """Algorithm 1 of the paper, and two things as its authors' libCacheSim 0.3.5 has them.

    It looks for a ghost before it evicts (the paper after); and while nothing was evicted yet, new pages for which the
    small queue has no room go to the main one (the paper's small queue is longer then).
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.room_small = max(1, capacity // 10)
        self.room_ghosts = max(1, capacity * 9 // 10)
        self.small: Queue = OrderedDict()
        self.main: Queue = OrderedDict()
        self.ghosts: Queue = OrderedDict()
        self.filling = True

    def __contains__(self, page: int) -> bool:
        return page in self.small or page in self.main

    def access(self, page: int) -> int | None:
        for queue in (self.small, self.main):
            if page in queue:
                queue[page] = min(queue[page] + 1, 3)
                return None
        known = self.ghosts.pop(page, None) is not None
        victim = None
        if len(self.small) + len(self.main) == self.capacity:
            self.filling = False
            victim = self.evict()
        early = self.filling and len(self.small) >= self.room_small
        (self.main if known or early else self.small)[page] = 0
        return victim

    def evict(self) -> int:
        if len(self.main) <= self.capacity - self.room_small:
            while self.small:
                page, uses = self.small.popitem(last=False)
                if uses > 1:
                    self.main[page] = 0
                    continue
                while len(self.ghosts) >= self.room_ghosts:
                    self.ghosts.popitem(last=False)
                self.ghosts[page] = 0
                return page
        while self.main[page := first(self.main)]:
            self.main[page] -= 1
            self.main.move_to_end(page)
        del self.main[page]
        return page

    def remove(self, page: int) -> None:
        for queue in (self.small, self.main, self.ghosts):
            queue.pop(page, None)


class Arc:
    """Figure 4 of the paper, case by case."""

    def __init__(self, capacity: int) -> None:
        self.c = capacity
        self.p = 0.0
        self.t1: Queue = OrderedDict()
        self.t2: Queue = OrderedDict()
        self.b1: Queue = OrderedDict()
        self.b2: Queue = OrderedDict()

    def __contains__(self, page: int) -> bool:
        return page in self.t1 or page in self.t2

    def access(self, page: int) -> int | None:
        victim = None
        if page in self:  # case I
            self.t1.pop(page, None)
            self.t2.pop(page, None)
            self.t2[page] = 0
        elif page in self.b1:  # case II
            self.p = min(float(self.c), self.p + max(len(self.b2) / len(self.b1), 1.0))
            victim = self.replace(page)
            del self.b1[page]
            self.t2[page] = 0
        elif page in self.b2:  # case III
            self.p = max(0.0, self.p - max(len(self.b1) / len(self.b2), 1.0))
            victim = self.replace(page)
            del self.b2[page]
            self.t2[page] = 0
        else:  # case IV
            one, all_lists = len(self.t1) + len(self.b1), sum(map(len, (self.t1, self.t2, self.b1, self.b2)))
            if one == self.c:
                if len(self.t1) < self.c:
                    self.b1.popitem(last=False)
                    victim = self.replace(page)
                else:
                    victim = self.t1.popitem(last=False)[0]
            elif all_lists >= self.c:
                if all_lists == 2 * self.c:
                    self.b2.popitem(last=False)
                victim = self.replace(page)
            self.t1[page] = 0
        return victim

    def replace(self, page: int) -> int:
        one = len(self.t1)
        if one >= 1 and ((page in self.b2 and one == self.p) or one > self.p):
            victim = self.t1.popitem(last=False)[0]
            self.b1[victim] = 0
        else:
            victim = self.t2.popitem(last=False)[0]
            self.b2[victim] = 0
        return victim


class Lirs:
    """Section 3 of the paper: the stack S, the queue Q, and LIR pages; a hundredth of the room is for HIR pages."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.room_lir = max(1, capacity - max(1, capacity // 100))
        self.stack: Queue = OrderedDict()  # from the bottom to the top
        self.lir: set[int] = set()
        self.queue: Queue = OrderedDict()  # resident HIR pages
        self.ghosts: Queue = OrderedDict()  # HIR pages that are not resident

    def __contains__(self, page: int) -> bool:
        return page in self.lir or page in self.queue

    def access(self, page: int) -> int | None:
        victim = None
        if page not in self and len(self.lir) + len(self.queue) == self.capacity:
            victim = self.evict()
        ghost = self.ghosts.pop(page, None) is not None
        if page in self.lir:
            pass
        elif ghost or (page in self.queue and page in self.stack):
            self.queue.pop(page, None)
            self.lir.add(page)
            self.stack.pop(page)
            if len(self.lir) > self.room_lir:
                last = first(self.stack)
                del self.stack[last]
                self.lir.remove(last)
                self.queue[last] = 0
        elif page in self.queue:
            self.queue.move_to_end(page)
        elif len(self.lir) < self.room_lir:
            self.lir.add(page)
        else:
            self.queue[page] = 0
        self.stack[page] = 0
        self.stack.move_to_end(page)
        self.prune()
        return victim

    def evict(self) -> int:
        if not self.queue:
            victim = first(self.stack)
            self.remove(victim)
            return victim
        victim = self.queue.popitem(last=False)[0]
        if victim in self.stack:
            self.ghosts[victim] = 0
        return victim

    def prune(self) -> None:
        while self.stack and first(self.stack) not in self.lir:
            self.ghosts.pop(self.stack.popitem(last=False)[0], None)

    def remove(self, page: int) -> None:
        self.lir.discard(page)
        for queue in (self.stack, self.queue, self.ghosts):
            queue.pop(page, None)
        self.prune()


class Duel:
    """LRU and LIRS have the same pages; the one that hit more on the sample lately chooses who leaves (PSEL)."""

    def __init__(self, capacity: int) -> None:
        self.lru, self.lirs = Lru(capacity), Lirs(capacity)
        self.part = 1
        while self.part < 16 and capacity // (2 * self.part) >= 64:
            self.part *= 2
        self.lru_alone, self.lirs_alone = Lru(capacity // self.part), Lirs(capacity // self.part)
        self.psel = 0

    def __contains__(self, page: int) -> bool:
        return page in self.lru

    def access(self, page: int) -> int | None:
        leader, other = (self.lirs, self.lru) if self.psel > 0 else (self.lru, self.lirs)
        victim = leader.access(page)
        if victim is not None:
            other.remove(victim)
        other.access(page)
        self.compare(page)
        return victim

    def sampled(self, page: int) -> bool:
        """One of each group of neighbours, by a hash of the group."""
        group, place = divmod(page, self.part)
        return group * 40503 // 4096 % self.part == place

    def compare(self, page: int) -> None:
        if self.sampled(page):
            group = page // self.part
            self.psel += (group in self.lirs_alone) - (group in self.lru_alone)
            self.psel = max(-8, min(self.psel, 8))
            self.lirs_alone.access(group)
            self.lru_alone.access(group)

    def remove(self, page: int) -> None:
        policies: list[Any] = [self.lru, self.lirs]
        for policy in policies:
            policy.remove(page)
        if self.sampled(page):
            self.lru_alone.remove(page // self.part)
            self.lirs_alone.remove(page // self.part)


def belady(trace: list[int], removed: list[bool], capacity: int) -> int:
    """The misses of the optimum: of those held, the one leaves whose next use is farthest."""

    def next_use(page: int, now: int) -> float:
        for at in range(now, len(trace)):
            if trace[at] == page:
                return float("inf") if removed[at] else at
        return float("inf")

    held: set[int] = set()
    misses = 0
    for now, page in enumerate(trace):
        if removed[now]:
            held.discard(page)
        elif page not in held:
            misses += 1
            if len(held) == capacity:
                held.remove(max(held, key=lambda one: next_use(one, now)))
            held.add(page)
    return misses


def stack_distances(trace: list[int]) -> list[int | None]:
    """How many pages were used since the last use of the same page, itself included; None: it is the first."""
    stack: list[int] = []  # the last used first
    found: list[int | None] = []
    for page in trace:
        found.append(stack.index(page) + 1 if page in stack else None)
        if page in stack:
            stack.remove(page)
        stack.insert(0, page)
    return found


MODELS: dict[str, Any] = {
    "fifo": Fifo,
    "clock": Clock,
    "lru": Lru,
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "arc": Arc,
    "lirs": Lirs,
    "duel": Duel,
}
