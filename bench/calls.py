"""`python -m bench.calls`: system calls on arrays of a Memory beside the same calls on plain arrays."""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import sheet
from bench.__main__ import directory
from bench.environment import environment
from bench.missing import Missing
from bench.rounds import Pair, alternate
from bench.sheet import Sheet, number
from frontswap import Memory

SMALL = 4096
LARGE = 16 << 20
NOTES = """\
Microseconds per MiB, median of all rounds; both sides make the same call in turn, on memory that holds the same bytes.
"resident": the array is in RAM. "evicted": all of it has been put out before each call, which is not counted, and comes
back in it. In brackets where the median of the ratio lies with a probability of 95%. "4 KiB read, not ours": read() of
a plain buffer, in a process without a Memory and in one with: what those pay whose buffers lie in no array."""

Work = Callable[[Any], object]


@contextmanager
def tasks(folder: Path) -> Iterator[dict[str, Work]]:
    """What is done with an array, by name. Each moves all of it."""
    path = folder / "data"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    one, other = socket.socketpair()
    r, w = os.pipe()
    room: Any = np.empty(LARGE, np.uint8)

    def aside(work: Callable[[], object], beside: Callable[[], object]) -> None:
        thread = threading.Thread(target=beside)
        thread.start()
        work()
        thread.join()

    def read_pipe(into: Any) -> None:
        got = 0
        while got < len(into):
            got += os.readv(r, [into[got:]])

    try:
        yield {
            "write a file": lambda a: os.pwrite(fd, a, 0),
            "read a file": lambda a: os.preadv(fd, [a], 0),
            "tofile": lambda a: a.tofile(path),
            "send": lambda a: aside(lambda: one.sendall(a), lambda: other.recv_into(room, LARGE, socket.MSG_WAITALL)),
            "receive": lambda a: aside(
                lambda: other.recv_into(a, LARGE, socket.MSG_WAITALL), lambda: one.sendall(room)
            ),
            "write a pipe": lambda a: aside(lambda: os.write(w, a), lambda: read_pipe(room)),
            "read a pipe": lambda a: aside(lambda: read_pipe(a), lambda: os.write(w, room)),
            "4 KiB of a file": lambda a: [os.preadv(fd, [a[i * SMALL : (i + 1) * SMALL]], 0) for i in range(256)],
        }
    finally:
        one.close()
        other.close()
        for end in (fd, r, w):
            os.close(end)


def timed(work: Work, plain: Any, array: Any, seconds: float, before: Callable[[], object] | None) -> Pair:
    """The same work on both; `before` is done before each of ours, and not counted."""
    if before is None:
        return alternate(lambda _: work(plain), lambda _: work(array), LARGE >> 20, seconds)
    clock = _Clock()
    pair = alternate(clock(lambda: None, lambda: work(plain)), clock(before, lambda: work(array)), 1, seconds)
    rounds = len(pair.base)
    return Pair(clock.found[0][-rounds:], clock.found[1][-rounds:])


class _Clock:
    """Times a part of each round."""

    def __init__(self) -> None:
        self.found: list[list[float]] = []

    def __call__(self, before: Callable[[], object], work: Callable[[], object]) -> Callable[[int], object]:
        times: list[float] = []
        self.found.append(times)

        def run(_: int) -> None:
            before()
            start = time.perf_counter_ns()
            work()
            times.append((time.perf_counter_ns() - start) / 1000 / (LARGE >> 20))

        return run


def bare(seconds: float) -> Pair:
    """read() of a plain buffer of 4 KiB in this process, which has a Memory, beside a process that has none."""
    code = (
        "import os,sys,time,numpy as np\n"
        "if sys.argv[1]=='1':\n import frontswap; m=frontswap.Memory(limit='16M')\n"
        "fd=os.open('/dev/zero',os.O_RDONLY); b=[np.empty(4096,'u1')]\n"
        f"until=time.perf_counter()+{seconds}; best=1e9\n"
        "while time.perf_counter()<until:\n"
        " t=time.perf_counter_ns()\n for _ in range(256): os.readv(fd,b)\n"
        " best=min(best,time.perf_counter_ns()-t)\n"
        "print(best/1000)\n"
    )
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(4):
        for side in (turn % 2, 1 - turn % 2):
            done = subprocess.run(
                [sys.executable, "-c", code, str(side)], capture_output=True, text=True, check=True, cwd=Path.cwd()
            )
            taken[side].append(float(done.stdout))
    return Pair(*taken)


def measure(folder: Path, seconds: float) -> Sheet:
    """All of it."""
    rows, records = [], []
    data = np.random.default_rng(1).normal(size=LARGE // 8).cumsum().round(2).view(np.uint8)

    def add(name: str, state: str, pair: Pair) -> None:
        rows.append(
            (
                name,
                state,
                number(float(np.median(pair.base))),
                number(float(np.median(pair.ours))),
                pair.ratio().text(2),
                number(pair.ratio_of_minima()),
            )
        )
        records.append({"call": name, "state": state, **pair.record()})

    add("4 KiB read, not ours", "plain", bare(seconds / 8))
    with tasks(folder) as found:
        memory = Memory(limit=8 * LARGE)
        array = memory.asarray(data)
        plain = data.copy()
        for name, work in found.items():
            add(name, "resident", timed(work, plain, array, seconds, None))
            add(name, "evicted", timed(work, plain, array, seconds, lambda: memory.advise(array, "cold")))
        if not np.array_equal(plain, array):
            raise RuntimeError("what was read differs")
        memory.close(force=True)  # `array` is not touched again
    head = ("call", "array", "plain us/MiB", "ours us/MiB", "ours / plain (95%)", "of minima")
    return Sheet(f"System calls on {LARGE >> 20} MiB", head, rows, NOTES, records)


def main() -> int:
    """Always 0: there is no goal."""
    made = argparse.ArgumentParser(prog="python -m bench.calls", description=__doc__)
    made.add_argument("--quick", action="store_true", help="fewer rounds: shows that all works")
    made.add_argument("--dir", type=directory, default=Path("/var/tmp"), help="for the files (default /var/tmp)")
    made.add_argument("--out", type=Path, default=Path("build/bench"), help="for the results (default build/bench)")
    chosen = made.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    where = environment(chosen.dir)
    console.print("\n".join(f"{name}: {value}" for name, value in where.items()), markup=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="frontswap-bench-", dir=chosen.dir) as name:
        try:
            sheets = [measure(Path(name), 0.1 if chosen.quick else 4.0)]
        except Missing as what:
            console.print(f"skipped: this needs {what}", markup=False)
            return 0
        except KeyboardInterrupt:
            return 130
    sheet.show(console, sheets)
    stem = sheet.save(chosen.out, "calls-quick" if chosen.quick else "calls", sheets, where)
    console.print(f"saved: {stem}.json, .md", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
