"""``active_only``: "only do it on recently activate pages" (the frontswap discussion of 2011-12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .layers import Bytes, Filter, setting, size


@dataclass(frozen=True)
class ActiveOnly(Filter):
    """Admits pages that came back soon after they had left (refault distance, mm/workingset.c); others go to the slot.

    A page that is used once, as in a scan, never takes the place of one that is used again.

    Args:
        distance: bytes that may be stored in between.
    """

    name: ClassVar[str] = "active_only"

    distance: Bytes = setting("1G", size)
