"""Threads and signals: faults of many threads at once, on the same pages, on small stacks, interrupted."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, Mode, hammered, held, noise, run_child, together, walk

import frontswap
from frontswap.memory.memory import Advice

PAGE = 4096
ADVICE: list[Advice] = ["willneed", "cold", "random", "normal"]


@pytest.mark.parametrize("turns", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_many_threads_on_few_pages(mode: Mode, new_memory: NewMemory, turns: int) -> None:
    """16 threads read and write words of the same three pages, which are evicted under their hands."""
    memory = new_memory(page=PAGE)
    array = memory.zeros((3, 512), "u8")

    def work() -> None:
        for _ in range(turns):
            memory.advise(array, "cold")

    hammered(array, 16, 5, work)
    assert memory.statistics().refaults > 0


def test_sixteen_threads_under_pressure(mode: Mode, new_memory: NewMemory) -> None:
    """Twice the limit; pages come, go, are cleaned, written back and read ahead at the same time."""
    memory = new_memory(page=PAGE)
    array = memory.empty((8 << 10, 512), "u8")

    def work() -> None:
        for step in range(24):
            part = array[step * 300 : step * 300 + 300]
            memory.advise(part, ADVICE[step % 4])
            own = memory.array(noise(1 << 18, step))
            assert np.array_equal(own, noise(1 << 18, step))

    hammered(array, 8, 9, work)
    now = memory.statistics()
    assert (now.poisoned, now.overshoots) == (0, 0)


def test_first_touch_races(mode: Mode, new_memory: NewMemory) -> None:
    """Every thread writes its own word of every page of a new array: nobody's first write is lost."""
    memory = new_memory(page=PAGE)

    def race() -> None:
        array = memory.empty((1000, 512), "u8")

        def work(i: int) -> None:
            array[:, i] = i + 1

        together(8, work)
        assert (array[:, :8] == np.arange(1, 9)).all()
        assert not array[:, 8:].any()

    for _ in range(10):
        race()


def test_reading_races_with_writing(mode: Mode, new_memory: NewMemory) -> None:
    """Readers bring pages in clean while writers make them dirty: no write is lost on the way."""
    memory = new_memory(page=PAGE)
    array = memory.zeros((2000, 512), "u8")

    def race(turn: int) -> None:
        def work(i: int) -> None:
            if i % 2:
                assert array[:, 256:].max() <= turn
            else:
                array[:, i] += 1
                array[:, 256 + i] = turn

        together(8, work)

    for turn in range(5):
        memory.advise(array, "cold")
        race(turn)
        assert (array[:, :8:2] == turn + 1).all()
        assert not array[:, 1:8:2].any()


def test_free_while_others_allocate(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory()

    def work(i: int) -> None:
        rng = np.random.default_rng(i)
        kept: list[tuple[int, Array]] = []
        for step in range(60):
            value = i * 1000 + step
            kept.append((value, memory.full(int(rng.integers(1, 1 << 17)), value, "u4")))
            if len(kept) > 3:
                expected, array = kept.pop(int(rng.integers(0, 3)))
                assert (array == expected).all()

        for expected, array in kept:
            assert (array == expected).all()

    together(8, work)
    assert held(memory) == (0, 0, 0, 0)
    assert memory.statistics().overshoots == 0


def test_threads_that_come_and_go_during_faults(seam: Mode, new_memory: NewMemory) -> None:
    memory = new_memory()
    source = walk(4 << 20)
    array = memory.array(source)
    sums: list[float] = []

    def work(i: int) -> None:
        for j in range(50):
            part = array[(i * 50 + j) * 4096 :][:4096]
            thread = threading.Thread(target=lambda part=part: sums.append(float(part.sum())))
            thread.start()
            thread.join()

    together(4, work)
    expected = [float(source[k * 4096 :][:4096].sum()) for k in range(200)]
    assert sorted(sums) == sorted(expected)


def test_two_memories_at_once(seam: Mode, new_memory: NewMemory) -> None:
    """A fault finds the Memory that its address belongs to."""
    memories = [new_memory(), new_memory(page=PAGE)]
    source = noise(24 << 20)
    arrays = [memory.array(source) for memory in memories]

    def work(i: int) -> None:
        for _ in range(2):
            assert np.array_equal(arrays[i % 2], source)

    together(4, work)
    arrays.clear()


def test_memories_made_and_closed_while_others_fault(seam: Mode, new_memory: NewMemory) -> None:
    memory = new_memory()
    source = walk(3 << 20)
    array = memory.array(source)

    def work(i: int) -> None:
        if i:
            for _ in range(4):
                assert np.array_equal(array, source)
            return
        for _ in range(15):
            other = frontswap.Memory("16M")
            assert (other.full(1 << 20, 3) == 3).all()
            other.close()

    together(3, work)


def test_small_stacks(seam: Mode) -> None:
    """A fault is handled on the stack of the thread that has it; 64 KiB is what small threads get."""
    code = """
memory = frontswap.Memory("16M")
source = walk(4 << 20)
array = memory.array(source)
expected = source[::512].sum()
threading.stack_size(64 << 10)
sums = []
threads = [threading.Thread(target=lambda: sums.append(array[::512].sum())) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sums == [expected] * 8, sums
"""
    run_child(code, mode=seam).check()


def test_python_signal_handlers_during_fault_storms(seam: Mode) -> None:
    """A timer's handler, written in Python, reads the same array; system calls are interrupted all the time."""
    code = """
memory = frontswap.Memory("16M")
source = walk(4 << 20)
array = memory.array(source)
rng = np.random.default_rng(1)
ticks = 0

def on_alarm(number, frame):
    global ticks
    ticks += 1
    i = int(rng.integers(0, len(source)))
    assert array[i] == source[i]
    # From here, not periodic: where a handler takes longer than the period, nothing else would run.
    signal.setitimer(signal.ITIMER_REAL, 0.0005)

signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
rounds = 0
while ticks < 200 or rounds < 3:
    for i in range(0, len(array), 16384):  # Python's handlers run between calls
        part = slice(i, i + 16384)
        assert np.array_equal(array[part], source[part])
        np.add(array[part], 0, out=array[part])
    rounds += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
assert memory.statistics().poisoned == 0
"""
    run_child(code, mode=seam).check()


def test_ctrl_c_during_a_scan(seam: Mode) -> None:
    code = """
memory = frontswap.Memory("16M")
source = walk(4 << 20)
array = memory.array(source)
started = threading.Event()

def interrupt():
    started.wait()
    os.kill(os.getpid(), signal.SIGINT)

for turn in range(5):
    started.clear()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        while True:
            started.set()
            for i in range(0, len(array), 4096):
                array[i : i + 4096].sum()
    except KeyboardInterrupt:
        print("interrupted")
    thread.join()
same(np.array(array), source)
del array
assert held(memory) == (0, 0, 0, 0)
memory.close()
"""
    assert run_child(code, mode=seam).check().out == "interrupted\n" * 5


def test_ctrl_c_ends_a_program(seam: Mode) -> None:
    code = """
memory = frontswap.Memory("16M")
array = memory.array(walk(4 << 20))
threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT)).start()
while True:
    array.sum()
"""
    done = run_child(code, mode=seam).died_of(signal.SIGINT)
    assert done.err.endswith("KeyboardInterrupt\n")
