"""Test suites of others under `frontswap run`, with nearly every array in a limit far below what they use.

They must end as they do without us: whatever does not pass is run again without, and must not pass there either.
tests/README.md has the list and how to run it.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers import FRONTSWAP, PATIENCE

#: name: the packages whose suite it is, what pytest is told, the limit, and the seconds that it may take
SUITES = {
    "numpy-core": ("numpy", ["--pyargs", "numpy._core"], "96M", 1800),
    "numpy": ("numpy", ["--pyargs", "numpy"], "128M", 7200),
    "pandas": ("pandas", ["--pyargs", "pandas.tests.frame", "pandas.tests.groupby"], "128M", 7200),
    "scikit-learn": ("sklearn", ["--pyargs", "sklearn.decomposition", "sklearn.ensemble"], "128M", 7200),
}
THRESHOLD = "4K"
#: They count the references to the integer 1 twice, all that the process has (CPython before 3.12). Any thread of
#: Python code changes that between: 10 of 3,000 rounds fail without us beside a thread that makes lists.
COUNT_ONE = (
    "test_regression.TestRegression::test_refcount_vdot",
    "test_regression.TestRegression::test_refcount_vectorize",
)


def outcomes(report: Path) -> dict[str, str]:
    """ "passed", "failed" or "skipped" for each test, by its name."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
    return found


def suite(command: list[str], options: list[str], report: Path, seconds: float) -> dict[str, str]:
    """Run a suite in an empty directory; its outcomes."""
    line = [
        *command,
        "-m",
        "pytest",
        "-o",
        f"cache_dir={report.parent / 'cache'}",
        "-q",
        "-W",
        "ignore",
        "--continue-on-collection-errors",
        f"--junitxml={report}",
        *options,
    ]
    # In the place of pytest's two minutes. Not cancelled: its thread is counted when the test ends.
    faulthandler.dump_traceback_later(seconds * PATIENCE + 60, exit=True, file=2)
    # Without our own settings for tests: this is a user's process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRONTSWAP_")}
    # f2py's tests call meson, which is beside this Python; without it they cannot be collected.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (report.with_suffix(".log")).open("w") as log:
        done = subprocess.run(
            line,
            cwd=report.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=seconds * PATIENCE,
            check=False,
        )
    text = report.with_suffix(".log").read_text(errors="replace")
    assert done.returncode in (0, 1), f"exit status {done.returncode}\n{text[-4000:]}"
    return outcomes(report)


def compare(name: str, folder: Path) -> None:
    """Run a suite under frontswap, and what did not pass without it."""
    package, options, limit, seconds = SUITES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install {package.replace('sklearn', 'scikit-learn')}")
    ours = [FRONTSWAP, "run", "--memory", limit, "--threshold", THRESHOLD, "--summary", "json"]
    found = suite(ours, options, folder / "ours.xml", seconds)
    last = (folder / "ours.log").read_text(errors="replace").rstrip().splitlines()[-1]
    statistics = json.loads(last)["frontswap"]
    print(f"{name}: {len(found)} tests, {statistics['faults']:,} faults, {statistics['refaults']:,} refaults")
    assert len(found) > 1000
    assert statistics["refaults"] > 0
    assert statistics["poisoned"] == 0
    failed = {test for test, how in found.items() if how == "failed"}
    if failed:
        plain = suite([sys.executable], [*options, "--last-failed"], folder / "plain.xml", seconds)
        assert failed <= set(plain)
        assert {test for test in failed if plain[test] == "passed" and not test.endswith(COUNT_ONE)} == set()


@pytest.mark.slow
def test_the_core_of_numpy(tmp_path: Path) -> None:
    compare("numpy-core", tmp_path)


@pytest.mark.others
@pytest.mark.parametrize("name", [name for name in SUITES if name != "numpy-core"])
def test_whole_suites(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path)
