"""Traces from files: CSV, and the binary format oracleGeneral of libCacheSim.

A trace is a list of records: a page is used, or (in CSV, if a column says so) it is freed. Files are read as a whole
and checked before anything runs; what is wrong is a TraceError that names the file, the record, and what is allowed.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError, TraceError

FORMATS = ("auto", "csv", "oracle")
COLUMNS = (
    "page",
    "address",
    "addr",
    "obj_id",
    "object",
    "id",
    "offset",
    "block",
    "lba",
)  # found by name, in this order
DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|", "space": " "}  # looked for in this order
USES = frozenset(["r", "w", "read", "write", "load", "store", "get", "set", "put", "access", "reference", "fault"])
REMOVES = frozenset(["d", "f", "t", "discard", "free", "trim", "unmap", "invalidate", "delete", "remove", "dontneed"])
# oracleGeneral, little endian, without holes: 24 bytes a record
ORACLE = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
COMPRESSED = {b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"), b"\x1f\x8b": ("gzip", "gunzip"), b"\xfd7zXZ": ("xz", "unxz")}
_DECIMAL, _HEXADECIMAL = re.compile(r"\d+", re.ASCII), re.compile(r"0x[0-9a-f]+", re.IGNORECASE)
PART = 1 << 20  # records that are checked at a time
_SPARSE = 2  # times as many numbers as records: then they are sorted, and not counted in a table


@dataclass(frozen=True, slots=True)
class Trace:
    """Records of pages; the pages are numbered anew, without gaps.

    ``pages``: of each record, its page, from 0 to ``count - 1``. ``removed``: None, or true for records in which the
    page is freed. ``name``: of the file.
    """

    name: str
    pages: NDArray[np.uint32]
    count: int
    removed: NDArray[np.bool_] | None = None

    @property
    def references(self) -> int:
        """Records that use their page."""
        return len(self.pages) - (0 if self.removed is None else int(np.count_nonzero(self.removed)))


def read(
    path: Path,
    *,
    form: str = "auto",
    page: int | None = None,
    column: str | None = None,
    operation: str | None = None,
    delimiter: str | None = None,
) -> Trace:
    """Read a file.

    ``form``: ``csv``, ``oracle`` (oracleGeneral) or ``auto``: binary is oracle. ``page``: what is read are addresses,
    in bytes, of pages of so many bytes (a power of two); None: it is pages. For CSV: ``column`` and ``operation``, the
    name of a column or its number from 1 on (None: the only one or one of COLUMNS; no operations), ``delimiter``
    (None: the first of comma, tab, semicolon, bar and space that is in the first line).

    Raises TraceError, ParameterError for columns that are not there, and OSError.
    """
    if form not in FORMATS:
        raise ParameterError("format", form, "one of " + ", ".join(FORMATS))
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if not head:
        raise TraceError(str(path), "the file", 0, "longer: it is empty")
    for magic, (what, command) in COMPRESSED.items():
        if head.startswith(magic):
            raise TraceError(str(path), "the file", what, f"decompressed first: {command} {path}")
    removed = None
    if form == "oracle" or (form == "auto" and b"\0" in head):
        for name, given in (("column", column), ("operation", operation), ("delimiter", delimiter)):
            if given is not None:
                raise ParameterError(name, given, "left out: the trace is no CSV")
        ids = read_oracle(path)
    else:
        ids, removed = Table(path, head, column, operation, delimiter).read()
    if page is not None:
        ids = ids >> np.uint64(page.bit_length() - 1)
    pages, count = dense(ids)
    if removed is not None and removed.all():
        raise TraceError(str(path), "the file", len(pages), "uses of pages: all that it has are removals")
    return Trace(path.name, pages, count, removed)


def dense(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], int]:
    """Number what is there anew, from 0 on and in the same order; and how much it is."""
    low = ids.min()
    reach = int(ids.max() - low) + 1
    if reach > _SPARSE * len(ids) + 1024:
        known, pages = np.unique(ids, return_inverse=True)
        return pages.astype(np.uint32), len(known)
    offsets = (ids - low).astype(np.int64)
    there = np.zeros(reach, np.bool_)
    there[offsets] = True
    numbers = np.cumsum(there, dtype=np.uint32) - np.uint32(1)
    return numbers[offsets], int(numbers[-1]) + 1


# --- oracleGeneral -------------------------------------------------------------------------------


def read_oracle(path: Path) -> NDArray[np.uint64]:
    """The object of each record. Sizes are left out: an object is a page."""
    size = path.stat().st_size
    whole, rest = divmod(size, ORACLE.itemsize)
    if rest:
        raise TraceError(str(path), f"record {whole + 1}", f"{rest} bytes", f"{ORACLE.itemsize} bytes: the file is cut")
    records: NDArray[Any] = np.memmap(path, ORACLE, "r")
    whole = _written(records)
    if whole == 0:
        raise TraceError(str(path), "the file", "nothing but zeros", "records")
    records = records[:whole]
    last = 0
    for at in range(0, whole, PART):
        part = records[at : at + PART]
        times = np.concatenate([np.array([last], np.uint32), part["time"]])
        last = times[-1]
        _first_wrong(path, at, times[1:] < times[:-1], part["time"], "a time not before that of the record above")
        soon = (part["next"] >= 0) & (part["next"] <= np.arange(at + 1, at + 1 + len(part)))
        _first_wrong(path, at, soon, part["next"], "the number of a later record that has the same object, or -1")
    return np.array(records["id"])


def _written(records: NDArray[Any]) -> int:
    """How many are there: a recording (``frontswap run --record``) that was killed has zeros behind the last one."""
    for end in range(len(records), 0, -PART):
        start = max(end - PART, 0)
        there = np.flatnonzero(records["next"][start:end])  # 0 is no next one
        if len(there):
            return start + int(there[-1]) + 1
    return 0


def _first_wrong(path: Path, at: int, wrong: NDArray[np.bool_], values: NDArray[Any], allowed: str) -> None:
    if wrong.any():
        where = int(np.argmax(wrong))
        raise TraceError(str(path), f"record {at + where + 1}", int(values[where]), f"{allowed} (oracleGeneral)")


# --- CSV -----------------------------------------------------------------------------------------


class Table:
    """A CSV file: which of its columns is the page, and which the operation."""

    def __init__(
        self, path: Path, head: bytes, column: str | None, operation: str | None, delimiter: str | None
    ) -> None:
        self.path = path
        first = next((line for line in head.decode("utf-8", "replace").splitlines() if line.strip()), None)
        if first is None:
            raise TraceError(str(path), "the file", "nothing but empty lines", "records")
        self.delimiter = self._delimiter(delimiter, first)
        fields = self._fields(first)
        self.column = self._column(column, fields)
        self.operation = None if operation is None else self._find("operation", operation, fields)
        self.header = not any(kind.fullmatch(fields[self.column]) for kind in (_DECIMAL, _HEXADECIMAL))
        record = next((self._fields(line) for _, line in self._records()), [])
        # as the first record is, so all are
        self.hexadecimal = len(record) > self.column and record[self.column].lower().startswith("0x")

    def read(self) -> tuple[NDArray[np.uint64], NDArray[np.bool_] | None]:
        """The numbers of all records; and which are removals, if there is a column that says so."""
        kind: Any = np.uint64
        columns = [self.column]
        if self.operation is not None:
            kind = np.dtype([("page", np.uint64), ("operation", "U16")])
            columns.append(self.operation)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # no records, which we say ourselves
                found = np.loadtxt(
                    self.path,
                    kind,
                    comments=None,
                    delimiter=None if self.delimiter == " " else self.delimiter,
                    converters={self.column: _from_hexadecimal} if self.hexadecimal else None,
                    skiprows=self._before_records(),
                    usecols=columns,
                    ndmin=1,
                    encoding="utf-8",
                    quotechar='"',
                )
        except (ValueError, OverflowError) as error:
            self._complain()
            raise TraceError(str(self.path), "a record", str(error), "a line of CSV") from error
        if len(found) == 0:
            raise TraceError(str(self.path), "the file", 0, "records below its header")
        if self.operation is None:
            return found, None
        words = np.char.lower(np.char.strip(found["operation"]))
        removed = np.isin(words, list(REMOVES))
        if not np.all(removed | np.isin(words, list(USES))):
            self._complain()
        return np.ascontiguousarray(found["page"]), removed if removed.any() else None

    def _complain(self) -> None:
        """Look for the first record that is wrong, line by line: it takes longer, and says where."""
        for number, line in self._records():
            fields = self._fields(line)
            where = f"line {number}"
            needed = max(self.column, self.operation or 0) + 1
            if len(fields) < needed:
                raise TraceError(str(self.path), where, line[:60], f"{needed} columns at least")
            value = fields[self.column]
            kind = _HEXADECIMAL if self.hexadecimal else _DECIMAL
            if not kind.fullmatch(value) or int(value, 16 if self.hexadecimal else 10) >= 2**64:
                allowed = "a whole number from 0 to 2**64 - 1" + ", as 0x..., as the first is" * self.hexadecimal
                raise TraceError(str(self.path), where, value[:60], allowed)
            if self.operation is not None and fields[self.operation].lower() not in USES | REMOVES:
                allowed = f"one of {', '.join(sorted(USES))}, or to remove the page {', '.join(sorted(REMOVES))}"
                raise TraceError(str(self.path), where, fields[self.operation][:60], allowed)

    def _records(self) -> Iterator[tuple[int, str]]:
        """The lines below the header that are not empty, with their numbers."""
        with self.path.open(encoding="utf-8", errors="replace") as file:
            header = self.header
            for number, line in enumerate(file, 1):
                if line.strip():
                    if not header:
                        yield number, line.rstrip("\n")
                    header = False

    def _before_records(self) -> int:
        """How many lines stand above the first record."""
        return next((number - 1 for number, _ in self._records()), int(self.header))

    def _delimiter(self, given: str | None, line: str) -> str:
        if given is None:
            return next((one for one in DELIMITERS.values() if one in line.strip()), ",")
        made = DELIMITERS.get(given, given)
        if len(made) != 1 or made in '"\r\n':
            raise ParameterError("delimiter", given, f"one character, or one of {', '.join(DELIMITERS)}")
        return made

    def _fields(self, line: str) -> list[str]:
        if self.delimiter == " ":
            return line.split()
        return [field.strip() for field in next(csv.reader([line], delimiter=self.delimiter), [])]

    def _column(self, given: str | None, fields: list[str]) -> int:
        if given is not None:
            return self._find("column", given, fields)
        if len(fields) == 1:
            return 0
        names = [field.lower() for field in fields]
        for usual in COLUMNS:
            if usual in names:
                return names.index(usual)
        raise ParameterError("column", None, f"given: a number from 1 to {len(fields)}, or a name, of {fields}")

    @staticmethod
    def _find(parameter: str, given: str, fields: list[str]) -> int:
        if given.isdecimal() and 1 <= int(given) <= len(fields):
            return int(given) - 1
        names = [field.lower() for field in fields]
        if given.lower() in names:
            return names.index(given.lower())
        raise ParameterError(parameter, given, f"a number from 1 to {len(fields)}, or a name, of {fields}")


def _from_hexadecimal(text: str) -> int:
    if not _HEXADECIMAL.fullmatch(text.strip()):
        raise ValueError(text)
    return int(text, 16)
