"""``inject``: refusals, errors, delays and damage, for tests and drills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..times import parse_duration
from .layers import Duration, Filter, Fraction, Switch, count, fraction, setting, switch


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

    refuse: Fraction = setting(0.0, fraction)
    error: Fraction = setting(0.0, fraction)
    short: Fraction = setting(0.0, fraction)
    corrupt: Fraction = setting(0.0, fraction)
    delay: Duration = setting(0, parse_duration)
    virtual: Switch = setting(False, switch)
    seed: int = setting(1, count)

    def parameters(self) -> dict[str, int]:
        """Probabilities in millionths."""
        return {
            "refuse": round(float(self.refuse) * 1_000_000),
            "error": round(float(self.error) * 1_000_000),
            "short": round(float(self.short) * 1_000_000),
            "corrupt": round(float(self.corrupt) * 1_000_000),
            "delay": int(self.delay),
            "virtual": int(self.virtual),
            "seed": self.seed,
        }
