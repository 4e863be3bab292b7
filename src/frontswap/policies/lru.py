# cython: annotation_typing=False, infer_types=True
"""LRU: who was not used for longest leaves."""

from __future__ import annotations

from .contract import Policy

QUEUE = 1


class Lru(Policy):
    """Least recently used.

    Source: Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage hierarchies", IBM Systems Journal 9
    (1970): a stack algorithm, its misses at all sizes follow from the stack distances. Parameters, units and errors:
    as :class:`Policy`.
    """

    def on_hit(self, page: int) -> None:
        """Used last."""
        self.unlink(page)
        self.push(QUEUE, page)

    def on_insert(self, page: int) -> None:
        """Used last."""
        self.push(QUEUE, page)

    def on_victim(self, coming: int) -> int:
        """The one that was not used for longest."""
        page = self.oldest(QUEUE)
        self.unlink(page)
        return page
