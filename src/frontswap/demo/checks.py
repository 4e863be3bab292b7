"""Is it right? Each result of the job beside the reference's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .analysis import MAP_SHAPE
from .flights import DAY, EST, Flights
from .reference import Months, aloft, wrong_departures

BUSIEST = CLOSEST = 5
METRES = 0.01  # haversine and chord may differ by this much


@dataclass(frozen=True)
class Results:
    """What the job found out; small, and in ordinary memory."""

    per_minute: NDArray[np.int64]
    density: NDArray[np.integer[Any]]
    encounters: NDArray[np.void]  # in the order of minute, a, b

    def busiest(self) -> NDArray[np.int64]:
        """Give the busiest minute of each of the busiest days (EST), the earlier first where equal."""
        ranked = np.argsort(-self.per_minute, kind="stable")
        _, first = np.unique((ranked - EST) // DAY, return_index=True)
        return np.asarray(ranked[np.sort(first)][:BUSIEST])

    def closest(self) -> NDArray[np.void]:
        """Give the closest encounters, each pair of flights once."""
        ranked = self.encounters[np.argsort(self.encounters["metres"], kind="stable")]
        _, first = np.unique(ranked[["a", "b"]], return_index=True)
        return np.asarray(ranked[np.sort(first)][:CLOSEST])


@dataclass(frozen=True)
class Check:
    """One comparison."""

    what: str
    passed: bool
    detail: str


def same_encounters(ours: NDArray[np.void], theirs: NDArray[np.void]) -> bool:
    """Tell whether the same pairs met at the same time at the same distance."""
    if ours.size != theirs.size or np.any(np.abs(ours["metres"] - theirs["metres"]) > METRES):
        return False
    return all(np.array_equal(ours[name], theirs[name]) for name in ("minute", "a", "b"))


def compare(flights: Flights, job: Results, months: Months) -> list[Check]:
    """Compare everything the job says."""
    encounters = months.encounters[np.lexsort([months.encounters[name] for name in ("b", "a", "minute")])]
    other = Results(aloft(flights), months.density.reshape(MAP_SHAPE), encounters)
    wrong = wrong_departures(flights)
    busiest, closest = job.busiest(), job.closest()
    return [
        Check("departures in UTC", wrong == 0, f"{flights.start.size:,}, {wrong:,} differ from New York's clocks"),
        Check(
            "sorted rows",
            months.rows == flights.rows and months.wrong_rows == 0,
            f"{months.rows:,} of {flights.rows:,}, {months.wrong_rows:,} wrong",
        ),
        Check(
            "flights in the air",
            np.array_equal(job.per_minute, other.per_minute),
            f"{job.per_minute.size:,} minutes, {np.count_nonzero(job.per_minute != other.per_minute):,} differ",
        ),
        Check(
            "busiest minutes",
            np.array_equal(busiest, other.busiest()),
            f"the first {busiest.size}",
        ),
        Check(
            "traffic density",
            np.array_equal(job.density, other.density),
            f"{job.density.size:,} cells, {np.count_nonzero(job.density != other.density):,} differ",
        ),
        Check(
            "encounters",
            same_encounters(job.encounters, other.encounters),
            f"{job.encounters.size:,} here, {other.encounters.size:,} month by month",
        ),
        Check("closest pairs", same_encounters(closest, other.closest()), f"the first {closest.size}"),
    ]
