"""``inject``: refusals, errors, delays and damage, for tests and drills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..times import parse_duration
from .layers import Filter, count, fraction, setting, switch


@dataclass(frozen=True)
class Inject(Filter):
    """Does to its backend what the world does to backends. May be changed while in use: ``Registered.set()``.

    Args:
        refuse: part of the stores that it refuses.
        error: part of the loads that end in EIO.
        short: part of the loads that bring half of the page.
        corrupt: part of the loads with one wrong bit, which nobody sees without ``checksum``.
        delay: how long each store and load takes longer.
        virtual: the delay only moves the clock that filters see; nothing waits.
        seed: of the draws.
    """

    name: ClassVar[str] = "inject"

    refuse: float = setting(0.0, fraction)
    error: float = setting(0.0, fraction)
    short: float = setting(0.0, fraction)
    corrupt: float = setting(0.0, fraction)
    delay: int = setting(0, parse_duration)
    virtual: bool = setting(False, switch)
    seed: int = setting(1, count)

    def parameters(self) -> dict[str, int]:
        """Probabilities in millionths."""
        return {
            "refuse": round(self.refuse * 1_000_000),
            "error": round(self.error * 1_000_000),
            "short": round(self.short * 1_000_000),
            "corrupt": round(self.corrupt * 1_000_000),
            "delay": self.delay,
            "virtual": int(self.virtual),
            "seed": self.seed,
        }
