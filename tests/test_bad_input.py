"""What is wrong is one clear error of our tree, names what is allowed, and leaves nothing behind.

That nothing is left (no descriptor, no thread, no mapping) is looked at after every test, see conftest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewMemory
from helpers import FORBID, ROOT, Array, Mode, ballast, census, forbidden, left_since, run_child

import frontswap
from frontswap.swap import default_directory, file_system

# --- parameters of a Memory ----------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], str]] = [
    *(("limit", {"limit": wrong}, "size in bytes") for wrong in ("", "x", "16Q", "-1", -1, None, 1.5, 2**63, True)),
    *(("limit", {"limit": wrong}, "at least 16 MiB") for wrong in (0, 1, "15M", (16 << 20) - 1)),
    *(("page", {"page": wrong}, "size in bytes") for wrong in ("large", "", -4096, None, 4096.0)),
    *(("page", {"page": wrong}, "power of two") for wrong in (0, 1, 2048, 4095, 5000, 12288, "3K", "4M", "1G")),
    *(("page", {"page": wrong}, "limit") for wrong in ("2M", 1 << 20)),
    *(("arena", {"arena": wrong}, "size in bytes") for wrong in ("big", -1, None)),
    *(("arena", {"arena": wrong}, "between the limit and 32 TiB") for wrong in (0, "15M", "33T", "1P")),
    *(("threshold", {"threshold": wrong}, "size in bytes") for wrong in ("low", -1, None)),
    *(("backends", {"backends": wrong}, "zcache") for wrong in ("tmem", "zcache/zcache", "zcache:codec=lz5", 3)),
    ("allocate", {"allocate": "1G"}, "swap=None"),
    ("allocate", {"allocate": "much", "swap": None}, "size in bytes"),
    ("allocate", {"allocate": -1, "swap": None}, "size in bytes"),
    ("overcommit", {"overcommit": True, "swap": None}, "swap file"),
    ("swap", {"swap": 3}, "directory"),
    ("swap", {"swap": b"/var/tmp"}, "directory"),
]


@pytest.mark.parametrize(("name", "given", "allowed"), WRONG, ids=[repr(given) for _, given, _ in WRONG])
def test_wrong_parameter(name: str, given: dict[str, Any], allowed: str) -> None:
    before = census()
    with pytest.raises(frontswap.ParameterError) as caught:
        frontswap.Memory(**{"limit": "16M", **given})
    assert left_since(before) == {}
    assert isinstance(caught.value, ValueError)
    assert caught.value.parameter == name
    assert str(caught.value).startswith(f"{name}=")
    assert allowed in str(caught.value)


def test_unknown_parameter() -> None:
    with pytest.raises(TypeError, match="limits"):
        frontswap.Memory(limits="16M")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["FRONTSWAP_FAULTS", "FRONTSWAP_EVICT"])
def test_wrong_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "magic")
    with pytest.raises(frontswap.ParameterError, match=f"{name}='magic': must be .* or "):
        frontswap.Memory("16M")


# --- the swap directory --------------------------------------------------------------------------


def refused(where: Any, *expected: str) -> None:
    before = census()
    with pytest.raises(frontswap.SwapDirectoryError) as caught:
        frontswap.Memory("16M", swap=where)
    assert left_since(before) == {}
    assert isinstance(caught.value, OSError)
    for text in ("swap=", str(where), *expected):
        assert text in str(caught.value)


def test_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "missing" / "file", "missing is not a directory", "`frontswap doctor`")


def test_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file" / "swap", "is not a directory")


def test_file_with_contents_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "not an empty file")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "not an empty file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "link")
    refused("/dev/null", "not an empty file")
    with pytest.raises(frontswap.SwapDirectoryError, match="no file can have this name"):
        frontswap.Memory("16M", swap=f"{tmp_path}/a\0b")


def test_new_or_empty_file_is_taken_and_unlinked(tmp_path: Path, new_memory: NewMemory) -> None:
    for name in ("new", "empty"):
        if name == "empty":
            (tmp_path / name).touch()
        memory = new_memory(swap=tmp_path / name)
        assert not list(tmp_path.iterdir())
        array = memory.array(np.arange(4 << 20))
        assert array[-1] == (4 << 20) - 1
        del array


def test_a_directory_of_ram() -> None:
    if file_system(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    refused("/dev/shm", "tmpfs", "RAM itself", "swap=None", "`frontswap doctor`")
    refused("/dev/shm/file", "tmpfs", "RAM itself")


def test_tmpdir_is_used_unless_it_is_ram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if file_system(tmp_path) in ("tmpfs", ""):
        pytest.skip(f"{tmp_path} is not on a disk")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_directory() == tmp_path
    for other in ("/dev/shm" if file_system(Path("/dev/shm")) == "tmpfs" else "", "", str(tmp_path / "missing")):
        monkeypatch.setenv("TMPDIR", other)
        assert default_directory() == Path("/var/tmp")


def test_directory_that_is_not_writable() -> None:
    code = """
