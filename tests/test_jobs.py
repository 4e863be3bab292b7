"""Jobs of users under `frontswap run`, each with an allocator of its own: the results of the plain run, in less RAM."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from files import PROGRAMS
from helpers import same_under_run
from jobs import JOBS

PROGRAM = str(Path(__file__).with_name("jobs.py"))
FILES = str(Path(__file__).with_name("files.py"))
PACKAGES = {"arrow": "pyarrow"}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(JOBS))
def test_the_same_results_in_less(name: str) -> None:
    if importlib.util.find_spec(PACKAGES.get(name, name)) is None:
        pytest.skip(f"needs {name}")
    found = same_under_run("32M", PROGRAM, name, "400000")
    # Its memory was ours, and more than there was.
    assert found["evicted_dirty"] > 1000, found
    assert found["refaults"] > 100, found
    assert found["poisoned"] == 0


@pytest.mark.parametrize(
    ("name", "rows"),
    [("kernel", "200000"), *(pytest.param(name, "1000000", marks=pytest.mark.slow) for name in PROGRAMS)],
)
def test_files_are_the_same(name: str, rows: str) -> None:
    """With nearly all of the program's memory ours: what is read from files and written to them."""
    if name != "kernel" and importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    found = same_under_run("16M", FILES, name, rows, threshold="4K")
    assert found["evicted_dirty"] > 100, found
    assert found["poisoned"] == 0
