"""``model``: the reference backend, a dict. It accepts everything and copies; nothing in it can be wrong."""

from __future__ import annotations

import threading

from ..backends.contract import Backend


class Model(Backend):
    """Pages in a dict, uncompressed.

    Args:
        most: pages that it takes before it refuses; 0: no limit.
    """

    name = "model"

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self.pages: dict[tuple[int, int], bytes] = {}
        self._lock = threading.Lock()

    def store(self, type: int, offset: int, page: memoryview) -> bool:
        """Copy it."""
        with self._lock:
            if self.most and len(self.pages) >= self.most and (type, offset) not in self.pages:
                return False
            self.pages[type, offset] = bytes(page)
            return True

    def load(self, type: int, offset: int, into: memoryview) -> bool:
        """Copy it back."""
        with self._lock:
            if (type, offset) not in self.pages:
                return False
            into[:] = self.pages[type, offset]
            return True

    def invalidate_page(self, type: int, offset: int) -> None:
        """Forget it."""
        with self._lock:
            self.pages.pop((type, offset), None)

    def invalidate_area(self, type: int) -> None:
        """Forget all of them."""
        with self._lock:
            for key in [key for key in self.pages if key[0] == type]:
                del self.pages[key]