try:
    frontswap.Memory("16M", swap="/usr")
except frontswap.SwapDirectoryError as error:
    print(error)
"""
    assert "/usr is not writable for this user" in run_child(code, ordinary=True).check().out


def test_read_only_file_system(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused(small_disk, "not writable")


def test_full_disk(small_disk: Path) -> None:
    ballast(small_disk, 1 << 20)
    refused(small_disk, "is full", "needed", "`frontswap doctor`")


# --- allocations that nothing can back -----------------------------------------------------------


def test_more_than_the_disk_has(small_disk: Path, new_memory: NewMemory) -> None:
    memory = new_memory(swap=small_disk)
    before = memory.statistics().swap_reserved_bytes
    with pytest.raises(
        frontswap.OutOfMemoryError, match=r"100 MiB .*disk.*No space left.*free there.*overcommit.*`frontswap doctor`"
    ):
        memory.empty(100 << 20, "u1")
    with pytest.raises(MemoryError), memory:
        np.empty(100 << 20, "u1")
    now = memory.statistics()
    assert (now.allocated_bytes, now.swap_reserved_bytes) == (0, before)
    array = memory.ones(40 << 20, "u1")  # what there is room for can still be had
    ballast(small_disk, 0)
    assert array.all()
    array += 1  # what was promised is kept: its space is reserved
    assert (array == 2).all()
    with pytest.raises(frontswap.OutOfMemoryError):
        memory.empty(40 << 20, "u1")
    del array


def changed(disk: Path) -> list[int]:
    """When each file of this disk that the process has open was changed last, in nanoseconds."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the directory itself is closed by now
            found.append(os.fstat(int(name)))
    return [file.st_ctime_ns for file in found if file.st_dev == disk.stat().st_dev]


def test_refused_allocation_takes_nothing_from_the_disk(small_disk: Path, new_memory: NewMemory) -> None:
    memory = new_memory(swap=small_disk)
    array = memory.ones(20 << 20, "u1")
    before = os.statvfs(small_disk).f_bavail
    files = changed(small_disk)
    assert len(files) == 1
    with pytest.raises(frontswap.OutOfMemoryError):
        memory.empty(100 << 20, "u1")
    # ext4 may keep a block of the file's extent tree.
    assert before - os.statvfs(small_disk).f_bavail <= 8
    # Nor for a moment: somebody else would have found a full disk.
    assert changed(small_disk) == files
    assert array.all()
    del array


def test_more_than_a_file_may_have() -> None:
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))
memory = frontswap.Memory("16M")
array = memory.array(noise(20 << 20))
try:
    memory.empty(64 << 20, "u1")
except frontswap.OutOfMemoryError as error:
    assert isinstance(error, MemoryError)
    print(error)
