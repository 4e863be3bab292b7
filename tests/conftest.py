"""Fixtures: the mode matrix, Memories that are closed, nothing left behind, small disks, programs in C."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from helpers import (
    MODES,
    PROTECTION,
    ROOT,
    Census,
    Mode,
    census,
    census_of_the_end,
    end_zygote,
    mode_of,
    more_than,
    protected,
)

import frontswap
from frontswap.testing.container import forbid_userfaultfd

pytest.register_assert_rewrite("frontswap.testing.conformance")
# How long an example takes says something about the machine only.
hypothesis.settings.register_profile(
    "frontswap", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("frontswap")
PASSED = pytest.StashKey[bool]()
# The tests are about pages that come and go, of small arrays too, so they have Memories registered from the start.
# test_registration is about the rest; FRONTSWAP_REGISTER=late in the environment runs all of them the other way.
os.environ.setdefault("FRONTSWAP_REGISTER", "early")
# Without userfaultfd nothing but these can run.
NEED_NO_KERNEL = {
    "test_choice",
    "test_codec",
    "test_errors",
    "test_policies",
    "test_replay",
    "test_sizes",
    "test_wheel",
}


class Sample:
    """Tests in an order drawn with a seed, as many as a time allows: what a slow machine runs of a suite."""

    def __init__(self, seed: str, seconds: float) -> None:
        self.seed = seed
        self.seconds = seconds
        self.end = 0.0
        self.left_out = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.nodeid)
        random.Random(self.seed).shuffle(items)
        self.end = time.monotonic() + self.seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> bool | None:
        if time.monotonic() < self.end:
            return None
        self.left_out += 1
        return True

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.write_line(
            f"a sample: --sample={self.seed} --sample-seconds={self.seconds:g}, {self.left_out} tests were left out"
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forbid-userfaultfd", action="store_true", help="run them as in a container: EPERM (seccomp)")
    parser.addoption("--sample", metavar="SEED", help="run a sample of the tests, in an order drawn with this seed")
    parser.addoption("--sample-seconds", type=float, default=300, help="start no test of a sample later (300)")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All tests: two at a time, as most wait for processes that they start. Chosen ones: here, one by one."""
    chosen = config.option.file_or_dir or config.option.sample or {"-k", "-m"} & {*config.invocation_params.args}
    return 0 if chosen else 2


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("forbid_userfaultfd"):
        forbid_userfaultfd()
        config.addinivalue_line("filterwarnings", "ignore:frontswap. a seccomp filter forbids userfaultfd")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell without job control starts what is in background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("sample"):
        config.pluginmanager.register(Sample(config.getoption("sample"), config.getoption("sample_seconds")))


_forked: list[bool] = []
os.register_at_fork(after_in_parent=lambda: _forked.append(True))
# What the process held when the last test ended, if that passed: what it holds when the next one begins.
_ended: list[Census] = []


def pytest_collection_finish() -> None:
    """What has been imported by now lives as long as the process: collecting garbage need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    end_zygote()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


def use(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> Mode:
    """Have Memories made from now on use it; skips, with the reason, where this machine cannot."""
    reason = mode.why_not()
    if reason:
        pytest.skip(reason)
    for name, value in mode.environment.items():
        monkeypatch.setenv(name, value)
    return mode


# Each of their tests takes a second or a process: what differs with who catches the fault is in the others, in less.
SLOW_WITH_THREADS = """
test_arguments test_balance test_budget test_descriptors test_fork test_fork_beside test_heap test_injected test_life
test_loose test_map_parts test_maps test_numpy_results test_order test_recompress test_registration test_reserved
test_resize test_signals test_split test_streams test_threads test_uring
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Handler threads in these modules are for `-m slow`: the whole suite has five minutes.

    So are pages without userfaultfd (test_protection has what is quick), unless there is no other way.
    """
    for item in items:
        if item.get_closest_marker("protection") is not None and not config.getoption("forbid_userfaultfd"):
            item.add_marker(pytest.mark.slow)
        callspec = getattr(item, "callspec", None)
        chosen = {} if callspec is None else callspec.params
        seam = chosen["mode"].faults if "mode" in chosen else chosen.get("seam")
        if seam == "thread" and item.path.stem in SLOW_WITH_THREADS.split():
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=[*MODES, protected(PROTECTION, name=str(PROTECTION))], ids=str)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mode:
    """Each way of catching a fault with each way of taking a page out; Memories made from now on use it."""
    chosen: Mode = request.param
    return use(chosen, monkeypatch)


@pytest.fixture(params=["sigbus", "thread", protected(PROTECTION.faults, name=PROTECTION.faults)])
def seam(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mode:
    """Each way of catching a fault, with the best way of taking a page out that this kernel has."""
    return use(mode_of(request.param), monkeypatch)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads, descriptors and mappings after a test are those of before."""
    if request.path.stem in NEED_NO_KERNEL:
        yield
        return
    if all(mode.why_not() for mode in (*MODES, PROTECTION)):
        pytest.skip(MODES[0].why_not())
    if _forked:
        _forked.clear()
        _ended.clear()
        # OpenBLAS ends its threads when this process forks, and starts them again for the next product.
        np.ones((300, 300)) @ np.ones((300, 300))
    if not _ended:
        gc.collect()
        _ended.append(census())
    before = _ended.pop()
    yield
    # A failed test's traceback holds its arrays, and with them their Memory.
    if request.node.stash.get(PASSED, False):
        now = census_of_the_end(before)
        assert more_than(before, now) == {}
        _ended.append(now)


NewMemory = Callable[..., frontswap.Memory]


@pytest.fixture
def new_memory(request: pytest.FixtureRequest, nothing_is_left: None) -> Iterator[NewMemory]:
    """Makes Memories (of 16 MiB unless told otherwise) that are closed after the test; no array may be left."""
    made: list[frontswap.Memory] = []

    def make(limit: int | str = "16M", **settings: Any) -> frontswap.Memory:
        made.append(frontswap.Memory(limit, **settings))
        return made[-1]

    yield make
    for memory in made:
        try:
            _close(memory)
        except frontswap.InUseError:
            if request.node.stash.get(PASSED, False):
                raise


def _close(memory: frontswap.Memory) -> None:
    """Close it, when nothing but garbage is left of its arrays."""
    try:
        memory.close()
    except frontswap.InUseError:
        gc.collect()
        memory.close()


@pytest.fixture
def memory(new_memory: NewMemory) -> frontswap.Memory:
    """A Memory of 16 MiB, the smallest there is."""
    return new_memory()


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 64 MiB of its own, mounted."""
    if not ROOT:
        pytest.skip("needs root: mounts a small file system")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4 (e2fsprogs)")
    image, point = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    point.mkdir()
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)]
    subprocess.run(make, check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, point], check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a loop device here: {mounted.stderr.strip()}")
    point.chmod(0o777)
    try:
        yield point
    finally:
        # Lazily only where a failed test's traceback still holds the swap file.
        if subprocess.run(["umount", point], check=False, capture_output=True).returncode:
            subprocess.run(["umount", "-l", point], check=True)
        image.unlink()


def c_library(source: str, folder: Path) -> Path:
    """A shared library of this C source, in a folder that everybody may read; skips where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder.chmod(0o755)
    (folder / "library.c").write_text(source, encoding="utf-8")
    path = folder / "library.so"
    command = ["cc", "-O1", "-g", "-shared", "-fPIC", "-pthread", "-o", str(path), str(folder / "library.c")]
    subprocess.run(command, check=True)
    return path
