"""The same work done again in ordinary memory, month by month and day by day, in other ways.

| result | the job | here |
|---|---|---|
| departures | UTC hour of the file + delay | New York wall clock from the time zone database |
| positions | orbit over the ground, once per route and duration | for each row, between two unit vectors |
| order, rows | one packed sort | each row of a day looked up in that day's own expansion |
| flights in the air | count of the rows | +1 at departure, -1 at arrival, running sum |
| density | cells by multiplication of floats, `bincount` | in whole units, `add.at` |
| encounters | sweep from south to north, haversine | sweep from west to east, chord of unit vectors |
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import pairwise
from operator import add
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from .analysis import CELLS_PER_DEGREE, EARTH_KM, EAST, ENCOUNTER, MAP_SHAPE, NEAR_KM, SOUTH, UNITS, Table
from .flights import DAY, EPOCH, Flights

NEW_YORK = ZoneInfo("America/New_York")
WORKERS = 2


@dataclass(frozen=True)
class Day:
    """The rows of one day, flight after flight."""

    begin: int  # first minute
    end: int
    flights: NDArray[np.int64]  # who is in the air at all
    since: NDArray[np.int64]  # each one's first minute in this day
    count: NDArray[np.int64]  # and how many
    owner: NDArray[np.int64]  # per row: index into `flights`
    minute: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]


@dataclass(frozen=True)
class Months:
    """What the months say, one or all of them."""

    rows: int
    wrong_rows: int  # rows of the table that are not where, when and whose they should be, or not in order
    density: NDArray[np.int32]  # flat
    encounters: NDArray[np.void]

    def __add__(self, other: "Months") -> "Months":
        return Months(
            self.rows + other.rows,
            self.wrong_rows + other.wrong_rows,
            self.density + other.density,
            np.concatenate((self.encounters, other.encounters)),
        )


def unit_vectors(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn degrees into x, y, z."""
    phi, lam = np.radians(latitude), np.radians(longitude)
    return np.stack((np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)))