same(np.array(array), noise(20 << 20))
"""
    said = run_child(code, ordinary=True).check().out
    assert "an array of 64 MiB cannot be backed" in said
    assert "File too large" in said


def test_more_than_allocate(new_memory: NewMemory) -> None:
    memory = new_memory(swap=None)
    array = memory.empty(10 << 20, "u1")
    with pytest.raises(frontswap.OutOfMemoryError, match=r"allocate=16 MiB.*raise allocate="):
        memory.empty(7 << 20, "u1")
    memory.empty(6 << 20, "u1")
    del array


def test_more_than_the_arena(new_memory: NewMemory) -> None:
    memory = new_memory(arena="32M")
    with pytest.raises(frontswap.OutOfMemoryError, match="64 MiB does not fit in the arena of 32 MiB; raise arena="):
        memory.empty(64 << 20, "u1")
    first = memory.empty(20 << 20, "u1")
    with pytest.raises(frontswap.OutOfMemoryError, match="arena"):
        memory.empty(20 << 20, "u1")
    del first
    assert memory.empty(20 << 20, "u1").size == 20 << 20


def test_what_does_not_compress_without_a_swap_file_ends_loudly(seam: Mode) -> None:
    code = """
memory = frontswap.Memory("16M", swap=None, allocate="64M")
array = memory.empty(32 << 20, "u1")
print("allocated", flush=True)
array[:] = noise(32 << 20)
print("never here")
"""
    done = run_child(code, mode=seam).died_of(signal.SIGBUS)
    assert done.out == "allocated\n"
    assert "out of memory: the limit is reached" in done.err


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [object, "O", [("a", "i4"), ("b", "O")], ("O", 2), np.dtypes.StringDType()], ids=str)
def test_dtype_with_references(memory: frontswap.Memory, dtype: Any) -> None:
    makers: list[Callable[[], Array]] = [
        lambda: memory.empty(3, dtype),
        lambda: memory.zeros(3, dtype),
        lambda: memory.array([1], dtype),
        lambda: memory.empty_like(np.zeros(2, dtype)),
    ]
    for make in makers:
        with pytest.raises(frontswap.DtypeError, match=r"dtype=.*references to Python objects") as caught:
            make()
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ValueError)
    assert memory.statistics().allocated_bytes == 0


@pytest.mark.parametrize("source", [[None], [object()], [{}], [10**30]], ids=["None", "object", "dict", "big"])
def test_source_of_objects(memory: frontswap.Memory, source: Any) -> None:
    for make in (memory.array, memory.asarray, lambda value: memory.full(3, value[0])):
        with pytest.raises(frontswap.DtypeError):
            make(source)


@pytest.mark.parametrize("shape", [-1, (-1,), (3, -4), [2, -1]], ids=str)
def test_negative_shape(memory: frontswap.Memory, shape: Any) -> None:
    with pytest.raises(frontswap.ParameterError, match=r"shape=.*negative|shape=.*must be"):
        memory.empty(shape)
    assert memory.statistics().allocated_bytes == 0


@pytest.mark.parametrize("shape", [(2**62,), (2**40, 2**40), 2**60])
def test_shape_beyond_all_addresses(memory: frontswap.Memory, shape: Any) -> None:
    with pytest.raises((frontswap.ParameterError, frontswap.OutOfMemoryError)):
        memory.empty(shape)


@pytest.mark.parametrize("page", ["large", 5000, 0, "1M", -1])
def test_wrong_page_of_an_array(memory: frontswap.Memory, page: Any) -> None:
    with pytest.raises(frontswap.ParameterError, match=r"^page="):
        memory.empty(3, page=page)
    assert memory.statistics().allocated_bytes == 0


@pytest.mark.parametrize("dtype", ["nonsense", 3, "f16x"])
def test_unknown_dtype_is_numpys_error(memory: frontswap.Memory, dtype: Any) -> None:
    with pytest.raises(TypeError):
        memory.empty(3, dtype)


# --- what the kernel refuses ---------------------------------------------------------------------

SECCOMP = ["seccomp", "Docker", "docker run --security-opt seccomp=unconfined"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EPERM, SECCOMP), (errno.ENOSYS, SECCOMP), (errno.EINVAL, ["write protection", "5.11"])],
    ids=["EPERM", "ENOSYS", "EINVAL"],
)
def test_userfaultfd_forbidden(number: int, advice: list[str]) -> None:
    """And /proc/self/mem, which helps where it is forbidden (test_protection)."""
    code = f"""
