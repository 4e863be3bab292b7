"""`frontswap run` and `frontswap stats`: a script under a Memory, and the counters as the kernel shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import PATIENCE

import frontswap
from frontswap.observe.debugfs import NAMES, DebugFS, process_statistics

JOB = """
import sys
import numpy as np
from pathlib import Path

if __name__ == "__main__":
    array = np.cumsum(np.random.default_rng(0).normal(size=6_000_000)).round(2)
    for _ in range(2):
        array = array + 1
    print(sys.argv[1:], Path(sys.argv[0]).name, f"{array.sum():.1f}", sys.path[0] == str(Path(__file__).parent))
    sys.exit(3)
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(JOB)
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from frontswap.cli import main; sys.argv = ['frontswap', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120 * PATIENCE)


def test_a_script_is_the_script_that_it_is(job: Path, tmp_path: Path) -> None:
    plain = subprocess.run([sys.executable, job, "--x", "-c", "1"], capture_output=True, text=True, check=False)
    ours = run("run", "--memory", "24M", "--debugfs", tmp_path / "fs", job, "--x", "-c", "1")
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout) == (3, plain.stdout)
    assert ours.stderr.startswith("frontswap: limit 24 MiB, ")
    assert sorted(path.name for path in (tmp_path / "fs").iterdir()) == sorted([*NAMES, ".statistics.json"])
    numbers = {name: int((tmp_path / "fs" / name).read_text()) for name in NAMES}
    assert numbers["succ_stores"] > 100
    assert run("stats", "--debugfs", tmp_path / "fs").stdout == "".join(f"{n}:{numbers[n]}\n" for n in NAMES)
    known = json.loads(run("stats", "--json", tmp_path / "fs").stdout)
    assert known["memories"][0]["backends"][0]["name"] == "zcache"
    assert "succ_stores" in run("stats", tmp_path / "fs").stdout


def test_module_and_code() -> None:
    code = "import sys; print(__name__, sys.argv)"
    done = run("run", "--memory", "16M", "--quiet", "-c", code, "-b", "a")
    assert (done.stdout, done.stderr) == ("__main__ ['-c', '-b', 'a']\n", "")
    done = run("run", "--memory", "16M", "--quiet", "-m", "json.tool", "--help")
    assert done.returncode == 0
    assert "usage" in done.stdout


def test_a_traceback_is_the_scripts(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise LookupError('mine')")
    done = run("run", "--memory", "16M", "--quiet", tmp_path / "bad.py")
    assert done.returncode == 1
    assert done.stderr.endswith("LookupError: mine\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--memory", "16M"], "job.py='nothing': must be a script, -m MODULE or -c CODE"),
        (["run", "--memory", "16M", "/no/such.py"], "job.py='/no/such.py': must be a script that exists"),
        (["run", "--memory", "1M", "-c", "1"], "limit='1M': must be at least 16 MiB"),
        (["run", "--memory", "16M", "--backends", "zcache:codec=x", "-c", "1"], "backends='zcache:codec': 'x' must be"),
        (["run", "--memory", "16M", "--backends", "model", "-c", "1"], "GIL"),
        (["run", "--memory", "16M", "--debugfs", "/no/such/dir", "-c", "1"], "debugfs='/no/such/dir': must be"),
        (["stats", "/no/such/dir"], "DIR='/no/such/dir': must be a directory"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debugfs_counts_what_swap_areas_do(tmp_path: Path) -> None:
    before = process_statistics()
    with frontswap.Frontswap("model") as hooks, DebugFS(tmp_path / "fs", every=3600) as files:
        area = hooks.swapon(8)
        page = np.zeros(4096, "u1")
        for offset in range(8):
            area.store(offset, page)
        area.load(0, page)
        area.invalidate_page(1)
        files.update()
        now = {name: int((tmp_path / "fs" / name).read_text()) - before[name] for name in NAMES}
        assert now == {"loads": 1, "succ_stores": 8, "failed_stores": 0, "invalidates": 1}
    assert int((tmp_path / "fs" / "succ_stores").read_text()) >= 8  # what has been closed still counts


def test_debugfs_needs_a_time_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(frontswap.ParameterError, match="every"):
        DebugFS(tmp_path, every=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(frontswap.ParameterError, match="debugfs"):
        DebugFS(tmp_path / "file")
