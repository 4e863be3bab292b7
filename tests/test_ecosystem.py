"""What people hand arrays above the limit to: NumPy's files, pickle, hashlib, zlib, h5py, pyarrow, data frames."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import mmap
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import DUMPABLE, ORDINARY, ROOT, forbidden, run_child, same, walk

import frontswap

N = (24 << 20) // 8
Array = Any  # for mypy arrays are no buffers before Python 3.12


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a disk: /tmp may be RAM."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="frontswap-test-") as name:
        yield Path(name)


@pytest.fixture
def expected() -> Array:
    return walk(N)


def evicted(memory: frontswap.Memory, expected: Array) -> Array:
    """A copy in this Memory; half of it and more is out."""
    made: Array = memory.asarray(expected)
    memory.advise(made[: N // 2], "cold")
    return made


def test_save_and_load(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)
    np.save(folder / "a.npy", array)
    same(np.load(folder / "a.npy"), expected)
    with memory:
        found = np.load(folder / "a.npy")
    same(found, expected)
    same(np.load(folder / "a.npy", mmap_mode="r").view(np.ndarray), expected)


def test_savez(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)
    np.savez(folder / "a.npz", array=array, other=array[::-5])
    with np.load(folder / "a.npz") as found:
        same(found["array"], expected)
        same(found["other"], expected[::-5])


def test_tofile_and_fromfile(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)
    array.tofile(folder / "a")
    with memory:
        same(np.fromfile(folder / "a"), expected)
        same(np.fromfile(folder / "a", offset=800_008, count=1_000_001), expected[100_001:1_100_002])
    with (folder / "a").open("r+b") as file:
        file.seek(80)
        array[50:100].tofile(file)
        assert file.tell() == 480
    assert (folder / "a").read_bytes()[80:480] == expected[50:100].tobytes()


def test_memmap_beside_it(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)
    mapped = np.memmap(folder / "a", dtype="f8", mode="w+", shape=(N,))
    mapped[:] = array
    mapped.flush()
    back: Array = memory.empty_like(expected)
    back[:] = mapped
    same(back, expected)
    with (folder / "a").open("r+b") as file, mmap.mmap(file.fileno(), 0) as raw:
        raw.seek(0)
        raw.write(memoryview(back[::-1].copy()).cast("B"))
        same(np.frombuffer(raw[:80], "f8"), expected[::-1][:10])


def test_pickle_with_buffers_apart(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 1000
    with (folder / "b").open("wb", buffering=0) as file:
        assert file.write(buffers[0].raw()) == expected.nbytes
    into: Array = memory.empty(expected.nbytes, "u1")
    with (folder / "b").open("rb", buffering=0) as file:
        assert file.readinto(memoryview(into)) == expected.nbytes
    same(pickle.loads(head, buffers=[into]), expected)
    same(pickle.loads(pickle.dumps(array[: N // 8])), expected[: N // 8])
    with (folder / "c").open("wb") as out:
        pickle.dump(array, out, protocol=5)
    with (folder / "c").open("rb") as file:
        same(pickle.load(file), expected)


def test_files_of_python(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)
    for buffering in (0, 4096, -1):
        with (folder / "a").open("wb", buffering=buffering) as file:
            assert file.write(memoryview(array).cast("B")) == expected.nbytes
        into: Array = memory.empty_like(expected)
        with (folder / "a").open("rb", buffering=buffering) as file:
            assert file.readinto(memoryview(into).cast("B")) == expected.nbytes  # type: ignore[attr-defined]
        same(into, expected)


def test_copyfileobj(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)

    class Source(io.RawIOBase):
        at = 0

        def read(self, size: int = -1) -> Any:
            part = memoryview(array).cast("B")[self.at : self.at + size]
            self.at += len(part)
            return part

    with (folder / "a").open("wb", buffering=0) as file:
        shutil.copyfileobj(Source(), file, 3_000_001)
    same(np.fromfile(folder / "a"), expected)


def test_hashlib_and_zlib(memory: frontswap.Memory, expected: Array) -> None:
    array = evicted(memory, expected)
    assert hashlib.sha256(memoryview(array)).digest() == hashlib.sha256(memoryview(expected)).digest()
    assert hashlib.blake2b(memoryview(array)).digest() == hashlib.blake2b(memoryview(expected)).digest()
    assert zlib.crc32(memoryview(array)) == zlib.crc32(memoryview(expected))
    packed = zlib.compress(memoryview(array[: N // 8]), 1)
    assert zlib.decompress(packed) == expected[: N // 8].tobytes()


def test_a_program_on_the_other_end(memory: frontswap.Memory, expected: Array) -> None:
    """subprocess: written to its standard input and read from its standard output, at the same time."""
    array = evicted(memory, expected)
    into: Array = memory.empty_like(expected)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as cat:
        assert cat.stdin
        assert cat.stdout

        def feed() -> None:
            assert cat.stdin
            assert cat.stdin.write(memoryview(array).cast("B")) == expected.nbytes
            cat.stdin.close()

        thread = threading.Thread(target=feed)
        thread.start()
        view, got = memoryview(into).cast("B"), 0
        while n := cat.stdout.readinto(view[got:]):  # type: ignore[attr-defined]
            got += n
        thread.join()
    same(into, expected)


def test_sockets(memory: frontswap.Memory, expected: Array) -> None:
    array = evicted(memory, expected)
    into: Array = memory.empty_like(expected)
    one, other = socket.socketpair()
    with one, other:
        thread = threading.Thread(target=one.sendall, args=(memoryview(array).cast("B"),))
        thread.start()
        assert other.recv_into(memoryview(into).cast("B"), expected.nbytes, socket.MSG_WAITALL) == expected.nbytes
        thread.join()
    same(into, expected)


def test_h5py(memory: frontswap.Memory, expected: Array, folder: Path) -> None:
    array = evicted(memory, expected)
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("whole", data=array)
        file.create_dataset("chunked", data=array[: N // 4], chunks=(100_000,), compression="lzf")
    into: Array = memory.empty_like(expected)
    with h5py.File(folder / "a.h5", "r") as file:
        file["whole"].read_direct(into)
        same(into, expected)
        same(file["chunked"][:], expected[: N // 4])


def test_arrow(folder: Path) -> None:
    """In a process of its own: pyarrow's threads stay."""
    if importlib.util.find_spec("pyarrow") is None:
        pytest.skip("needs pyarrow")
    run_child(
        f"""
import pyarrow as pa, pyarrow.parquet as pq
memory = frontswap.Memory(limit="16M")
expected = walk({N})
array = memory.asarray(expected)
memory.advise(array, "cold")
os.chdir({str(folder)!r})
table = pa.table({{"a": pa.Array.from_buffers(pa.float64(), {N}, [None, pa.py_buffer(array)])}})
with pa.OSFile("a.arrow", "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
    writer.write_table(table)
with pa.OSFile("a.arrow", "rb") as source:
    same(pa.ipc.open_file(source).read_all()["a"].to_numpy(), expected)
into = memory.empty_like(expected)
with pa.memory_map("a.arrow") as source:
    into[:] = pa.ipc.open_file(source).read_all()["a"].to_numpy()
same(into, expected)
pq.write_table(table, "a.parquet", use_dictionary=False, compression="lz4")
same(pq.read_table("a.parquet")["a"].to_numpy(), expected)
"""
    ).check()


