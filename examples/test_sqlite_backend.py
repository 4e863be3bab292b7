"""The conformance suite over the SQLite backend."""

from sqlite_backend import Sqlite

from frontswap.testing.conformance import BackendSuite


class TestSqlite(BackendSuite):
    """A new database for each test."""

    def make(self) -> Sqlite:
        return Sqlite()
