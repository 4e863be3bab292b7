"""What several tests share: the mode matrix, data, child processes, a census of what a process holds."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from zygote import Zygote

import frontswap
from frontswap import causes
from frontswap.core.plane import kernel_access, kernel_features, protection_access
from frontswap.testing import hammer

Array = npt.NDArray[Any]
Counts_co = TypeVar("Counts_co", covariant=True)

MiB = 1 << 20
ROOT = os.geteuid() == 0
#: how many times longer to wait before a hang is called one: an emulated machine (tests/guest.py) is slow
PATIENCE = float(os.environ.get("FRONTSWAP_TEST_PATIENCE", "1"))


@dataclass(frozen=True)
class Mode:
    """Who catches a fault, and how a dirty page is taken out."""

    faults: str
    evict: str

    def __str__(self) -> str:
        return f"{self.faults}-{self.evict}"

    @property
    def environment(self) -> dict[str, str]:
        return {"FRONTSWAP_FAULTS": self.faults, "FRONTSWAP_EVICT": self.evict}

    def why_not(self) -> str:
        """What this machine lacks for it, or ""."""
        if self.faults == "sigsegv":
            refused = protection_access()
            return f"/proc/self/mem: {os.strerror(refused)}" if refused else ""
        have = kernel_features()
        if not have["userfaultfd"]:
            return "userfaultfd is missing or forbidden here"
        if not have["write_protect"]:
            return "this kernel has no write protection in userfaultfd (5.7+)"
        if self.faults == "sigbus" and not have["sigbus"]:
            return "this kernel has no UFFD_FEATURE_SIGBUS"
        if self.evict == "move" and not have["move"]:
            return "this kernel has no UFFDIO_MOVE (6.8+)"
        return ""


MODES = [Mode(faults, evict) for faults in ("sigbus", "thread") for evict in ("move", "wp")]
#: without userfaultfd; where that is forbidden (pytest --forbid-userfaultfd) it is what "auto" is
PROTECTION = Mode("sigsegv", "wp")


def forbidden() -> bool:
    """True if this process may not have userfaultfd."""
    return causes.without_userfaultfd(kernel_access()[0])


def protected(*values: Any, name: str, slow: bool = False) -> Any:
    """A case of `parametrize` without userfaultfd: a slow one, unless there is no other way (conftest.py)."""
    return pytest.param(*values, id=name, marks=[pytest.mark.protection, *[pytest.mark.slow] * slow])


def mode_of(faults: str) -> Mode:
    """This way of catching faults, with the best way of taking a page out that this kernel has."""
    best = Mode(faults, "move")
    return Mode(faults, "wp") if faults == PROTECTION.faults or best.why_not() else best


def without_notice(stderr: str) -> str:
    """What a process has said beside the one line that is said once where userfaultfd is forbidden."""
    refused = kernel_access()[0]
    if not causes.without_userfaultfd(refused):
        return stderr
    lines = stderr.splitlines(keepends=True)
    notices = [line for line in lines if causes.instead_of_userfaultfd(refused) in line]
    assert len(notices) <= 1, stderr
    return "".join(line for line in lines if line not in notices)


# --- data ----------------------------------------------------------------------------------------


def walk(n: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Measurements: n float64 that compress two to three times."""
    return np.random.default_rng(seed).normal(size=n).cumsum().round(2)


def noise(n: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """n bytes that no codec shrinks."""
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8)


