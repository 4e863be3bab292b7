"""The soak: many threads, racing reclaim, every byte checked. The first wrong one ends it.

``python -m frontswap.testing.soak`` runs cells of the matrix {SIGBUS, handler thread} x {MOVE,
write-protect} x {root, ordinary user} x {4 KiB, 64 KiB, 2 MiB, split: 64 KiB, split and made whole at every turn; with
MOVE huge: 64 KiB, under a limit that has huge pages, and one thread more that walks along}, and those of SIGSEGV under
a filter that forbids userfaultfd, as a container's does. Each is a process of its own: 8 threads
on arrays of 4 times the limit; six hammer one shared array, two allocate, fill, advise, check and free arrays of their
own; one takes backends out from behind them and puts others there; one lowers and raises the limit; one forks
(``forks``). Exit status 1 after any wrong byte, hang or death, also of a forked process.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from frontswap import DrainError, Memory
from frontswap.causes import without_userfaultfd
from frontswap.core.plane import kernel_access, kernel_features, protection_access
from frontswap.sizes import format_size, parse_size

from . import container, forks, hammer

FAULTS = ("sigbus", "thread")
EVICTS = ("move", "wp")
FORBIDDEN = ("sigsegv", "wp")  #: userfaultfd is
USERS = ("root", "user")
PAGES = ("4K", "64K", "2M", "split", "huge")
HAMMERS = 6
CHURNERS = 2
RAISED = 1.25  #: times the limit, now and then
NOBODY = 65534
#: what comes and goes behind the arrays
BACKENDS = (
    "zcache",
    "limit:size=8M / zcache",
    "active_only / checksum / zcache:codec=lz4",
    "latency / inject:refuse=10% / zcache",
    "null + zcache",
    "zcache:policy=lirs",
    "checksum / zcache:policy=s3fifo",
)


@dataclass(frozen=True)
class Cell:
    """One combination of the matrix."""

    faults: str
    evict: str
    user: str
    page: str

    def __str__(self) -> str:
        return f"{self.faults}-{self.evict}-{self.user}-{self.page}"

    def why_not(self) -> str:
        """Why it cannot run here, or ""."""
        if self.user == "root" and os.geteuid() != 0:
            return "needs root"
        if not self.forbidden and without_userfaultfd(kernel_access()[0]):
            return "userfaultfd is forbidden here"
        if self.evict == "move" and not kernel_features()["move"]:
            return "this kernel has no UFFDIO_MOVE (6.8+)"
        if self.forbidden and protection_access():
            return "/proc/self/mem does not write to protected memory here"
        return ""

    @property
    def forbidden(self) -> bool:
        """True if it runs without userfaultfd."""
        return (self.faults, self.evict) == FORBIDDEN

    @property
    def environment(self) -> dict[str, str]:
        """What its process is started with."""
        return {
            "FRONTSWAP_FAULTS": "auto" if self.forbidden else self.faults,
            "FRONTSWAP_EVICT": self.evict,
            "FRONTSWAP_RECOMPRESS": "eager",
            "FRONTSWAP_SPLIT": "any",
        }


def all_cells() -> list[Cell]:
    """The whole matrix."""
    ways = [*itertools.product(FAULTS, EVICTS), FORBIDDEN]
    cells = [Cell(*way, user, page) for way, user, page in itertools.product(ways, USERS, PAGES)]
    return [
        cell
        for cell in cells
        if not (cell.forbidden and cell.page == "split") and not (cell.page == "huge" and cell.evict != "move")
    ]


# --- inside a cell -------------------------------------------------------------------------------


class Shared:
    """The array that the hammers share, its shadow, and what they found."""

    def __init__(self, memory: Memory, size: int, page: int | str, salt: int) -> None:
        self.array = memory.empty(size // 8, "u8", page=page)
        self.granules = size // hammer.GRANULE
        self.shadow = np.zeros((HAMMERS, self.granules), "u8")
        self.stop = ctypes.c_int32(0)
        self.salt = salt
        self.operations = 0
        self.processes = 0
        self.limits = 0
        self.problems: list[str] = []
        hammer.fill(self.array.ctypes.data, self.granules, salt)

    def watch(self, work: Callable[..., None], *arguments: Any) -> None:
        """What a thread does; what it raises is a problem, and ends the cell."""
        try:
            work(*arguments)
        except Exception:
            self.problems.append(f"a thread has ended: {traceback.format_exc()}")
            self.stop.value = 1

    def run(self, thread: int, seed: int) -> None:
        """One hammer."""
        found = hammer.hammer(
            self.array.ctypes.data,
            self.granules,
            self.shadow[thread].ctypes.data,
            thread,
            self.salt,
            seed,
            ctypes.addressof(self.stop),
        )
        self.operations += found["operations"]
        if found["granule"] >= 0:
            self.problems.append(f"WRONG BYTES in thread {thread}: {found}")
            self.stop.value = 1

    def walk(self) -> None:
        """Walk along, and look at what the hammers leave alone."""
        while not self.stop.value:
            bad = hammer.check(self.array.ctypes.data, self.granules, self.salt)
            if bad >= 0:
                self.problems.append(f"WRONG BYTES for who walks along, in granule {bad}")
                self.stop.value = 1

    def fork(self, memory: Memory, seed: int, patience: float) -> None:
        """Fork until the end."""
        copy = forks.Copy(memory, self.array, self.salt, HAMMERS)
        self.processes, trouble = forks.storm(copy, self.shadow, self.stop, seed, patience)
        if trouble:
            self.problems.append(trouble)
            self.stop.value = 1


def churn(memory: Memory, shared: Shared, most: int, page: int | str, seed: int) -> None:
    """Allocate, fill, advise, check and free arrays, and give advice on the shared one."""
    rng = random.Random(seed)
    while not shared.stop.value:
        granules = rng.randrange(1, most // hammer.GRANULE)
        salt = rng.getrandbits(40)
        array = memory.empty(granules * 512, "u8", page=page if rng.random() < 0.7 else 4096)
        at = array.ctypes.data
        hammer.fill(at, granules, salt)
        for _ in range(rng.randrange(4)):
            low = rng.randrange(len(shared.array))
            part = shared.array[low : low + rng.randrange(1, 1 << 18)]
            own = array[rng.randrange(len(array)) :]
            advice = rng.choice(["willneed", "cold", "sequential", "random", "normal"])
            memory.advise(part if rng.random() < 0.5 else own, advice)  # type: ignore[arg-type]
        if rng.random() < 0.2 and granules > 8:
            with memory.pin(array[: 8 * 512]):
                bad = hammer.check(at, 8, salt)
                if bad >= 0:
                    shared.problems.append(f"WRONG BYTES in a pinned array, granule {bad} of {granules}")
        bad = hammer.check(at, granules, salt)
        if bad < 0 and rng.random() < 0.3:
            memory.advise(array, "dontneed")
            low = rng.randrange(len(array))
            if array[low : low + 4096].any():
                shared.problems.append(f"bytes came back after advice dontneed, at word {low} of {len(array)}")
                shared.stop.value = 1
        if bad >= 0:
            shared.problems.append(f"WRONG BYTES in a private array, granule {bad} of {granules}")
            shared.stop.value = 1


def change_backends(memory: Memory, shared: Shared, seed: int) -> None:
    """Backends come and go behind the arrays, under pressure and not."""
    rng = random.Random(seed)
    while not shared.stop.value:
        time.sleep(rng.random())
        what = rng.randrange(4)
        if what == 0:
            try:
                for registered in list(memory.backends):
                    memory.backends.unregister(registered, deadline=rng.choice([0.05, 60]))
            except DrainError:
                continue
            time.sleep(rng.random() / 4)
            memory.backends.register(rng.choice(BACKENDS))
        elif what == 1:
            memory.backends.pressure(rng.choice(["none", "low", "medium", "critical"]))
            time.sleep(rng.random() / 4)
            memory.backends.pressure("none")
        elif what == 2:
            memory.backends.exclusive_loads(rng.random() < 0.3)
        else:
            memory.backends.shrink(0, deadline=0.2)


def change_limit(memory: Memory, shared: Shared, limit: int, page: int, seed: int) -> None:
    """The limit goes up and down, from a half, or what the largest pages need, to RAISED times."""
    rng = random.Random(seed)
    least = max(limit // 2, page * 128)
    while not shared.stop.value:
        time.sleep(rng.random())
        chosen = rng.randrange(least, int(limit * RAISED) + 1)
        memory.resize(chosen)
        shared.limits += 1
        now = memory.statistics()
        used = now.used_bytes + now.reserve_bytes
        if used > chosen + now.reserve_bytes // 2 and not now.overshoots:
            shared.problems.append(f"the limit was set to {chosen}, and {used} is used after that")


def run_cell(cell: Cell, seconds: float, seed: int, limit: int, patience: float = 1) -> dict[str, Any]:
    """Run one cell in this process (which has the cell's user and environment already)."""
    faulthandler.dump_traceback_later((seconds * 4 + 120) * patience, exit=True)
    page = {"split": "auto", "huge": "64K"}.get(cell.page, cell.page)
    memory = Memory(limit, page=page)
    shared = Shared(memory, limit // 8 * 28, page, seed)
    most = 0
    work: list[tuple[Any, ...]] = [(shared.run, t, seed * 100 + t) for t in range(HAMMERS)]
    work += [(churn, memory, shared, limit // 4, page, seed * 100 + 50 + t) for t in range(CHURNERS)]
    work.append((change_backends, memory, shared, seed * 100 + 99))
    largest = parse_size("64K" if page == "auto" else page, "page")
    work.append((change_limit, memory, shared, limit, largest, seed * 100 + 97))
    if cell.page == "huge":
        work.append((shared.walk,))
    work.append((shared.fork, memory, seed * 100 + 98, patience))
    threads = [threading.Thread(target=shared.watch, args=one) for one in work]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not shared.stop.value:
        time.sleep(0.05)
        now = memory.statistics()
        most = max(most, now.used_bytes + now.reserve_bytes)
    shared.stop.value = 1
    for thread in threads:
        thread.join()
    _compare(shared)
    found = memory.statistics()
    if most > limit * RAISED + found.reserve_bytes // 2 and not found.overshoots:
        shared.problems.append(f"the largest limit, {RAISED} times {limit}, was exceeded: {most}")
    if found.poisoned or found.overshoots:
        shared.problems.append(f"poisoned {found.poisoned}, overshoots {found.overshoots}")
    array, shared.array = shared.array, np.zeros(0, "u8")
    del array
    after = memory.statistics()
    if after.allocated_bytes or after.resident_bytes or after.pool_live_bytes or after.swapped_bytes:
        shared.problems.append(f"not everything was given back: {after}")
    memory.close()
    return {
        "cell": str(cell),
        "operations": shared.operations,
        "processes": shared.processes,
        "limits": shared.limits,
        "most": most,
        "limit": int(limit * RAISED),
        "problems": shared.problems,
        "statistics": asdict(found),
    }


def _compare(shared: Shared) -> None:
    """At the end, every counter of every granule."""
    words = shared.array.reshape(shared.granules, 512)
    for start in range(0, shared.granules, 256):
        part = words[start : start + 256, : HAMMERS * 8 : 8].T
        if not np.array_equal(part, shared.shadow[:, start : start + part.shape[1]]):
            shared.problems.append(f"WRONG BYTES at the end, in granules {start} to {start + 255}")
            return


# --- the matrix ----------------------------------------------------------------------------------


def become_ordinary_user() -> None:
    """Give up root in this process, for good. Not before exec: the interpreter may be root's alone."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def start_cell(cell: Cell, seconds: float, seed: int, patience: float = 1) -> tuple[bool, str]:
    """Run a cell as a child process; (passed, one line)."""
    command = [sys.executable, "-X", "faulthandler", "-m", "frontswap.testing.soak", "--cell", str(cell)]
    command += ["--seconds", str(seconds), "--seed", str(seed), "--patience", str(patience)]
    environment = dict(os.environ, **cell.environment)
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=(seconds * 4 + 180) * patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return False, f"{cell}: seed {seed}: HANGS: {error.stderr!r}"
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return False, f"{cell}: seed {seed}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    found = json.loads(lines[-1])
    counts = found["statistics"]
    line = (
        f"{cell}: seed {seed}: {found['operations']:,} operations, {found['processes']:,} children, "
        f"{found['limits']:,} limits, {counts['faults']:,} faults, "
        f"{counts['evicted_dirty']:,} + {counts['evicted_clean']:,} evictions, {counts['slot_loads']:,} from disk, "
        f"{counts['recompressed_pages']:,} recompressed, {counts['loaded_huge']:,} huge pages back, "
        f"{counts['splits']:,} split, {counts['collapses']:,} whole again, "
        f"at most {format_size(found['most'])} of {format_size(found['limit'])}"
    )
    if found["problems"]:
        return False, f"{line}\n  " + "\n  ".join(found["problems"])
    return True, line


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m frontswap.testing.soak", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every cell of the matrix (default)")
    parser.add_argument(
        "--sample", type=int, nargs="?", const=6, metavar="N", help="N of the cells that can run here (6)"
    )
    parser.add_argument("--seconds", type=float, help="for each cell (180; 40 with --sample)")
    parser.add_argument("--seed", type=int, default=None, help="printed, so that a run can be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--cell", help="one cell in this process, as faults-evict-user-page")
    parser.add_argument("--patience", type=float, default=1, help="times as long until a hang is called one (1)")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 20)
    if options.cell:
        cell = Cell(*options.cell.split("-"))
        limit = 256 << 20 if cell.page in ("2M", "huge") else 64 << 20
        if cell.user == "user" and os.geteuid() == 0:
            become_ordinary_user()
        if cell.forbidden:
            container.become_dumpable()
            container.forbid_userfaultfd()
        result = run_cell(cell, options.seconds or 180, seed, limit, options.patience)
        print(json.dumps(result))
        return 1 if result["problems"] and not result["statistics"] else 0
    cells = all_cells()
    if options.sample:
        possible = [cell for cell in cells if not cell.why_not()]
        cells = random.Random(seed).sample(possible, min(options.sample, len(possible)))
    seconds = options.seconds or (40 if options.sample else 180)
    print(f"soak: {len(cells)} cells of {seconds:g} s, seed {seed}", flush=True)
    failed = 0
    skipped = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        wanted = []
        for number, cell in enumerate(cells):
            reason = cell.why_not()
            if reason:
                skipped += 1
                print(f"SKIPPED {cell}: {reason}", flush=True)
            else:
                wanted.append(pool.submit(start_cell, cell, seconds, seed + number, options.patience))
        for future in wanted:
            passed, line = future.result()
            failed += not passed
            print(("passed  " if passed else "FAILED  ") + line, flush=True)
    print(f"{len(wanted) - failed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
