"""Jobs as users have them, for test_jobs.py: ``python jobs.py NAME ROWS`` prints a digest of their results."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

WORDS = np.array([f"word{i:06d}" for i in range(1000)])


def columns(rows: int) -> dict[str, np.ndarray]:
    """Keys of many and of few values, amounts in whole cents: sums in any order are the same."""
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 100, rows)
    return {
        "id": rng.integers(0, rows // 50, rows),
        "kind": kind,
        "cents": rng.integers(0, 100_000, rows),
        "word": WORDS[kind * 10],
    }


def polars(rows: int) -> Iterator[str]:
    """Group, join, sort: jemalloc."""
    import polars as pl

    table = pl.DataFrame(columns(rows))
    sums = table.group_by("id").agg(pl.col("cents").sum(), pl.col("kind").max()).sort("id")
    yield sums.write_csv()
    joined = table.join(sums, on="id", suffix="_of_id").sort(["word", "id", "cents", "kind"])
    yield joined.gather_every(97).write_csv()
    yield joined.group_by("word").agg(pl.col("cents_of_id").sum()).sort("word").write_csv()


def pandas(rows: int) -> Iterator[str]:
    """Group, merge, sort, and strings, which are Arrow's: malloc and mimalloc."""
    import pandas as pd

    table = pd.DataFrame(columns(rows))
    sums = table.groupby("id").cents.sum().rename("sum")
    yield sums.to_csv()
    merged = table.merge(sums, on="id").sort_values(["word", "id", "cents", "kind"], ignore_index=True)
    yield merged.iloc[::97].to_csv()
    yield table.word.str.upper().iloc[::97].to_csv()
    yield str(table.word.str.len().sum())


def arrow(rows: int) -> Iterator[str]:
    """To Parquet and back, sorted: mimalloc."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(columns(rows))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "table.parquet")
        pq.write_table(table, path)
        back = pq.read_table(path)
    order = [("word", "ascending"), ("id", "ascending"), ("cents", "ascending"), ("kind", "ascending")]
    yield back.sort_by(order).take(np.arange(0, rows, 97)).to_pandas().to_csv()
    yield back.group_by("word").aggregate([("cents", "sum")]).sort_by("word").to_pandas().to_csv()


def duckdb(rows: int) -> Iterator[str]:
    """Group and join over frames of pandas: malloc."""
    import duckdb as database
    import pandas as pd

    table = pd.DataFrame(columns(rows))
    connection = database.connect()
    connection.register("t", table)
    yield connection.execute("select id, sum(cents), max(kind) from t group by id order by id").df().to_csv()
    yield (
        connection.execute(
            "select a.kind, count(*), sum(b.cents) from t a join t b using (id) where a.id < 1000 group by 1 order by 1"
        )
        .df()
        .to_csv()
    )
    yield connection.execute("select * from t order by word, id, cents, kind").df().iloc[::97].to_csv()


def scipy(rows: int) -> Iterator[str]:
    """Sparse sums and a factorisation: malloc, and the scratch memory of OpenBLAS."""
    from scipy.linalg import qr
    from scipy.sparse import coo_array

    found = columns(rows)
    table = coo_array((found["cents"], (found["id"], found["kind"]))).tocsr()
    yield str((table.T @ table).toarray().tolist())
    n = 900
    matrix = np.random.default_rng(6).random((n, n))
    q, r = qr(matrix)
    yield str(bool(np.allclose(q @ r, matrix)) and bool(np.allclose(q.T @ q, np.eye(n))))


JOBS: dict[str, Callable[[int], Iterator[str]]] = {job.__name__: job for job in (polars, pandas, arrow, duckdb, scipy)}

if __name__ == "__main__":
    digest = hashlib.sha256()
    for text in JOBS[sys.argv[1]](int(sys.argv[2])):
        digest.update(text.encode())
    print(digest.hexdigest())