def halves(n: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Bytes that shrink to one half."""
    return noise(n, seed) & np.uint8(15)


def same(found: Array, expected: Array) -> None:
    """Fail unless two arrays are bit for bit the same, and of the same kind and shape."""
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if found.nbytes > MiB and found.flags.forc and found.strides == expected.strides:
        assert np.array_equal(found.ravel("K").view("u1"), expected.ravel("K").view("u1"))
    else:
        assert found.tobytes() == expected.tobytes()


OLD = 170  # what is in memory before something is read into it


def right_bytes(room: Array, n: int, data: Array) -> None:
    """Fail unless the first n bytes are those of the data; what a short count does not count may have come too."""
    same(room[:n].copy(), data[:n])
    rest = room[n:].copy()
    assert np.all((rest == OLD) | (rest == data[n:]))


# --- a disk that fills up ----------------------------------------------------------------------


def ballast(disk: Path, leave: int) -> Path:
    """Fill a disk but for `leave` bytes."""
    found = os.statvfs(disk)
    at, size = 0, found.f_bavail * found.f_frsize - leave
    with (disk / "ballast").open("wb") as file:
        while size >= 4096:
            try:
                os.posix_fallocate(file.fileno(), at, size)
                at += size
            except OSError:  # what it counts as free is needed for the file's own description
                size //= 2
            if leave:
                break
    return disk / "ballast"


# --- waiting for background threads --------------------------------------------------------------


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that is bound to happen; the deadline only turns a hang into a failure."""
    deadline = time.monotonic() + 60 * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        os.sched_yield()


class Counted(Protocol[Counts_co]):
    """A Memory, or a Frontswap."""

    def statistics(self) -> Counts_co: ...


def quiet(memory: Counted[Counts_co], *, rounds: int = 20) -> Counts_co:
    """The statistics, once the background threads (reclaim, readahead, writeback) have come to rest for so many looks.

    Who waits for readahead alone needs no more than two: its thread is awake before the fault is over.
    """
    before = memory.statistics()
    calm = 0
    deadline = time.monotonic() + 60 * PATIENCE
    while calm < rounds and time.monotonic() < deadline:
        time.sleep(0.001)
        now = memory.statistics()
        calm = calm + 1 if now == before and not _at_work() else 0
        before = now
    return before


def at_rest() -> None:
    """Wait until no background thread of frontswap has anything to do: who plays its part is alone then."""
    wait_until(lambda: not _at_work(), "a background thread")


def _at_work() -> bool:
    """True if a background thread of frontswap has something to do, whether it gets a processor for it or not."""
    for status in Path("/proc/self/task").glob("*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        # They are who takes no signals.
        blocked = int(lines["SigBlk"], 16)
        if lines["State"][0] in "RD" and all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGUSR2)):
            return True
    return False


def cold(memory: frontswap.Memory, array: Array) -> None:
    """Evict an array, once handler threads have let go of its pages and no readahead is left to bring them back."""
    quiet(memory)
    memory.advise(array, "cold")


def held(memory: frontswap.Memory) -> tuple[int, int, int, int]:
    """What must be zero when no array lives."""
    now = memory.statistics()
    return now.allocated_bytes, now.resident_bytes, now.pool_live_bytes, now.swapped_bytes


def together(number: int, work: Callable[[int], object]) -> None:
    """Run work(0) .. work(number - 1) in threads that start at the same moment; the first error is raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(number)

    def run(i: int) -> None:
        barrier.wait()
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- what a process holds ------------------------------------------------------------------------


@dataclass(frozen=True)
class Census:
    """Threads, descriptors (what they point to) and bytes of address space that frontswap has mapped."""

    threads: int
    descriptors: Counter[str]
    mapped: int


def hammered(array: Array, threads: int, salt: int, meanwhile: Callable[[], object]) -> None:
    """Native threads count in words of an array's granules (4 KiB, a row of 512 words each) while `meanwhile` runs.

    Each has every eighth word of its own; in the end all have counted what they have found.
    """
    stop = ctypes.c_int32(0)
    granules = len(array)
    shadow = np.zeros((threads, granules), "u8")
    at = array.ctypes.data
    hammer.fill(at, granules, salt)
    found: list[dict[str, int]] = []

    def work(i: int) -> None:
        if i < threads:
            found.append(hammer.hammer(at, granules, shadow[i].ctypes.data, i, salt, i, ctypes.addressof(stop)))
            return
        try:
            meanwhile()
        finally:
            stop.value = 1

    together(threads + 1, work)
    assert [report for report in found if report["granule"] >= 0] == []
    assert np.array_equal(array[:, : threads * 8 : 8].T, shadow)


def left_since(before: Census) -> dict[str, object]:
    """What this process holds more than before; empty when everything has gone back."""
    return more_than(before, census_of_the_end(before))


def census_of_the_end(before: Census) -> Census:
    """A census of when everything that goes by itself has gone."""
    now = census()
    if not more_than(before, now):
        return now
    gc.collect()
    # The kernel lists a joined thread until it has buried it: give it that moment.
    deadline = time.monotonic() + PATIENCE
    while (now := census()).threads > before.threads and time.monotonic() < deadline:
        os.sched_yield()
    return now


def more_than(before: Census, now: Census) -> dict[str, object]:
    """What there is more of."""
    # Less than before is no leak: a failed test's traceback may have kept an array until now.
    more: dict[str, Counter[str] | int] = {
        "threads": max(0, now.threads - before.threads),
        "descriptors": now.descriptors - before.descriptors,
        "KiB mapped": max(0, now.mapped - before.mapped),
    }
    return {name: n for name, n in more.items() if n}


def census() -> Census:
    return Census(_threads(), _descriptors(), _mapped())


def _threads() -> int:
    """Without io_uring's workers: the kernel keeps the last of them until the process ends (io_wqe_worker(), 6.1)."""
    found = 0
    for name in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            found += not Path(f"/proc/self/task/{name}/comm").read_bytes().startswith(b"iou-")
    return found


