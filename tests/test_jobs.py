"""Jobs of users under `frontswap run`, each with an allocator of its own: the results of the plain run, in less RAM."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE
from jobs import JOBS

PROGRAM = str(Path(__file__).with_name("jobs.py"))
PACKAGES = {"arrow": "pyarrow"}


def output(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", list(JOBS))
def test_the_same_results_in_less(name: str) -> None:
    if importlib.util.find_spec(PACKAGES.get(name, name)) is None:
        pytest.skip(f"needs {name}")
    rows = "400000"
    plain = output(sys.executable, PROGRAM, name, rows)
    run = (str(Path(sys.executable).with_name("frontswap")), "run", "--memory", "32M", "--threshold", "256K")
    ours = output(*run, "--summary", "json", PROGRAM, name, rows)
    assert ours.stdout == plain.stdout
    found = json.loads(ours.stderr.splitlines()[-1])["frontswap"]
    # Its memory was ours, and more than there was.
    assert found["evicted_dirty"] > 1000, found
    assert found["refaults"] > 100, found
    assert found["poisoned"] == 0
