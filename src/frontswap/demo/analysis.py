"""The job: whole-column NumPy on one row per airborne minute, as it is written when memory is no worry.

Nothing here knows of frontswap. Where the big arrays live is decided by who calls: under
`with frontswap.Memory(...):` NumPy takes them, temporaries included, from there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .flights import Flights

EARTH_KM = 6371.0088  # mean radius (IUGG)

# Positions are kept to 2^-20 degree (0.1 m), what the six decimals of the airports' coordinates carry;
# the digits behind are the noise of sines and cosines.
UNITS = 2.0**20

# The map's cells count from its south-east corner, northwards and westwards
CELLS_PER_DEGREE = 12  # of 5 nautical miles from south to north
SOUTH, WEST, EAST = 20, -160, -65
MAP_SHAPE = (43 * CELLS_PER_DEGREE, (EAST - WEST) * CELLS_PER_DEGREE)

# The sort key: 20 bits minute, 23 bits latitude (south of the equator nobody flies), 19 bits flight
FLIGHT_BITS, LATITUDE_BITS = 19, 23
LATITUDE_STEP = 2.0**-16  # degrees

NEAR_KM = 0.5
ENCOUNTER = np.dtype(
    [("minute", "i4"), ("a", "i4"), ("b", "i4"), ("metres", "f8"), ("latitude", "f8"), ("longitude", "f8")]
)  # `a` < `b` are flights; the place is one of theirs


@dataclass
class Table:
    """One row per airborne minute. The columns are replaced one by one, so that no two whole tables ever exist."""

    latitude: NDArray[np.float64]  # degrees, at the middle of the minute
    longitude: NDArray[np.float64]
    minute: NDArray[np.int32]  # since flights.EPOCH
    flight: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return self.latitude.nbytes + self.longitude.nbytes + self.minute.nbytes + self.flight.nbytes


@dataclass(frozen=True)
class Tracks:
    """Positions minute by minute for each combination of route and duration: flights that share it share its places."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    first: NDArray[np.int64]  # per flight: where its track begins


def great_circles(flights: Flights) -> Tracks:
    """Compute where a flight is in the middle of each of its minutes, on the great circle at constant speed.

    The way is a satellite's ground track: where it crosses the equator, how steeply, how far along it is.
    """
    duration = flights.air_time.astype(np.int64)
    route = flights.origin.astype(np.int64) * flights.airports.code.size + flights.destination
    _, sample, track = np.unique(route * (duration.max() + 1) + duration, return_index=True, return_inverse=True)
    duration = duration[sample]
    first = np.cumsum(duration) - duration

    lat, lon = np.radians(flights.airports.latitude), np.radians(flights.airports.longitude)
    lat1, lat2 = lat[flights.origin[sample]], lat[flights.destination[sample]]
    lon1 = lon[flights.origin[sample]]
    east = lon[flights.destination[sample]] - lon1
    distance = 2 * np.arcsin(
        np.sqrt(np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin(east / 2) ** 2)
    )
    course = np.arctan2(
        np.sin(east) * np.cos(lat2), np.cos(lat1) * np.sin(lat2) - np.sin(lat1) * np.cos(lat2) * np.cos(east)
    )
    cos_inclination = np.sin(course) * np.cos(lat1)
    sin_inclination = np.sqrt(1 - cos_inclination**2)
    start = np.arctan2(np.sin(lat1), np.cos(lat1) * np.cos(course))
    node = lon1 - np.arctan2(cos_inclination * np.sin(start), np.cos(start))

    angle = np.arange(duration.sum()) - np.repeat(first, duration) + 0.5
    angle *= np.repeat(distance / duration, duration)
    angle += np.repeat(start, duration)
    up, along = np.sin(angle), np.cos(angle)
    latitude = np.arcsin(np.repeat(sin_inclination, duration) * up)
    # never jumps by a turn: north of the equator `up` is positive
    longitude = np.repeat(node, duration) + np.arctan2(np.repeat(cos_inclination, duration) * up, along)
    return Tracks(
        latitude=np.rint(np.degrees(latitude) * UNITS) / UNITS,
        longitude=np.rint(np.degrees(longitude) * UNITS) / UNITS,
        first=first[track],
    )


def expand(flights: Flights) -> Table:
    """Write down where each flight is in each minute it is in the air.

    The minutes are counted from the gate: the files do not tell taxiing.
    """
    tracks, repeats = great_circles(flights), flights.air_time
    row = np.arange(flights.rows, dtype=np.int32)
    minute = np.repeat((flights.start - flights.first).astype(np.int32), repeats)
    minute += row
    place = np.repeat(tracks.first - flights.first, repeats)
    place += row
    del row
    return Table(
        latitude=tracks.latitude[place],
        longitude=tracks.longitude[place],
        minute=minute,
        flight=np.repeat(np.arange(len(repeats), dtype=np.int32), repeats),
    )