def _descriptors() -> Counter[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        if any(name == str(zygote.fileno()) for zygote in _zygotes):
            continue
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return Counter(found)


def _mapped() -> int:
    """Anonymous memory that is neither dumped nor inherited ("dd", "dc"): only frontswap maps such here."""
    smaps = Path("/proc/self/smaps").read_bytes()
    total = 0
    for flags in re.finditer(rb"VmFlags:.* dc .*dd ", smaps):  # a megabyte of text: not line by line
        size = smaps.rindex(b"\nSize:", 0, flags.start()) + len("\nSize:")
        total += int(smaps[size : smaps.index(b"kB", size)])
    return total


# --- child processes -----------------------------------------------------------------------------

# All that a child may import, before it gives up root: the interpreter may lie where only root can read.
PRELUDE = """
import contextlib, ctypes, errno, faulthandler, gc, io, json, mmap, multiprocessing, os, resource, signal, struct
import subprocess, sys, threading, time
import traceback
import numpy as np
import numpy.fft, numpy.lib.array_utils, numpy.linalg, numpy.random
import frontswap, frontswap.area, frontswap.memory.install, frontswap.memory.memory
from frontswap.core.plane import kernel_features
from frontswap.testing import container, hammer, soak
sys.path.insert(0, {tests!r})
from helpers import MiB, PATIENCE, ballast, census, held, left_since, noise, quiet, same, wait_until, walk
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""
ORDINARY = "soak.become_ordinary_user()\n"
# One that was an ordinary user all along has its own /proc/self/mem.
DUMPABLE = "container.become_dumpable()\n"
SERVE = """
from zygote import serve
exec(compile(serve(FD), "<string>", "exec"))
"""

# From now on userfaultfd(2) fails, as a container's seccomp profile or an old kernel has it; root has the device still.
FORBID = """
def forbid(number, device=False):
    container.forbid_userfaultfd(number, device=device)
"""


@dataclass(frozen=True)
class Done:
    """How a child process ended."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """The JSON of its last line."""
        return json.loads(self.out.splitlines()[-1])

    def check(self) -> Done:
        """Fail, showing what it said, unless it ended well."""
        assert self.status == 0, f"exit status {self.status}\n{self.out}\n{self.err}"
        return self

    def died_of(self, number: signal.Signals) -> Done:
        """Fail, showing what it said, unless this signal ended it."""
        assert self.status == -number, f"exit status {self.status}\n{self.out}\n{self.err}"
        return self


def child_command(code: str, *, options: tuple[str, ...] = ()) -> list[str]:
    """The command of a Python that runs the prelude and `code`."""
    return [sys.executable, "-B", *options, "-c", PRELUDE.format(tests=str(Path(__file__).parent)) + code]


_zygotes: list[Zygote] = []  # none, or one


def _zygote() -> Zygote:
    if _zygotes and not _zygotes[0].alive():
        end_zygote()
    if not _zygotes:
        _zygotes.append(Zygote(child_command(SERVE)))
    return _zygotes[0]


def end_zygote() -> None:
    """End what run_child() has started, if it has."""
    while _zygotes:
        _zygotes.pop().close()


def run_child(
    code: str,
    *,
    mode: Mode | None = None,
    ordinary: bool = False,
    options: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    fresh: bool = False,
    timeout: float = 120,
) -> Done:
    """Run a snippet in a Python of its own; `ordinary`: not as root.

    It is forked from one that has imported what the prelude does, unless `options` or `fresh` ask for one that starts
    from nothing: for environment variables that are read by imports, and to measure what a process takes.
    """
    protection = mode == PROTECTION if mode else forbidden()
    code = ORDINARY * (ordinary and ROOT) + DUMPABLE * (ordinary and protection) + code
    env = dict(os.environ, **(mode.environment if mode else {}), **(environment or {}))
    if not (fresh or options):
        status, out, err = _zygote().run(code, env, timeout * PATIENCE)
        return Done(status, out.decode(errors="replace"), err.decode(errors="replace"))
    done = subprocess.run(
        child_command(code, options=options),
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout * PATIENCE,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


#: the command of this environment
FRONTSWAP = str(Path(sys.executable).with_name("frontswap"))


def same_under_run(
    memory: str, *program: str, environment: dict[str, str] | None = None, threshold: str = "256K"
) -> dict[str, Any]:
    """Run a program under plain Python and under `frontswap run`: both end well and print the same; its statistics."""

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *program], env=environment, capture_output=True, text=True, timeout=300 * PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    plain = run(sys.executable)
    ours = run(FRONTSWAP, "run", "--memory", memory, "--threshold", threshold, "--summary", "json")
    assert ours.stdout == plain.stdout
    found: dict[str, Any] = json.loads(ours.stderr.splitlines()[-1])["frontswap"]
    return found
