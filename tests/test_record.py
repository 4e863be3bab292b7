"""`frontswap run --record`: what is in the file, whatever ends the program."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FRONTSWAP, PATIENCE, Mode, run_child, without_notice

from frontswap.errors import TraceError
from frontswap.replay.traces import ORACLE, read

# 40 MiB in the order of their pages, five times, in 24 MiB; and a child that must not write to its parent's file.
JOB = """
import os, signal, sys
import numpy as np
array = np.arange(5 << 20)
for _ in range(4):
    array += 1
if sys.argv[1] == "fork" and os.fork() == 0:
    array += 1
    os._exit(0)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "exit":
    os._exit(5)
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(JOB)
    return path


def recorded(file: Path, *program: Path | str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [FRONTSWAP, "run", "--memory", "24M", "--page", "64K", "--record", str(file), *map(str, program)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120 * PATIENCE, **settings)


@pytest.mark.parametrize("end", ["plain", "fork", "kill", "exit"])
def test_every_end_leaves_a_trace(job: Path, tmp_path: Path, end: str) -> None:
    """Each page of the array is asked for five times at least, in turn; by a fork's child nothing is added."""
    file = tmp_path / "faults.trace"
    done = recorded(file, job, end)
    assert done.returncode == {"plain": 0, "fork": 0, "kill": -signal.SIGKILL, "exit": 5}[end], done.stderr
    trace = read(file)
    pages = (40 << 20) // (64 << 10)
    _, uses = np.unique(trace.pages, return_counts=True)
    assert (uses >= 5).sum() >= pages
    records = np.fromfile(file, ORACLE)[: len(trace.pages)]
    assert (records["size"] >= 4096).all()
    assert (records["next"] == -1).all()
    if end in ("plain", "fork"):
        assert file.stat().st_size == len(trace.pages) * ORACLE.itemsize
        found = int(records["size"].sum())
        assert found < 12 * (40 << 20), "of a child nothing"


def test_replay_reads_it(job: Path, tmp_path: Path) -> None:
    file = tmp_path / "faults.trace"
    assert recorded(file, job, "plain").returncode == 0
    shown = subprocess.run(
        [FRONTSWAP, "replay", str(file), "--policy", "lru", "--sizes", "50%", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "lru" in json.dumps(json.loads(shown.stdout))


def test_what_is_too_much_is_counted(seam: Mode, tmp_path: Path) -> None:
    """The file keeps the first faults; the program goes on, and is told."""
    run_child(
        f"""
from frontswap.memory.record import Recording
from frontswap.memory.space import living_spaces
memory = frontswap.Memory("16M", page=65536)
recording = Recording(memory._space, {str(tmp_path / "few")!r}, most=100)
array = memory.zeros(40 << 20, "u1")
for turn in range(3):
    array += 1
said = recording.close()
assert said.startswith("few has the first 100 of "), said
assert os.path.getsize({str(tmp_path / "few")!r}) == 2400
array += 1
assert (array == 4).all()
""",
        mode=seam,
    ).check()
    assert len(read(tmp_path / "few").pages) == 100


def test_threads_fault_while_it_ends(seam: Mode, tmp_path: Path) -> None:
    """Nobody writes to the file any more when it becomes shorter: that would be SIGBUS in the middle of a fault."""
    run_child(
        f"""
from frontswap.memory.record import Recording
memory = frontswap.Memory("16M", page=4096)
arrays = [memory.zeros(8 << 20, "u1") for _ in range(4)]
end = False
def work(array):
    while not end:
        array += 1
tasks = [threading.Thread(target=work, args=(array,)) for array in arrays]
for task in tasks:
    task.start()
for turn in range(30):
    recording = Recording(memory._space, {str(tmp_path / "many")!r}, most=3000)
    time.sleep(0.02)
    recording.close()
end = True
for task in tasks:
    task.join()
for array in arrays:
    assert (array == array[0]).all()
assert memory.statistics().poisoned == 0
""",
        mode=seam,
    ).check()
    read(tmp_path / "many")


def test_without_room_nothing_begins(tmp_path: Path) -> None:
    for file, why in ((tmp_path / "no" / "such", "No such file"), (Path("/dev/full"), "")):
        done = recorded(file, "-c", "print(1)")
        assert (done.returncode, done.stdout) == (1, "")
        assert without_notice(done.stderr).startswith(f"frontswap: record={str(file)!r}: must be a file for ")
        assert why in done.stderr
        assert "Traceback" not in done.stderr


def test_zeros_alone_are_no_trace(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(240))
    with pytest.raises(TraceError, match="nothing but zeros"):
        read(tmp_path / "zeros")


def test_the_child_of_a_recorded_run_is_not_recorded(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys\n"
        "code = 'import numpy as np; a = np.arange(8 << 20); a += 1'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    file = tmp_path / "faults.trace"
    assert recorded(file, script).returncode == 0
    assert file.stat().st_size < 64 * ORACLE.itemsize
