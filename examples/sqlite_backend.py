"""A frontswap backend that keeps pages zlib-compressed in a temporary SQLite database on disk."""

import sqlite3
import threading
import weakref
import zlib
from typing import Any

from frontswap.backends import Backend, Pressure, Refusal


class Sqlite(Backend):
    """One connection behind a lock; its temporary file (named "") goes when it closes. `limit` gives it a size."""

    name = "sqlite"

    def __init__(self) -> None:
        self.lock, self.critical = threading.Lock(), False
        self.database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self.database.close)
        self.database.execute("CREATE TABLE pages (key INTEGER PRIMARY KEY, record BLOB)")

    def store(self, type: int, offset: int, page: memoryview) -> bool | Refusal:
        if self.critical:
            return Refusal.PRESSURE
        record = zlib.compress(page, 1)
        if 4 * len(record) >= 3 * page.nbytes:
            return Refusal.INCOMPRESSIBLE
        try:
            self._execute("INSERT OR REPLACE INTO pages VALUES (?, ?)", type << 32 | offset, record)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:  # the disk is
                return Refusal.POOL_FULL
            raise
        return True

    def load(self, type: int, offset: int, into: memoryview) -> bool:
        found = self._execute("SELECT record FROM pages WHERE key = ?", type << 32 | offset)
        if found:
            into[:] = zlib.decompress(found[0][0])  # damage raises (zlib's Adler-32): a lost page
        return bool(found)

    def invalidate_page(self, type: int, offset: int) -> None:
        self._execute("DELETE FROM pages WHERE key = ?", type << 32 | offset)

    def invalidate_area(self, type: int) -> None:
        self._execute("DELETE FROM pages WHERE key >= ? AND key < ?", type << 32, type + 1 << 32)

    def pressure(self, level: Pressure) -> None:
        self.critical = level is Pressure.CRITICAL

    def statistics(self) -> dict[str, int]:
        ((pages, stored),) = self._execute("SELECT count(*), total(length(record)) FROM pages")
        return {"pages": pages, "compressed_bytes": int(stored)}

    def _execute(self, statement: str, *values: int | bytes) -> list[tuple[Any, ...]]:
        with self.lock:
            return self.database.execute(statement, values).fetchall()