def sort_by_minute(flights: Flights, table: Table) -> None:
    """Sort the rows by minute and, within it, from south to north.

    Minute, latitude and flight are packed into one integer: sorting it needs no permutation at its side,
    and the row a sorted key came from follows from its flight and minute.
    """
    rows = table.minute.size
    key = np.empty(rows, np.int64)
    np.multiply(table.latitude, 1 / LATITUDE_STEP, out=key, casting="unsafe")
    key += np.left_shift(table.minute, LATITUDE_BITS, dtype=np.int64)
    key <<= FLIGHT_BITS
    key |= table.flight
    key.sort()

    table.minute = np.empty(rows, np.int32)
    np.right_shift(key, FLIGHT_BITS + LATITUDE_BITS, out=table.minute, casting="unsafe")
    key &= (1 << FLIGHT_BITS) - 1
    table.flight = key.astype(np.int32)
    row = (flights.first - flights.start)[key]
    del key
    row += table.minute
    table.latitude = table.latitude[row]
    table.longitude = table.longitude[row]


def per_minute(table: Table, minutes: int) -> NDArray[np.int64]:
    """Count the flights in the air, for each minute: where it begins in the sorted rows, and where the next one."""
    return np.diff(np.searchsorted(table.minute, np.arange(minutes + 1, dtype=np.int32)))


def density(table: Table) -> NDArray[np.int64]:
    """Count the airborne minutes over each cell of the map."""
    rows, (height, width) = table.minute.size, MAP_SHAPE
    # casting to integers cuts off towards zero, and both are positive: latitude north, longitude west
    cell, column = np.empty(rows, np.int32), np.empty(rows, np.int32)
    np.multiply(table.latitude, CELLS_PER_DEGREE, out=cell, casting="unsafe")
    np.multiply(table.longitude, -CELLS_PER_DEGREE, out=column, casting="unsafe")
    cell *= width
    cell += column
    del column
    cell -= (SOUTH * width - EAST) * CELLS_PER_DEGREE
    return np.bincount(cell, minlength=height * width).reshape(height, width)


def haversine_km(
    lat1: NDArray[np.float64], lon1: NDArray[np.float64], lat2: NDArray[np.float64], lon2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distance over the ground of points given in degrees."""
    lat1, lon1, lat2, lon2 = (np.radians(degrees) for degrees in (lat1, lon1, lat2, lon2))
    half_chord = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(half_chord)))


def encounters(flights: Flights, table: Table) -> NDArray[np.void]:
    """Find all flights that cross each other's way: in the same minute within NEAR_KM of each other on the map.

    Neither origin nor destination may be the same: flights that leave one after the other for the same place
    follow each other all the way. A sweep from south to north: row `i` is compared with row `i + k` for as long
    as that is still in the minute and near enough in latitude, for k = 1, 2 ... until none is left.
    """
    # rows within LATITUDE_STEP of each other may be in either order
    window = np.degrees(NEAR_KM / EARTH_KM) + 2 * LATITUDE_STEP
    near = np.diff(table.latitude) <= window
    near &= table.minute[1:] == table.minute[:-1]
    # only rows with a neighbour near in latitude matter, one in ten
    chosen = np.zeros(table.minute.size, np.bool_)
    chosen[:-1] = near
    chosen[1:] |= near
    latitude, longitude = table.latitude[chosen], table.longitude[chosen]
    minute, flight = table.minute[chosen], table.flight[chosen]
    del near, chosen

    found = [np.empty(0, ENCOUNTER)]
    i = np.flatnonzero((minute[1:] == minute[:-1]) & (np.diff(latitude) <= window))
    k = 1
    while i.size:
        a, b = flight[i], flight[i + k]
        crossing = flights.origin[a] != flights.origin[b]
        crossing &= flights.destination[a] != flights.destination[b]
        at, a, b = i[crossing], a[crossing], b[crossing]
        distance = haversine_km(latitude[at], longitude[at], latitude[at + k], longitude[at + k])
        close = distance <= NEAR_KM
        at, a, b = at[close], a[close], b[close]
        pairs = np.empty(at.size, ENCOUNTER)
        pairs["minute"] = minute[at]
        pairs["a"], pairs["b"] = np.minimum(a, b), np.maximum(a, b)
        pairs["metres"] = distance[close] * 1000
        pairs["latitude"], pairs["longitude"] = latitude[at], longitude[at]
        found.append(pairs)
        k += 1
        i = i[i + k < minute.size]
        i = i[(minute[i + k] == minute[i]) & (latitude[i + k] - latitude[i] <= window)]
    pairs = np.concatenate(found)
    return np.asarray(pairs[np.lexsort((pairs["b"], pairs["a"], pairs["minute"]))])
