# cython: annotation_typing=False, infer_types=True
"""LRU: who was not used for longest leaves. A FIFO in which a use is a new arrival."""

from __future__ import annotations

from .fifo import Fifo


class Lru(Fifo):
    """Least recently used.

    Source: Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage hierarchies", IBM Systems Journal 9
    (1970): a stack algorithm, its misses at all sizes follow from the stack distances. Parameters, units and errors:
    as :class:`Policy`.
    """

    def on_hit(self, page: int) -> None:
        """Last in the queue, as if it came now."""
        self.unlink(page)
        self.on_insert(page)
