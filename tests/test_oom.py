"""The out of memory game: a second process takes RAM until the memory cgroup is nearly full, again and again.

Nothing is killed, no byte is wrong, and the work goes on: counted in rounds of the worker, not timed. What the hog does
not get while the group is nearly full it waits for: nobody could make room for who takes memory as fast as a processor
clears it, so its last step is left to the kernel's word, not to ours.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from conftest import NewMemory, c_library
from groups import Group, memory_group
from helpers import PATIENCE, PRELUDE, MiB, child_command, noise, quiet, wait_until

import frontswap

# Joins the group as root, before all else. (It is an ordinary user when all is imported, which root alone may read.)
JOIN = """
open({procs!r}, "w").write("0")
"""

# What worker and test share: rounds done, stop, limit, brakes, bytes that were wrong.
BOARD = struct.Struct("=5q")
ROUNDS, STOP, LIMIT, BRAKES, WRONG = range(5)

# A process of a run: `memory` for it and the `forks` that it makes, or "auto".
WORKER = """
from frontswap.memory.ledger import Ledger
from frontswap.memory.pressure import auto_limit
from frontswap.memory.startup import new_ledger
from frontswap.sizes import parse_size

path, times, kind, forks, library, told = sys.argv[1:]
with open(path, "r+b") as file:
    board = np.frombuffer(mmap.mmap(file.fileno(), 0), "i8")
if os.getuid() == 0:
    soak.become_ordinary_user()
    container.become_dumpable()
ledger = Ledger(new_ledger(), auto_limit() if told == "auto" else parse_size(told, "limit"))
space = frontswap.memory.install.install_space(
    told, swap="auto", backends="zcache", threshold="1M", page="auto", ledger=ledger
)
most = int(float(times) * ledger.budget) // (int(forks) + 1)
for child in range(int(forks)):
    if os.fork() == 0:
        board = board[5 * (child + 1) :]
        break
rng = np.random.default_rng(os.getpid())
SIZE = 2 << 20

