# cython: annotation_typing=False, infer_types=True
"""ARC: one LRU list of pages used once, one of pages used more often, and ghosts of both that say how to share room.

A ghost that comes back says that its list was too short: the target moves towards it.
"""

from __future__ import annotations

from .contract import Policy

OUT, ONCE, OFTEN, GHOSTS_ONCE, GHOSTS_OFTEN = 0, 1, 2, 3, 4  # T1 T2 B1 B2 of the paper


class Arc(Policy):
    """The adaptive replacement cache; as many ghosts as ``capacity``, in all.

    Source: Megiddo, Modha, "ARC: a self-tuning, low overhead replacement cache", FAST '03, figure 4. (Its patent,
    US 6,996,676, ran out in 2024.) Ghosts beyond the measure are forgotten when a page has come in, and not before:
    the same pages, and it holds after remove() too. Parameters, units and errors: as :class:`Policy`.
    """

    def __init__(self, pages: int, capacity: int) -> None:
        super().__init__(pages, capacity, 2, 2)
        self.target = 0.0
        self.learnt = pages

    def on_hit(self, page: int) -> None:
        """Used more than once."""
        self.unlink(page)
        self.push(OFTEN, page)

    def on_insert(self, page: int) -> None:
        """A ghost is used more than once; anybody else once."""
        if self.place[page] >= self.ghosts:
            if self.learnt != page:  # there was room: nobody had to leave for it
                self.learn(page)
            self.unlink(page)
            self.push(OFTEN, page)
        else:
            self.push(ONCE, page)
        self.learnt = self.nobody
        # After on_resize() there may be too many of all.
        while self.length[GHOSTS_ONCE] != 0 and self.length[ONCE] + self.length[GHOSTS_ONCE] > self.capacity:
            self.unlink(self.oldest(GHOSTS_ONCE))
        while (
            self.length[GHOSTS_OFTEN] != 0
            and self.count + self.length[GHOSTS_ONCE] + self.length[GHOSTS_OFTEN] > 2 * self.capacity
        ):
            self.unlink(self.oldest(GHOSTS_OFTEN))

    def on_victim(self, coming: int) -> int:
        """REPLACE of the paper, and before it what a ghost that comes back teaches."""
        remembered = self.place[coming] if coming != self.nobody else OUT
        if remembered >= self.ghosts and self.learnt != coming:
            self.learn(coming)
            self.learnt = coming
        once = self.length[ONCE]
        if self.length[OFTEN] == 0 or (
            once != 0 and (once > self.target or (once == self.target and remembered == GHOSTS_OFTEN))
        ):
            page = self.oldest(ONCE)
            self.unlink(page)
            self.push(GHOSTS_ONCE, page)
        else:
            page = self.oldest(OFTEN)
            self.unlink(page)
            self.push(GHOSTS_OFTEN, page)
        return page

    def on_resize(self, capacity: int) -> None:
        """What was learnt holds for the part that it was of."""
        self.target = self.target * capacity / self.capacity
        self.capacity = capacity

    def learn(self, page: int) -> None:
        """A ghost comes back: more room for its list, and the more the fewer ghosts that list has."""
        once = 1.0 * self.length[GHOSTS_ONCE]  # in C, integers would divide to integers
        often = 1.0 * self.length[GHOSTS_OFTEN]
        if self.place[page] == GHOSTS_ONCE:
            self.target = min(self.target + max(often / once, 1.0), self.capacity)
        else:
            self.target = max(self.target - max(once / often, 1.0), 0.0)
