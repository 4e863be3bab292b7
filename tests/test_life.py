"""How long things live: views, resized arrays, closed Memories, garbage in every order, exits."""

from __future__ import annotations

import gc
import itertools
import signal
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, Mode, census, held, left_since, noise, run_child, walk

import frontswap

NOTHING = (0, 0, 0, 0)


def used(memory: frontswap.Memory) -> Array:
    """An array of three times the limit: in RAM, in the pool and in the swap file."""
    array = memory.empty(48 << 20, "u1")
    array[: 24 << 20] = noise(24 << 20)
    array[24 << 20 :] = walk(3 << 20).view("u1")
    assert all(held(memory))
    return array


# --- arrays --------------------------------------------------------------------------------------


def test_memory_goes_back_with_the_last_view(memory: frontswap.Memory) -> None:
    array = used(memory)
    views: list[Any] = [array[5:10], array.reshape(2, -1).T, array.data[7:9], np.asarray(array)[::-2]]
    expected = bytes(array[5:10])
    del array
    while views:
        assert memory.statistics().allocated_bytes == 48 << 20
        if isinstance(views[0], np.ndarray) and len(views[0]) == 5:
            assert bytes(views[0]) == expected
        del views[0]
    assert held(memory) == NOTHING


def test_view_keeps_a_memory_alive_that_nobody_names(new_memory: NewMemory) -> None:
    memory = frontswap.Memory("16M")
    source = noise(32 << 20)
    view = memory.array(source)[::-1]
    gone = weakref.ref(memory)
    del memory
    gc.collect()
    assert gone() is None
    assert np.array_equal(view, source[::-1])  # faults, and evicts, and reads the swap file


@pytest.mark.parametrize("order", list(itertools.permutations(["memory", "array", "view"])))
def test_garbage_in_every_order(order: tuple[str, ...]) -> None:
    before = census()
    memory = frontswap.Memory("16M")
    array = memory.full(3 << 20, 1.5)
    names: dict[str, Any] = {"memory": memory, "array": array, "view": array[1::2]}
    del memory, array
    for name in order:
        assert all(it[-1] == 1.5 for it in names.values() if isinstance(it, np.ndarray))
        del names[name]
        gc.collect()
    assert left_since(before) == {}


def test_garbage_in_a_cycle() -> None:
    before = census()
    memory = frontswap.Memory("16M")
    holder: dict[str, Any] = {"memory": memory, "array": memory.ones(3 << 20), "within": []}
    holder["self"] = holder
    holder["within"].append(holder)
    memory.holder = holder  # type: ignore[attr-defined]
    del memory, holder
    assert left_since(before) == {}


