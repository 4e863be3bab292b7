"""A command in a memory cgroup of its own, as an ordinary user: how it ends, and what it has used."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cgroup import Hierarchy, MemoryGroup, group_name
from bench.missing import Missing

NOBODY = 65534
FINISHED = "finished"
KILLED = "killed"
# It joins the group before it becomes the user, who may not, and before it becomes the command.
BECOME = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all --"
JOIN = f'echo 0 > "$0" && exec {BECOME} "$@"'


@dataclass(frozen=True)
class Outcome:
    """How a command has ended."""

    how: str  # FINISHED, KILLED (out of memory), or in words
    seconds: float
    cpu: float  # seconds of processors, user and system
    peak: int  # most bytes ever charged to its group
    written: int  # bytes that it had written to disks
    found: dict[str, Any] = field(default_factory=dict)  # the JSON that it printed
    statistics: dict[str, Any] = field(default_factory=dict)  # the last line on stderr, if it is frontswap's summary


def check() -> None:
    """Missing if a command cannot be run so."""
    if os.geteuid() != 0:
        raise Missing("root (for a memory cgroup; the jobs run as an ordinary user)")
    if shutil.which("setpriv") is None:
        raise Missing("setpriv, of util-linux")
    # Twice: setpriv itself may still go where only root may.
    again = [*BECOME.split(), "env", sys.executable, "-c", "import frontswap"]
    if subprocess.run(again, cwd="/", capture_output=True, check=False).returncode:
        raise Missing(f"a Python and a frontswap that uid {NOBODY} may read: {Path(sys.executable).resolve()} is none")


def run(command: Sequence[str], hierarchy: Hierarchy, limit: int, folder: Path, timeout: float) -> Outcome:
    """Run it to its end in so many bytes, without swap; what it writes goes to `folder`."""
    environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        MemoryGroup(hierarchy, group_name("job"), limit, swap=False) as group,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as errors,
    ):
        begun = time.monotonic()
        process = subprocess.Popen(
            ["sh", "-c", JOIN, str(group.procs), *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        watchdog = threading.Timer(timeout, stop)
        watchdog.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            watchdog.cancel()
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        printed, said = out.read().split("\n"), errors.read().rstrip().split("\n")
        found, statistics = _json(printed[0]), _json(said[-1]).get("frontswap", {})
        if process.returncode == 0:
            how = FINISHED
        elif late.is_set():
            how = f"stopped after {timeout:.0f} s"
        elif group.oom_kills():
            how = KILLED
        else:
            last = [line for line in said if line and not line.startswith('{"frontswap"')]
            how = f"status {process.returncode}: {' '.join(last[-1:])}"
        return Outcome(
            how, seconds, usage.ru_utime + usage.ru_stime, group.peak(), usage.ru_oublock * 512, found, statistics
        )


def _json(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
