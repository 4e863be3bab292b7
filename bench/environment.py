"""Where and when a run was made: whatever may move its numbers."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.subjects import filesystem

ROOT = Path(__file__).resolve().parent.parent
DISABLE = "NPY_DISABLE_CPU_FEATURES"
SORT = (
    "import time, numpy as np; a = np.random.default_rng(1).random(1 << 21);"
    "b = time.perf_counter(); a.sort(); print(time.perf_counter() - b)"
)


def choose_sort() -> None:
    """Let children sort without AVX-512 where that is faster: AMD's Zen 4 takes six times as long with it, and a
    sort that waits for the CPU says nothing about memory. A choice made by the user stands."""
    if DISABLE in os.environ:
        return
    feature = "X86_V4"  # NumPy 2.4's name for AVX-512 as Skylake has it
    seconds = {}
    for disabled in ("", feature):
        tried = subprocess.run(
            [sys.executable, "-c", SORT],
            env={**os.environ, DISABLE: disabled},
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode == 0:
            seconds[disabled] = float(tried.stdout)
    if seconds.get(feature, 1e9) < 0.7 * seconds[""]:
        os.environ[DISABLE] = feature


def environment(folder: Path) -> dict[str, str]:
    """Everything as text, in the order in which it is printed."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {_field('/proc/cpuinfo', 'model name')}{_virtual()}",
        "ram": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) >> 10} MiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "frontswap": f"{_version('frontswap')}{_commit()}",
        "numpy without": os.environ.get(DISABLE, "nothing"),
        "huge pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "swappiness": _text("/proc/sys/vm/swappiness"),
        "page-cluster": _text("/proc/sys/vm/page-cluster"),
        "clock": _text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "memmap and swap file on": f"{filesystem(folder)}, readahead {_readahead(folder)} KiB",
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _field(path: str, name: str) -> str:
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0 unknown"


def _chosen(path: str) -> str:
    return _text(path).partition("[")[2].partition("]")[0] or "unknown"


def _virtual() -> str:
    return " (virtual)" if " hypervisor" in _field("/proc/cpuinfo", "flags") else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return "" if done.returncode else f" ({done.stdout.strip()})"


def _readahead(folder: Path) -> str:
    device = folder.stat().st_dev
    at = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # a partition has no queue of its own
    return _text(str((at if (at / "queue").exists() else at / "..") / "queue/read_ahead_kb"))