def test_resize_keeps_bytes_and_adds_zeros(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory()
    source = walk(1 << 20)
    array = memory.array(source)
    expected = source.copy()
    for n in (5 << 20, 3 << 20, 6 << 20, 1 << 20, 10, 2 << 20):
        array.resize(n, refcheck=False)
        expected.resize(n, refcheck=False)
        assert np.array_equal(array, expected)
    del array
    assert held(memory) == NOTHING


def test_a_resized_array_stays_in_its_memory(memory: frontswap.Memory) -> None:
    array = memory.ones(1 << 20)
    array.resize(1 << 10, refcheck=False)
    assert memory.asarray(array) is array
    assert memory.statistics().allocated_bytes >= array.nbytes


# --- as NumPy's allocator: with mem ---------------------------------------------------------------


def test_with_takes_big_arrays_only(new_memory: NewMemory) -> None:
    memory = new_memory(threshold="64K")
    with memory as entered:
        assert entered is memory
        small, big = np.ones(65535, "u1"), np.ones(65536, "u1")
        result = np.ones(1 << 16) + np.ones(1 << 16)
        assert memory.statistics().allocated_bytes == 65536 + result.nbytes
    after = np.ones(1 << 20)
    assert memory.statistics().allocated_bytes == 65536 + result.nbytes
    assert small.all()
    assert big.all()
    assert (result == 2).all()
    assert after.all()
    del big, result
    assert held(memory) == NOTHING


def test_with_is_of_this_thread_alone(memory: frontswap.Memory) -> None:
    import threading

    made: list[Array] = []
    with memory:
        thread = threading.Thread(target=lambda: made.append(np.ones(1 << 20)))
        thread.start()
        thread.join()
        assert memory.statistics().allocated_bytes == 0
        made.append(np.ones(1 << 20))
        assert memory.statistics().allocated_bytes == 8 << 20


def test_with_nested(new_memory: NewMemory) -> None:
    outer, inner = new_memory(), new_memory()

    def counts() -> tuple[int, int]:
        return outer.statistics().allocated_bytes >> 20, inner.statistics().allocated_bytes >> 20

    with outer:
        first = np.ones(1 << 20)
        with inner:
            second = np.ones(2 << 20)
            with outer:
                third = np.ones(3 << 20)
                assert counts() == (8 + 24, 16)
            fourth = np.ones(4 << 20)
            assert counts() == (8 + 24, 16 + 32)
        first += 1
        fifth = np.ones(5 << 20)
        assert counts() == (8 + 24 + 40, 16 + 32)
    sixth = np.ones(6 << 20)
    assert counts() == (8 + 24 + 40, 16 + 32)
    assert first.sum() == 2 << 20
    assert [int(a.sum()) >> 20 for a in (second, third, fourth, fifth, sixth)] == [2, 3, 4, 5, 6]


def test_with_ends_at_an_exception(memory: frontswap.Memory) -> None:
    with pytest.raises(KeyError), memory:
        raise KeyError
    array = np.ones(1 << 20)
    assert memory.statistics().allocated_bytes == 0
    assert array.all()


def test_arrays_change_hands_inside_with(memory: frontswap.Memory) -> None:
    """What was made outside is freed and resized inside, and the other way round."""
    outside = np.ones(1 << 20)
    with memory:
        outside.resize(2 << 20, refcheck=False)
        inside = np.ones(1 << 20)
        inside = np.append(inside, inside)
    inside.resize(3 << 20, refcheck=False)
    assert outside.sum() == 1 << 20
    assert inside.sum() == 2 << 20
    del outside, inside
    assert held(memory) == NOTHING


def test_huge_calloc_inside_with_is_a_memory_error(memory: frontswap.Memory) -> None:
    with memory, pytest.raises(MemoryError):
        np.zeros(1 << 50, "u1")


# --- closing -------------------------------------------------------------------------------------


def test_close_refuses_while_arrays_live(memory: frontswap.Memory) -> None:
    array = memory.ones(1 << 20)
    with pytest.raises(frontswap.InUseError, match=r"8 MiB still live.*force=True") as caught:
        memory.close()
    assert isinstance(caught.value, RuntimeError)
    assert array.sum() == 1 << 20  # nothing has happened
    del array
    memory.close()


def test_close_gives_everything_back_and_may_be_called_twice() -> None:
    before = census()
    memory = frontswap.Memory("16M")
    used(memory)
    memory.close()
    assert left_since(before) == {}
    memory.close()
    memory.close(force=True)


def test_closed_memory_says_so() -> None:
    memory = frontswap.Memory("16M")
    memory.close()
    array = np.ones(3)
    uses = {
        "empty": lambda: memory.empty(1),
        "zeros": lambda: memory.zeros(1),
        "ones": lambda: memory.ones(1),
        "full": lambda: memory.full(1, 1),
        "array": lambda: memory.array([1]),
        "asarray": lambda: memory.asarray([1]),
        "empty_like": lambda: memory.empty_like(array),
        "zeros_like": lambda: memory.zeros_like(array),
        "ones_like": lambda: memory.ones_like(array),
        "full_like": lambda: memory.full_like(array, 1),
        "with": memory.__enter__,
        "advise": lambda: memory.advise(array, "cold"),
        "pin": lambda: memory.pin(array).__enter__(),
        "statistics": memory.statistics,
    }
    for use in uses.values():
        with pytest.raises(frontswap.ClosedError, match="has been closed") as caught:
            use()
        assert isinstance(caught.value, ValueError)


def test_close_inside_with(memory: frontswap.Memory) -> None:
    with memory:
        memory.close()
        array = np.ones(1 << 20)  # NumPy's own again
        array.resize(2 << 20, refcheck=False)
    assert array.sum() == 1 << 20


def test_forced_close_unmaps(seam: Mode) -> None:
    done = run_child(
        """
memory = frontswap.Memory("16M")
array = memory.ones(4 << 20)
memory.close(force=True)
print("closed", flush=True)
print(array[0])
""",
        mode=seam,
    )
    assert done.died_of(signal.SIGSEGV).out == "closed\n"


def test_arrays_that_outlive_a_forced_close_can_be_deleted(seam: Mode) -> None:
    code = """
memory = frontswap.Memory("16M")
array = memory.ones(4 << 20)
memory.close(force=True)
try:
    array.resize(5 << 20, refcheck=False)
except MemoryError:
    print("its bytes are gone")
other = frontswap.Memory("16M")
copy = other.zeros(4 << 20)
del array
gc.collect()
assert not copy.any()
"""
    assert run_child(code, mode=seam).check().out == "its bytes are gone\n"


# --- the end of the process ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "del memory",
        "sys.exit(0)",
        "memory.__enter__(); more = np.ones(3 << 20)",
        "cycle = [memory, array]; cycle.append(cycle); del memory, array",
        "import atexit; atexit.register(lambda: array.sum())",
        "threading.Thread(target=lambda: [array.sum() for _ in range(20)]).start()",
    ],
)
def test_exit_with_live_arrays(seam: Mode, ending: str) -> None:
    done = run_child(f'memory = frontswap.Memory("16M"); array = memory.array(walk(4 << 20))\n{ending}', mode=seam)
    assert done.check().err == ""


def test_exit_during_faults_of_daemon_threads(seam: Mode) -> None:
    code = """
memory = frontswap.Memory("16M")
array = memory.array(walk(4 << 20))
scans = threading.Semaphore(0)
def scan():
    while True:
        array.sum()
        scans.release()
for _ in range(4):
    threading.Thread(target=scan, daemon=True).start()
for _ in range(4):
    scans.acquire()
"""
    assert run_child(code, mode=seam).check().err == ""


def test_killed_process_leaves_no_file(tmp_path: Path) -> None:
    code = f"""
memory = frontswap.Memory("16M", swap={str(tmp_path)!r})
array = memory.array(noise(32 << 20))
assert memory.statistics().swapped_bytes
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_child(code).died_of(signal.SIGKILL)
    assert not list(tmp_path.iterdir())
