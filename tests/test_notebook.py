"""`%load_ext frontswap` in a real kernel, and what a Memory looks like there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from helpers import PATIENCE, forbidden, without_notice

import frontswap
from frontswap.observe.view import html, line

# In a process of its own: it leaves sockets behind.
EXECUTE = """
import json, sys
import nbclient, nbformat
cells = [nbformat.v4.new_code_cell(cell) for cell in json.load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
nbclient.NotebookClient(notebook, timeout=int(sys.argv[1]), kernel_name="python3").execute()
json.dump([cell.outputs for cell in notebook.cells], sys.stdout)
"""


def outputs(*cells: str) -> list[list[dict[str, Any]]]:
    """Run the cells in a kernel; what each has put out."""
    command = [sys.executable, "-c", EXECUTE, str(int(60 * PATIENCE))]
    done = subprocess.run(command, input=json.dumps(cells), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


WORK = """
import numpy as np, time
kept = [np.arange(1 << 20) + i for i in range(8)]       # 64 MiB
time.sleep(1.5)
assert all((array == np.arange(1 << 20) + i).all() for i, array in enumerate(kept))
"""


def test_a_notebook_that_runs_already() -> None:
    begun, loaded, small, worked, shown = outputs(
        "import threading; import frontswap; frontswap.install('24M'); None",
        "%load_ext frontswap",
        "sum(range(10))",
        WORK,
        "%frontswap",
    )
    assert all(without_notice(output["text"]).startswith(" ") for output in begun), begun
    assert len(begun) == forbidden()
    assert not loaded
    assert small[0]["data"]["text/plain"] == "45"
    assert len(small) == 1, "a cell in which nothing moves shows nothing"
    (status,) = worked
    assert re.search("frontswap: limit 24 MiB, [0-9,]+ pages came back", status["data"]["text/html"])
    assert "<b>frontswap</b> within 24 MiB" in shown[0]["data"]["text/html"]


class Balanced(HTMLParser):
    """Counts tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, _: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_memory_at_the_end_of_a_cell() -> None:
    with frontswap.Memory("16M") as memory:
        array = memory.zeros(64 << 20, "u1")
        array[:] = 3
        found = memory.statistics()
        text = memory._repr_html_()
        assert html(found)
        assert line(found).startswith("frontswap: limit 16 MiB, ")
        del array
    memory.close()
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    assert "64 MiB" in text
    with pytest.raises(frontswap.ClosedError):
        memory._repr_html_()
