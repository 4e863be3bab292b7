"""Files as data libraries read and write them, for test_jobs.py: ``python files.py NAME ROWS`` prints digests.

Every result is exact: whole numbers, sums in any order.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = Any  # for mypy arrays are no buffers before Python 3.12


def columns(rows: int) -> dict[str, Array]:
    """Two columns that compress and one that does not."""
    rng = np.random.default_rng(7)
    return {
        "number": np.arange(rows, dtype=np.int64),
        "kind": rng.integers(0, 50, rows).astype(np.int32),
        "noise": rng.integers(0, 1 << 62, rows),
    }


def digest(*arrays: Array) -> str:
    return " ".join(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12] for array in arrays)


def kernel(rows: int) -> Iterator[str]:
    """From file to file, socket and pipe without memory of the program; O_DIRECT in threads."""
    found = columns(rows)
    whole = np.concatenate([found["number"], found["noise"]])
    whole.tofile("one")
    shutil.copyfile("one", "two")
    yield digest(np.fromfile("two", np.int64))
    with open("one", "rb") as source, open("three", "wb") as target:
        done = 0
        while moved := os.copy_file_range(source.fileno(), target.fileno(), whole.nbytes, done, done):
            done += moved
    yield digest(np.fromfile("three", np.int64))
    into: Array = np.zeros_like(whole)
    near, far = socket.socketpair()
    with near, far, open("three", "rb") as source:
        thread = threading.Thread(target=near.sendfile, args=(source,))
        thread.start()
        far.recv_into(into, into.nbytes, socket.MSG_WAITALL)
        thread.join()
    yield digest(into)
    r, w = os.pipe()
    with open("one", "rb") as source, open("four", "wb") as target:
        while moved := os.splice(source.fileno(), w, 1 << 16):
            while moved:
                moved -= os.splice(r, target.fileno(), moved)
    yield digest(np.fromfile("four", np.int64))
    part = rows * 16 // 4096 // 4 * 4096
    flat: Array = whole.view(np.uint8)
    aligned: Array = np.empty(4 * part + 4096, np.uint8)
    aligned = aligned[-aligned.ctypes.data % 4096 :][: 4 * part]
    fd = os.open("five", os.O_RDWR | os.O_CREAT | os.O_DIRECT)

    def both(i: int) -> None:
        here = slice(i * part, (i + 1) * part)
        for _ in range(3):
            aligned[here] = flat[here]
            os.pwrite(fd, aligned[here], i * part)
            aligned[here] = 0
            os.preadv(fd, [aligned[here]], i * part)

    threads = [threading.Thread(target=both, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield digest(aligned)


def h5py(rows: int) -> Iterator[str]:
    """Whole, in chunks, compressed, in parts, and by a core driver's image."""
    import h5py as hdf

    found = columns(rows)
    for driver in (None, "core"):
        with hdf.File("file.h5", "w", driver=driver) as file:
            for name, array in found.items():
                file.create_dataset(name, data=array)
                file.create_dataset(name + "-packed", data=array, chunks=(10_000,), compression="gzip", shuffle=True)
        with hdf.File("file.h5", "r", driver=driver) as file:
            for name, array in found.items():
                into = np.zeros_like(array)
                file[name].read_direct(into)
                yield digest(into, file[name + "-packed"][:], file[name][5::7], file[name + "-packed"][rows // 3 :])


def pyarrow(rows: int) -> Iterator[str]:
    """IPC and Feather, mapped and read; Parquet, its scanner in threads, a dataset in parts; CSV."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.dataset as ds
    import pyarrow.feather
    import pyarrow.parquet as pq

    table = pa.table(columns(rows))

    def told(of: Any) -> str:
        return digest(*(column.to_numpy() for column in of.combine_chunks().columns))

    with pa.OSFile("a.arrow", "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=50_000)
    with pa.memory_map("a.arrow") as source:
        mapped = pa.ipc.open_file(source).read_all()
        yield told(mapped)
        into = np.empty(rows, np.int64)
        into[:] = mapped["noise"].to_numpy()
        yield digest(into)
    with pa.OSFile("a.arrow") as source:
        yield told(pa.ipc.open_file(source).read_all())
    pyarrow.feather.write_feather(table, "a.feather", compression="zstd")
    yield told(pyarrow.feather.read_table("a.feather", memory_map=False))
    pq.write_table(table, "a.parquet", row_group_size=20_000, compression="snappy")
    yield told(pq.read_table("a.parquet", pre_buffer=True))
    yield told(pq.read_table("a.parquet", memory_map=True, columns=["noise"]))
    ds.write_dataset(table, "parts", format="parquet", partitioning=ds.partitioning(pa.schema([("kind", pa.int32())])))
    parts = ds.dataset("parts", partitioning=["kind"])
    yield told(parts.to_table(filter=pc.field("noise") > 1 << 60).sort_by("number").select(["number", "noise"]))
    pyarrow.csv.write_csv(table, "a.csv")
    yield told(pyarrow.csv.read_csv("a.csv"))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    yield told(pa.ipc.open_stream(sink.getvalue()).read_all())


def polars(rows: int) -> Iterator[str]:
    """Scanned and sunk in streams: Parquet, IPC, CSV, by its own threads."""
    import polars as pl

    frame = pl.DataFrame(columns(rows))

    def told(of: Any) -> str:
        of = of.sort("number")
        return digest(*(of[name].to_numpy() for name in of.columns))

    frame.write_parquet("a.parquet", row_group_size=20_000)
    lazy = pl.scan_parquet("a.parquet").filter(pl.col("kind") < 40).with_columns(pl.col("noise") // 3)
    lazy.sink_parquet("b.parquet", row_group_size=10_000)
    yield told(pl.read_parquet("b.parquet"))
    lazy.sink_ipc("b.arrow")
    yield told(pl.read_ipc("b.arrow"))
    yield told(pl.scan_ipc("b.arrow").filter(pl.col("kind") > 5).collect())
    lazy.sink_csv("b.csv")
    yield told(pl.scan_csv("b.csv").collect())
    groups = pl.scan_parquet("b.parquet").group_by("kind").agg(pl.col("noise").max(), pl.col("number").sum())
    yield told(groups.collect(engine="streaming"))


def duckdb(rows: int) -> Iterator[str]:
    """Arrow tables and arrays as tables, COPY TO and back, and a database file, by its own threads."""
    import duckdb as database
    import pyarrow as pa

    found = columns(rows)
    table = pa.table(found)
    with database.connect("file.duckdb") as connection:
        connection.execute("set threads to 4")
        connection.register("t", table)

        def told(query: str) -> str:
            got = connection.execute(query).fetchnumpy()
            return digest(*(np.asarray(column) for column in got.values()))

        yield told("select * from t order by number")
        yield told("select kind, count(*) as n, max(noise) as most from t group by kind order by kind")
        for form in ("parquet", "csv"):
            connection.execute(f"copy (select * from t where kind < 40) to 'a.{form}' (format {form})")
            yield told(f"select * from 'a.{form}' order by number")
        connection.execute("create table kept as select * from t")
        connection.execute("checkpoint")
        yield told("select * from kept order by noise")
        made = connection.sql("select * from kept order by number").to_arrow_table()
        yield digest(*(column.to_numpy() for column in made.combine_chunks().columns))


PROGRAMS: dict[str, Callable[[int], Iterator[str]]] = {p.__name__: p for p in (kernel, h5py, pyarrow, polars, duckdb)}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="frontswap-test-") as folder:
        os.chdir(folder)
        for line in PROGRAMS[sys.argv[1]](int(sys.argv[2])):
            print(line)