FRAMES = {
    "pandas": """
frame = pandas.DataFrame({"a": array}, copy=False)
frame.to_pickle("a.pickle")
same(pandas.read_pickle("a.pickle")["a"].to_numpy(), expected)
cold()
frame.to_parquet("a.parquet")
same(pandas.read_parquet("a.parquet")["a"].to_numpy(), expected)
cold()
frame.iloc[:50_000].to_csv("a.csv", index=False)
same(pandas.read_csv("a.csv")["a"].to_numpy(), expected[:50_000])
""",
    "polars": """
frame = polars.DataFrame({"a": polars.Series(array)})
frame.write_parquet("a.parquet")
same(polars.read_parquet("a.parquet")["a"].to_numpy(), expected)
cold()
frame.write_ipc("a.arrow", compression="uncompressed")
same(polars.read_ipc("a.arrow")["a"].to_numpy(), expected)
cold()
assert np.array_equal(frame.select(polars.col("a").sort())["a"].to_numpy(), np.sort(expected))
""",
    "duckdb": """
held = {"a": array}
found = duckdb.sql("select a from held where a > 0").fetchnumpy()["a"]
assert np.array_equal(np.sort(found), np.sort(expected[expected > 0]))
cold()
duckdb.sql("copy (select a from held) to 'a.parquet' (format parquet)")
found = duckdb.sql("select a from 'a.parquet'").fetchnumpy()["a"]
assert np.array_equal(np.sort(found), np.sort(expected))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("ordinary", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("library", FRAMES)
def test_data_frames(library: str, ordinary: bool, folder: Path) -> None:
    """Of an evicted array, not a copy of it; without privilege the kernel would refuse each call on it."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    folder.chmod(0o777)
    run_child(
        f"""
import tempfile, {library}
def work(array, expected, cold):
    folder = tempfile.mkdtemp(dir={str(folder)!r})
    os.chdir(folder)
{textwrap.indent(FRAMES[library], "    ")}
# once before, on ordinary memory: what they import late may be root's alone
work(walk(70_000), walk(70_000), lambda: None)
{ORDINARY * (ordinary and ROOT)}{DUMPABLE * (ordinary and forbidden())}
memory = frontswap.Memory(limit="16M")
expected = walk({N})
array = memory.asarray(expected)
memory.advise(array, "cold")
work(array, expected, lambda: memory.advise(array, "cold"))
"""
    ).check()


def test_loaded_after_the_first_memory() -> None:
    """A library that is loaded later is patched when it is loaded; as an ordinary user, what can be loaded then."""
    run_child(
        f"""
memory = frontswap.Memory(limit="16M")
for folder in {[p for p in sys.path if p.endswith("site-packages")]!r}:
    sys.path.insert(0, folder)
a = memory.asarray(walk({N}))
memory.advise(a, "cold")
try:
    import h5py
except ImportError:
    h5py = None
import tempfile
with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
    a.tofile(folder + "/a")
    same(np.fromfile(folder + "/a"), walk({N}))
    if h5py:
        memory.advise(a, "cold")
        with h5py.File(folder + "/a.h5", "w") as file:
            file["a"] = a
        with h5py.File(folder + "/a.h5", "r") as file:
            file["a"].read_direct(a)
        same(a, walk({N}))
""",
    ).check()


def test_all_of_numpy_without_privilege() -> None:
    run_child(
        f"""
import io, pickle, tempfile, zlib, hashlib
memory = frontswap.Memory(limit="16M")
expected = walk({N})
a = memory.asarray(expected)
memory.advise(a, "cold")
with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
    np.save(folder + "/a.npy", a)
    a.tofile(folder + "/a")
    with memory:
        same(np.load(folder + "/a.npy"), expected)
        same(np.fromfile(folder + "/a"), expected)
    with open(folder + "/p", "wb") as out:
        pickle.dump(a, out, protocol=5)
    with open(folder + "/p", "rb") as file, memory:
        same(pickle.load(file), expected)
""",
        ordinary=True,
    ).check()
