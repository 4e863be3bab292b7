# cython: annotation_typing=False, infer_types=True
"""LIRS: who leaves is decided by how many others were used between the last two uses of a page, not since the last.

Nearly all room is for hot pages, those with the fewest between; a hundredth is for the others, which leave in turn. Who
comes back sooner than the hot page that was not used for longest takes its place. So a loop larger than the room keeps
what fits, and after a phase change old hot pages give way as soon as new ones are used twice.
"""

from __future__ import annotations

from .contract import Lists, Policy

OUT, HOT, COLD, GHOST = 0, 1, 2, 3  # LIR, resident HIR and non-resident HIR of the paper
STACK = 1


class Lirs(Policy):
    """Low inter-reference recency: hot pages, and cold ones, a hundredth of ``capacity`` and at least one.

    Source: Jiang, Zhang, "LIRS: an efficient low inter-reference recency set replacement policy to improve buffer cache
    performance", SIGMETRICS 2002, section 3. Its ghosts are not bounded, and here they cost nothing: what is kept for a
    page is there in any case, 18 bytes. Parameters, units and errors: as :class:`Policy`.
    """

    def __init__(self, pages: int, capacity: int) -> None:
        super().__init__(pages, capacity, 2, 1)
        self.stack = Lists(pages, 1, 0)
        self.on_resize(capacity)

    def on_hit(self, page: int) -> None:
        """On top of the stack; a cold one whose last use is in there is hot now, another one is last to leave."""
        if self.place[page] == HOT:
            self.stack.unlink(page)
            self.stack.push(STACK, page)
            self.prune()
        elif self.stack.place[page] != OUT:
            self.reuse(page)
        else:
            self.unlink(page)
            self.push(COLD, page)
            self.stack.push(STACK, page)
            self.prune()  # all hot ones may have been removed

    def on_insert(self, page: int) -> None:
        """A ghost has been used sooner than the last of the hot pages. Others are cold, once the hot room is full."""
        if self.place[page] == GHOST:
            self.reuse(page)
            return
        self.push(HOT if self.length[HOT] < self.room_hot else COLD, page)
        self.stack.push(STACK, page)

    def on_victim(self, coming: int) -> int:
        """The first of the cold pages, which is a ghost from now on if its last use is in the stack."""
        if self.length[COLD] == 0:  # they were removed, or the room is one page
            page = self.stack.oldest(STACK)
            self.forget(page)
            self.prune()
            return page
        page = self.oldest(COLD)
        self.unlink(page)
        if self.stack.place[page] != OUT:
            self.push(GHOST, page)
        return page

    def on_remove(self, page: int) -> None:
        """Out of the stack, too."""
        if self.place[page] != OUT:
            self.forget(page)
            self.prune()

    def reuse(self, page: int) -> None:
        """Is hot; the last of the hot pages is cold now."""
        self.unlink(page)
        self.stack.unlink(page)
        self.push(HOT, page)
        self.stack.push(STACK, page)
        self.cool()
        self.prune()

    def cool(self) -> None:
        """The last of the hot pages are cold, as many as are too many."""
        while self.length[HOT] > self.room_hot:
            last = self.stack.oldest(STACK)
            self.stack.unlink(last)
            self.unlink(last)
            self.push(COLD, last)
            self.prune()

    def on_resize(self, capacity: int) -> None:
        """The same parts of it."""
        self.capacity = capacity
        self.room_hot = max(1, capacity - max(1, capacity // 100))
        self.cool()

    def prune(self) -> None:
        """The last in the stack is hot: what is below cannot be used sooner than it."""
        while self.stack.length[STACK] != 0:
            last = self.stack.oldest(STACK)
            if self.place[last] == HOT:
                return
            self.stack.unlink(last)
            if self.place[last] == GHOST:
                self.unlink(last)

    def forget(self, page: int) -> None:
        """Out of all lists."""
        self.unlink(page)
        if self.stack.place[page] != OUT:
            self.stack.unlink(page)
