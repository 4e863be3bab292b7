# cython: annotation_typing=False, infer_types=True
"""FIFO: who came first leaves first, whatever was used since. The measure of what knowing uses is worth."""

from __future__ import annotations

from .contract import Policy

QUEUE = 1


class Fifo(Policy):
    """First in, first out.

    Source: Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5 (1966).
    Parameters, units and errors: as :class:`Policy`.
    """

    def on_insert(self, page: int) -> None:
        """Last in the queue."""
        self.push(QUEUE, page)

    def on_victim(self, coming: int) -> int:
        """The first in the queue."""
        page = self.oldest(QUEUE)
        self.unlink(page)
        return page