def content(seed):
    "What a block of this seed has."
    if kind == "noise" or seed % 2:
        return np.random.default_rng(seed).integers(0, 1 << 63, SIZE // 8, "i8")
    return (np.arange(SIZE // 8, dtype="i8") + seed) // 8

def sum_of(block):
    return int(np.bitwise_xor.reduce(block)) ^ int(block.sum())

def say():
    now = space.statistics()
    board[2] = now.limit_bytes
    board[3] = now.brakes

seeds = list(range(most // SIZE))
blocks = [content(seed) for seed in seeds]
sums = [sum_of(block) for block in blocks]
say()
if library:
    spin = ctypes.PyDLL(library).spin
    spin.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    pointers = np.array([block.ctypes.data for block in blocks])
    spin(pointers.ctypes.data, len(blocks), SIZE // 8, board.ctypes.data)
while not board[1]:
    i = int(rng.integers(len(blocks)))
    if sum_of(blocks[i]) != sums[i]:
        board[4] += 1
    if rng.random() < 0.25:
        seeds[i] += 1000
        blocks[i][:] = content(seeds[i])
        sums[i] = sum_of(blocks[i])
    board[0] += 1
    say()
for i, block in enumerate(blocks):
    if not np.array_equal(block, content(seeds[i])):
        board[4] += 1
say()
while True:
    try:
        status = os.wait()[1]
    except ChildProcessError:
        break
    assert status == 0, status
"""

# Without giving the interpreter's lock up: writes each block, and puts it back as it was.
SPIN = """
#include <stddef.h>
#include <stdint.h>

void spin(int64_t **blocks, size_t n, size_t words, volatile int64_t *board) {
    while (!board[1])
        for (size_t i = 0; i < n && !board[1]; i++) {
            int64_t before = 0, after = 0;
            for (size_t j = 0; j < words; j++) { before ^= blocks[i][j]; blocks[i][j] = ~blocks[i][j]; }
            for (size_t j = 0; j < words; j++) { blocks[i][j] = ~blocks[i][j]; after ^= blocks[i][j]; }
            if (before != after) board[4]++;
            board[0]++;
        }
}
"""

HOG = """
import mmap, os, sys, time
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
folder, most, margin = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = []

def left():
    used = int(open(f"{folder}/memory.current" if V2 else f"{folder}/memory.usage_in_bytes").read())
    names = ("inactive_file ", "active_file ") if V2 else ("total_inactive_file ", "total_active_file ")
    lines = open(f"{folder}/memory.stat").read().splitlines()
    return most - used + sum(int(line.split()[1]) for line in lines if line.startswith(names))

for line in sys.stdin:
    wanted = int(line)
    if wanted == 0:
        for piece in held:
            piece.close()
        held.clear()
    while len(held) < wanted:
        if left() < margin + (1 << 20):
            time.sleep(0.001)
            continue
        piece = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, 1 << 20, 4096):
            piece[at] = 1
        held.append(piece)
    print(len(held), flush=True)
"""


class Game:
    """A group with a worker and a hog in it."""

    def __init__(self, group: Group, most: int, folder: Path) -> None:
        self.group = group
        self.most = most
        self.folder = folder
        self.join = JOIN.format(procs=str(group.path / "cgroup.procs"))
        self.workers = 1
        self.board: list[memoryview] = []
        self.path = folder / "board"
        self.worker: subprocess.Popen[str] | None = None
        self.said: IO[str] | None = None
        self.hog: subprocess.Popen[str] | None = None

    def command(self, code: str, *words: str, **more: Any) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("FRONTSWAP")}
        env |= {"TMPDIR": "/var/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen([sys.executable, "-c", self.join + code, *words], env=env, cwd="/", text=True, **more)

    def start(
        self, *, times: float, kind: str, forks: int = 0, library: str = "", memory: str = "auto", margin: int = 8 * MiB
    ) -> None:
        """The worker, with so many times its limit; `forks`: more of them, of one run. `margin`: what a hog leaves."""
        self.workers = forks + 1
        self.path.write_bytes(bytes(BOARD.size * self.workers))
        self.path.chmod(0o666)
        with self.path.open("r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self.board = [words[5 * i : 5 * i + 5] for i in range(self.workers)]
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  it lives as long as the game
        self.worker = self.command(
            PRELUDE.format(tests=str(Path(__file__).parent)) + WORKER,
            str(self.path),
            str(times),
            kind,
            str(forks),
            library,
            memory,
            stderr=self.said,
            stdin=subprocess.DEVNULL,
        )
        self.hog = self.command(
            f"V2 = {self.group.v2}\n{HOG}",
            str(self.group.path),
            str(self.most),
            str(margin),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.work(1)

    def alive(self) -> None:
        assert self.worker is not None
        assert self.said is not None
        if self.worker.poll() is not None:
            self.said.seek(0)
            pytest.fail(f"the worker has ended: {self.worker.returncode}, {self.group.kills} kills\n{self.said.read()}")
        assert self.group.kills == 0

    def until(self, condition: Any, what: str) -> None:
        def done() -> bool:
            self.alive()
            return bool(condition())

        wait_until(done, what)

    def work(self, rounds: int) -> None:
        """Each worker does so many more."""
        for board in self.board:
            end = board[ROUNDS] + rounds
            self.until(lambda board=board, end=end: board[ROUNDS] >= end, f"{rounds} rounds")

    def take(self, mebibytes: int) -> None:
        """The hog has so much, when this returns; 0: it has given all back."""
        assert self.hog is not None
        assert self.hog.stdin is not None
        assert self.hog.stdout is not None
        print(mebibytes, file=self.hog.stdin, flush=True)
        self.until(lambda: select.select([self.hog.stdout], [], [], 0.1)[0], f"{mebibytes} MiB for the hog")
        assert self.hog.stdout.readline() == f"{mebibytes}\n"

    def end(self) -> None:
        """All bytes are looked at a last time."""
        assert self.hog is not None
        assert self.worker is not None
        assert self.said is not None
        for board in self.board:
            board[STOP] = 1
        status = self.worker.wait(timeout=300 * PATIENCE)
        self.said.seek(0)
        assert status == 0, (status, self.group.kills, self.said.read())
        assert [board[WRONG] for board in self.board] == [0] * self.workers
        assert self.group.kills == 0

    def stop(self) -> None:
        for process in (self.worker, self.hog):
            if process is None:
                continue
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if self.said is not None:
            self.said.close()


@contextmanager
def game(most: int) -> Iterator[Game]:
    # Not in pytest's folder, which is root's alone.
    with memory_group(most) as group, tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        playing = Game(group, most, Path(folder))
        try:
            yield playing
        finally:
            playing.stop()


def test_a_short_game() -> None:
    """256 MiB for all. The worker begins with what is left beside 128 of them, and works on three times as much; the
    hog takes 160, for which only the worker can make room.
    """
    with game(256 * MiB) as play:
        play.start(times=3, kind="mixed")
        for _ in range(2):
            play.take(160)
            play.work(20)
            play.take(0)
            play.work(20)
        play.end()


def test_a_program_that_keeps_the_interpreters_lock() -> None:
    """A function in C that never gives it up: Python's thread sees nothing of it all."""
    with game(256 * MiB) as play:
        play.start(times=3, kind="mixed", library=str(c_library(SPIN, play.folder)))
        for _ in range(2):
            play.take(160)
            play.work(20)
            play.take(0)
            play.work(20)
        play.end()
        assert play.board[0][BRAKES] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixed", "noise"])
@pytest.mark.parametrize("forks", [0, 2])
def test_games(kind: str, forks: int) -> None:
    """Of one process and of three that share a limit, until the limit has grown again."""
    with game(512 * MiB) as play:
        play.start(times=3, kind=kind, forks=forks)
        for _ in range(5):
            play.take(280)
            play.work(50)
            before = play.board[0][LIMIT]
            play.take(0)
            play.work(50)
            play.until(lambda before=before: play.board[0][LIMIT] > before * 5 // 4, "more room")
        play.end()


@pytest.mark.slow
def test_it_would_be_killed() -> None:
    """The counterproof: with a limit that does not follow, the same game ends. (A hog that leaves a margin would wait
    for what nobody gives.)
    """
    with game(256 * MiB) as play:
        play.start(times=3, kind="noise", memory="128M", margin=-256 * MiB)
        assert play.hog is not None
        assert play.hog.stdin is not None
        print(200, file=play.hog.stdin, flush=True)
        wait_until(lambda: play.group.kills > 0, "somebody is killed")


# --- what is set aside -----------------------------------------------------------------------------

SHEDS = """
memory = frontswap.Memory("256M")
array = memory.empty(48 << 20)  # of 8 bytes: half as much again as fits, before it is compressed
part = walk(1 << 20)
for i in range(0, len(array), len(part)):
    array[i : i + len(part)] = part
quiet(memory)
now = memory.statistics()
assert now.registered and now.slot_stores == 0, now
print("full", flush=True)
sys.stdin.readline()
assert memory.backends.pressure("critical").left_bytes <= 2 * MiB  # what is open, and on its way
memory.resize("48M")
now = memory.statistics()
assert now.used_bytes + now.reserve_bytes <= 48 * MiB and now.slot_stores > 0, now
print("shed", flush=True)
sys.stdin.readline()
for i in range(0, len(array), len(part)):
    same(array[i : i + len(part)], part)
"""


def backed(memory: frontswap.Memory) -> int:
    """Bytes of the pool's addresses that have memory."""
    at, length = memory._plane.extents()["pool"]
    found = np.empty(length // 4096, "u1")
    asked = ctypes.CDLL(None).mincore(ctypes.c_void_p(at), ctypes.c_size_t(length), ctypes.c_void_p(found.ctypes.data))
    assert asked == 0
    return int(np.count_nonzero(found & 1)) * 4096


def test_what_is_behind_the_last_record_of_a_segment_is_given_back(new_memory: NewMemory) -> None:
    """It is charged for its records, and takes over the memory of one that was full: a third too much, without."""
    memory = new_memory("64M", page=512 << 10, backends="zcache:codec=lz4,recompress=off")
    size = memory._space.settings.segment
    page = 512 << 10
    rng = np.random.default_rng(1)
    arrays = []
    for part in (0.31, 0.55):  # three pages fill a segment; of these there is one in each
        pages = np.zeros((128, page), "u1")
        pages[:, : int(part * page)] = rng.integers(0, 256, int(part * page), "u1")
        arrays.append(memory.array(pages))
    most = 0
    for array in arrays * 3:
        for i in range(len(array)):  # one leaves as another comes
            array[i] += 1
            memory.advise(array[i], "cold")
        now = quiet(memory)
        assert now.pool_bytes > 16 * MiB
        most = max(most, backed(memory) - now.pool_bytes)
    # What is refused and what is open, the one that waits, and the cleaner's.
    assert most <= 5 * size


def test_segments_for_what_has_to_go_keep_their_memory(new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, from the registration on; beside them one that is warm, when they come back."""
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    memory = new_memory("64M")
    size = memory._space.settings.segment
    assert backed(memory) == 0
    memory._plane.register_arena()
    assert backed(memory) == 2 * size
    array = memory.array(noise(96 * MiB))
    for _ in range(3):
        array += 1
        assert 2 * size <= backed(memory) <= quiet(memory).pool_bytes + 3 * size
    # Now the pool wants segments, and does not get those.
    array[:] = 7
    array[::97] = 3
    for level in ("none", "critical", "none"):
        memory.backends.pressure(level)
        array[::97] += 1
        now = quiet(memory)
        assert 2 * size <= backed(memory) <= now.pool_bytes + 4 * size
    del array
    assert 2 * size <= backed(memory) <= 4 * size


def test_shedding_needs_no_memory() -> None:
    """From 256 MiB to 48, all of it to the disk: the group never holds more than before.

    1 MiB more is how exact the kernel counts: what each processor has taken in advance, and a page table.
    """
    with memory_group(1024 * MiB) as group:
        join = f"open({str(group.path / 'cgroup.procs')!r}, 'w').write('0')\n"
        child = subprocess.Popen(
            child_command(join + SHEDS), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "full\n"
            used = int((group.path / ("memory.current" if group.v2 else "memory.usage_in_bytes")).read_text())
            peak = group.path / "memory.max_usage_in_bytes"
            if group.v2:  # before 6.12 it forgets no peak: so more would be killed
                assert group.limit(used + MiB)
            else:
                peak.write_text("0")
            print(file=child.stdin, flush=True)
            assert child.stdout.readline() == "shed\n"
            if not group.v2:
                assert int(peak.read_text()) - used <= MiB
            group.limit(1024 * MiB)
            print(file=child.stdin, flush=True)
            assert child.wait() == 0
            assert group.kills == 0
        finally:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
