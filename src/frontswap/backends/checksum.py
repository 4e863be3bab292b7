"""``checksum``: what comes back is what was stored, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .layers import Filter


@dataclass(frozen=True)
class Checksum(Filter):
    """Keeps 4 bytes for each page and compares them at every load. zcache's records have their own already."""

    name: ClassVar[str] = "checksum"