forbid({number})
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
threads, descriptors = len(os.listdir("/proc/self/task")), len(os.listdir("/dev/fd"))
assert not any(kernel_features().values())
try:
    frontswap.Memory("16M")
except frontswap.KernelSupportError as error:
    assert isinstance(error, OSError) and error.errno == {number}
    print(error)
gc.collect()
assert (threads, descriptors) == (len(os.listdir("/proc/self/task")), len(os.listdir("/dev/fd")))
"""
    # /dev/fd of a process that has given up root is root's: it may not look, and need not when it never was root.
    code = FORBID + code.replace('len(os.listdir("/dev/fd"))', "sum(os.path.exists(f'/dev/fd/{n}') for n in range(64))")
    said = run_child(code, ordinary=True).check().out
    for text in (*advice, "`frontswap doctor`"):
        assert text in said


def test_device_where_the_system_call_is_forbidden() -> None:
    """Root has /dev/userfaultfd beside the system call; what Memory can use, kernel_features() must show."""
    if not ROOT or not Path("/dev/userfaultfd").exists():
        pytest.skip("needs root and /dev/userfaultfd")
    code = (
        FORBID
        + f"""
before = kernel_features()
forbid({errno.EPERM})
memory = frontswap.Memory("16M")
source = walk(4 << 20)
same(np.array(memory.array(source)), source)
assert kernel_features() == before, kernel_features()
"""
    )
    run_child(code).check()


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_NOFILE"])
def test_process_limits(name: str) -> None:
    """Addresses, threads, descriptors: whatever runs out, it is one error of ours and nothing is left."""
    code = f"""
limits = {{"RLIMIT_AS": [1 << 30], "RLIMIT_NPROC": [1], "RLIMIT_NOFILE": [3, 4]}}
soft, hard = resource.getrlimit(resource.{name})
listing = lambda: (len(os.listdir("/proc/self/task")), [n for n in range(64) if os.path.exists(f"/dev/fd/{{n}}")])
before = listing()
for limit in limits["{name}"]:
    resource.setrlimit(resource.{name}, (limit, hard))
    for _ in range(3):
        try:
            frontswap.Memory("16M")
        except frontswap.FrontswapError as error:
            print(type(error).__name__, error)
        else:
            print("no error")
    resource.setrlimit(resource.{name}, (soft, hard))
gc.collect()
assert listing() == before, (before, listing())
memory = frontswap.Memory("16M")
same(np.array(memory.array(walk(4 << 20))), walk(4 << 20))
"""
    # Threads of root are not counted; descriptors of a process that has given up root cannot be listed.
    said = run_child(code, ordinary=name == "RLIMIT_NPROC").check().out
    assert "no error" not in said
    assert len(said.splitlines()) in (3, 6)


def test_more_memories_than_there_may_be() -> None:
    before = census()
    memories: list[frontswap.Memory] = []
    # Where pages are protected it is mappings that a process runs out of.
    with pytest.raises(frontswap.KernelSupportError, match="max_map_count" if forbidden() else "64 Memory"):  # noqa: PT012
        for _ in range(65):
            memories.append(frontswap.Memory("16M"))
    assert len(memories) == 64 or (forbidden() and len(memories) >= 10)
    arrays = [memory.full(1000, i) for i, memory in enumerate(memories)]
    for _ in range(3):
        with pytest.raises(frontswap.KernelSupportError):
            frontswap.Memory("16M")
    assert [array[-1] for array in arrays] == list(range(len(memories)))
    del arrays[7]
    memories.pop(7).close()
    frontswap.Memory("16M").close()
    arrays.clear()
    memories.clear()
    assert left_since(before) == {}
