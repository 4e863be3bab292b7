"""``limit``: a cap with hysteresis (mm/zswap.c: max_pool_percent, accept_threshold_percent)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .layers import Bytes, Filter, Fraction, fraction, setting, size


@dataclass(frozen=True)
class Limit(Filter):
    """Stops accepting when what is below has taken `size`, and starts again when it has fallen to `accept` of it.

    Counts RAM where the backend knows it (zcache: compressed, with overhead), else pages uncompressed. Under pressure
    it is three quarters of that (low), half (medium), nothing (critical).

    Args:
        size: bytes.
        accept: the part of `size` below which a full backend is offered pages again.
    """

    name: ClassVar[str] = "limit"

    size: Bytes = setting("1G", size)
    accept: Fraction = setting(0.9, fraction)

    def parameters(self) -> dict[str, int]:
        """Both in bytes."""
        return {"size": int(self.size), "accept": int(int(self.size) * float(self.accept))}