def wrong_departures(flights: Flights) -> int:
    """Count the departures whose minute is not the file's wall clock time in New York."""
    hours, which = np.unique(flights.start // 60, return_inverse=True)
    epoch = EPOCH.item().replace(tzinfo=UTC)
    local = [(epoch + timedelta(hours=int(hour))).astimezone(NEW_YORK) for hour in hours]
    clock = np.array([wall.hour for wall in local])[which] * 100 + flights.start % 60
    # the file writes midnight as 2400
    return int(np.count_nonzero(clock != flights.wall_clock % 2400))


def aloft(flights: Flights) -> NDArray[np.int64]:
    """Count the flights in the air for each minute, from departures and arrivals alone."""
    change = np.zeros(flights.end + 1, np.int64)
    np.add.at(change, flights.start, 1)
    np.add.at(change, flights.start + flights.air_time, -1)
    return np.cumsum(change)[:-1]


def expand_day(flights: Flights, begin: int, end: int) -> Day:
    """Interpolate between the unit vectors of both airports, for the flights in the air in [begin, end)."""
    start, stop = flights.start, flights.start + flights.air_time
    who = np.flatnonzero((start < end) & (stop > begin))
    since = np.maximum(start[who], begin).astype(np.int64)
    count = np.minimum(stop[who], end) - since
    owner = np.repeat(np.arange(who.size), count)
    minute = np.arange(owner.size) + np.repeat(since - (np.cumsum(count) - count), count)

    ends = unit_vectors(flights.airports.latitude, flights.airports.longitude)
    origin, destination = ends[:, flights.origin[who]], ends[:, flights.destination[who]]
    angle = np.arccos(np.sum(origin * destination, axis=0))
    origin /= np.sin(angle)
    destination /= np.sin(angle)
    done = (minute - start[who][owner] + 0.5) / flights.air_time[who][owner]
    way = angle[owner]
    weight, other = np.sin((1 - done) * way), np.sin(done * way)
    x, y, z = (weight * o[owner] + other * d[owner] for o, d in zip(origin, destination, strict=True))
    latitude = np.round(np.degrees(np.arctan2(z, np.hypot(x, y))) * UNITS) / UNITS
    longitude = np.round(np.degrees(np.arctan2(y, x)) * UNITS) / UNITS
    return Day(begin, end, who, since, count, owner, minute, latitude, longitude)


def wrong_rows(flights: Flights, table: Table, day: Day, first: int) -> int:
    """Compare the table's rows from `first` on with a day: every row of it once, in its place, in order.

    The slices are copied out of the table first: all that follows happens in ordinary memory.
    """
    rows = slice(first, first + day.owner.size)
    flight, minute = table.flight[rows].copy(), table.minute[rows].copy()
    latitude, longitude = table.latitude[rows].copy(), table.longitude[rows].copy()
    if flight.size != day.owner.size:
        return day.owner.size

    index_of = np.zeros(flights.start.size, np.int64)
    index_of[day.flights] = np.arange(day.flights.size)
    position = index_of.take(flight, mode="clip")
    into = minute - day.since[position]
    wrong = (day.flights[position] != flight) | (into < 0) | (into >= day.count[position])
    index = np.where(wrong, 0, np.cumsum(day.count)[position] - day.count[position] + into)
    # noise may decide the last unit
    wrong |= np.abs(latitude - day.latitude[index]) > 1.5 / UNITS
    wrong |= np.abs(longitude - day.longitude[index]) > 1.5 / UNITS
    step = np.diff(minute)
    wrong[1:] |= (step < 0) | ((step == 0) & (np.diff(latitude) < -1e-4))
    missing = day.owner.size - np.count_nonzero(np.bincount(index[~wrong], minlength=day.owner.size))
    return int(max(np.count_nonzero(wrong), missing))


def map_cells(day: Day) -> NDArray[np.int64]:
    """Give each row's cell of the map, from whole units of the coordinates."""
    north, west = ((positive * UNITS).astype(np.int64) for positive in (day.latitude - SOUTH, EAST - day.longitude))
    row, column = (units * CELLS_PER_DEGREE // int(UNITS) for units in (north, west))
    return np.asarray(row * MAP_SHAPE[1] + column)


def day_encounters(flights: Flights, day: Day) -> NDArray[np.void]:
    """Find the crossing pairs with a sweep from west to east and straight lines through the earth."""
    # stable is the quicker one here: each flight's minutes are in order already
    by_longitude = np.argsort(day.minute * 1024.0 + (day.longitude + 180), kind="stable")
    minute, owner = day.minute[by_longitude], day.owner[by_longitude]
    latitude, longitude = day.latitude[by_longitude], day.longitude[by_longitude]
    reach = np.degrees(NEAR_KM / EARTH_KM) / np.cos(np.radians(latitude.max(initial=0.0))) * 1.001
    found = [np.empty(0, ENCOUNTER)]
    i = np.arange(minute.size - 1)
    k = 1
    while i.size:
        i = i[i + k < minute.size]
        i = i[(minute[i + k] == minute[i]) & (longitude[i + k] - longitude[i] <= reach)]
        one, two = day.flights[owner[i]], day.flights[owner[i + k]]
        keep = (flights.origin[one] != flights.origin[two]) & (flights.destination[one] != flights.destination[two])
        keep &= np.abs(latitude[i + k] - latitude[i]) <= reach
        at, one, two = i[keep], one[keep], two[keep]
        line = unit_vectors(latitude[at], longitude[at]) - unit_vectors(latitude[at + k], longitude[at + k])
        # an arc is longer than its chord
        distance = 2 * EARTH_KM * np.arcsin(np.sqrt(np.sum(line**2, axis=0)) / 2)
        close = distance <= NEAR_KM
        pairs = np.empty(np.count_nonzero(close), ENCOUNTER)
        pairs["metres"] = distance[close] * 1000
        pairs["minute"] = minute[at[close]]
        pairs["latitude"], pairs["longitude"] = latitude[at[close]], longitude[at[close]]
        pairs["a"], pairs["b"] = np.sort((one[close], two[close]), axis=0)
        found.append(pairs)
        k += 1
    return np.concatenate(found)


def months(flights: Flights) -> Iterator[tuple[int, int]]:
    """Give each month's first minute and the next one's, in UTC; the last ends with the last flight."""
    epoch = EPOCH.item()
    edges = [(datetime(2013 + month // 12, month % 12 + 1, 1) - epoch).days * DAY for month in range(12)]
    edges = [edge for edge in edges if edge < flights.end] + [flights.end]
    return pairwise(edges)


def check_month(flights: Flights, table: Table, counts: NDArray[np.int64], begin: int, end: int) -> Months:
    """Do a month's work day by day; `counts` are the flights in the air, and so the table's rows, per minute."""
    grid = np.zeros(MAP_SHAPE[0] * MAP_SHAPE[1], np.int32)
    pairs = [np.empty(0, ENCOUNTER)]
    rows = wrong = 0
    first = int(counts[:begin].sum())
    for midnight in range(begin, end, DAY):
        day = expand_day(flights, midnight, min(midnight + DAY, end))
        wrong += wrong_rows(flights, table, day, first + rows)
        rows += day.owner.size
        np.add.at(grid, map_cells(day), 1)
        pairs.append(day_encounters(flights, day))
    return Months(rows, wrong, grid, np.concatenate(pairs))


def check_months(flights: Flights, table: Table) -> Months:
    """Do all months, on as many threads as the job may use cores."""
    counts = aloft(flights)
    with ThreadPoolExecutor(WORKERS) as pool:
        # added up as they come: twelve maps at once would be much memory beside a small limit
        return reduce(add, pool.map(lambda month: check_month(flights, table, counts, *month), months(flights)))
