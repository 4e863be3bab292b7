"""``latency``: a backend that takes too long is left alone for a while.

"Shut down if it is taking too much time compressing" (the mail of frontswap v15).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..times import parse_duration
from .layers import Duration, Filter, count, setting


@dataclass(frozen=True)
class Latency(Filter):
    """After `trips` slow stores pages are written to their slots too; after as many more the backend is left alone.

    Then one page a `rest` is tried; every fast store takes one step back.

    Args:
        deadline: a store that takes longer is slow.
        trips: slow stores, less the fast ones since, that make the difference.
        rest: how long a backend that is too slow is left alone.
    """

    name: ClassVar[str] = "latency"

    deadline: Duration = setting("10ms", parse_duration)
    trips: int = setting(4, count)
    rest: Duration = setting("1s", parse_duration)
