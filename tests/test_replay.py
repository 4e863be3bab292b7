"""Traces from files, miss ratio curves, and `frontswap replay`."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.traces import TRACES, loop
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from frontswap import extras
from frontswap.cli import app
from frontswap.errors import FrontswapError, MissingPackageError, ParameterError, TraceError
from frontswap.policies import names
from frontswap.replay import Trace, command, curves, read, replay, screen
from frontswap.replay.traces import dense

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes) -> Path:
        path = tmp_path / "trace"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def oracle(*records: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<IQIq", *record) for record in records)


# --- CSV -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("7\n9\n7\n100\n", {}),
        ("7\r\n9\r\n7\r\n100", {}),
        ("page\n7\n9\n7\n100\n", {}),
        ("\n7\n\n9\n7\n\n100\n\n", {}),
        ("0x7\n0x9\n0X7\n0x64\n", {}),
        ("time,page\n1,7\n2,9\n3,7\n4,100\n", {}),
        ("time,page\n1,7\n2,9\n3,7\n4,100\n", {"column": "PAGE"}),
        ("time,page\n1,7\n2,9\n3,7\n4,100\n", {"column": "2"}),
        ("1,7\n2,9\n3,7\n4,100\n", {"column": "2"}),
        ('t,"page"\n1,"7"\n2, 9 \n3,7,more\n4,100\n', {"column": "2"}),
        ("1\t7\n2\t9\n3\t7\n4\t100\n", {"column": "2"}),
        ("1;7\n2;9\n3;7\n4;100\n", {"column": "2"}),
        ("1  7\n2 9\n 3 7\n4 100\n", {"column": "2"}),
        ("1!7\n2!9\n3!7\n4!100\n", {"column": "2", "delimiter": "!"}),
        ("1 ,a\t7\n2 ,a\t9\n3\t7\n4\t100\n", {"column": "2", "delimiter": "tab"}),
        ("7168\n9216\n8191\n102400\n", {"page": 1024}),
        ("address,size\n0x7000,8\n0x9008,8\n0x7fff,1\n0x64000,8\n", {"page": 4096}),
        ("18446744073709551607\n18446744073709551609\n18446744073709551607\n18446744073709551615\n", {}),
    ],
)
def test_csv(content: str, options: dict[str, Any], write: Write) -> None:
    trace = read(write(content), **options)
    assert trace.pages.tolist() == [0, 1, 0, 2]
    assert (trace.count, trace.references, trace.removed) == (3, 4, None)


def test_csv_with_operations(write: Write) -> None:
    content = "op,page\nR,5\nwrite,6\nFREE,5\n set ,5\ntrim,9\n"
    trace = read(write(content), operation="op")
    assert trace.pages.tolist() == [0, 1, 0, 0, 2]
    assert trace.removed is not None
    assert trace.removed.tolist() == [False, False, True, False, True]
    assert trace.references == 3
    assert read(write("R,5\nW,5\n"), column="2", operation="1").removed is None


@pytest.mark.parametrize(
    ("content", "options", "wrong"),
    [
        ("", {}, "the file: 0 must be longer: it is empty"),
        ("\n \n", {}, "the file: 'nothing but empty lines' must be records"),
        ("page\n", {}, "the file: 0 must be records below its header"),
        ("7\n9\nseven\n", {}, "line 3: 'seven' must be a whole number from 0 to 2**64 - 1"),
        ("page\n\n7\n-9\n", {}, "line 4: '-9' must be a whole number from 0 to 2**64 - 1"),
        ("7\n9.5\n", {}, "line 2: '9.5' must be a whole number"),
        ("7\n18446744073709551616\n", {}, "line 2: '18446744073709551616' must be a whole number"),
        ("0x7\n9\n", {}, "line 2: '9' must be a whole number from 0 to 2**64 - 1, as 0x..., as the first is"),
        ("7\n0x9\n", {}, "line 2: '0x9' must be a whole number"),
        ("1,7\n2,9\n3", {"column": "2"}, "line 3: '3' must be 2 columns at least"),
        ("1,7\n2,\n", {"column": "2"}, "line 2: '' must be a whole number"),
        ("R,7\nshut,9\n", {"column": "2", "operation": "1"}, "line 2: 'shut' must be one of access, fault, get"),
        ("free,7\nfree,9\n", {"column": "2", "operation": "1"}, "the file: 2 must be uses of pages: all that it has"),
        (b"\x28\xb5\x2f\xfd12345678", {}, "the file: 'zstd' must be decompressed first: zstd -d "),
        (b"\x1f\x8b\x08\x00", {}, "the file: 'gzip' must be decompressed first: gunzip "),
        (b"7\n\xff\xfe\n", {}, "line 2: '\ufffd\ufffd' must be a whole number"),
    ],
)
def test_csv_that_is_none_says_where(content: str | bytes, options: dict[str, Any], wrong: str, write: Write) -> None:
    path = write(content)
    with pytest.raises(TraceError, match=re.escape(f"{path}: {wrong}")):
        read(path, **options)


@pytest.mark.parametrize(
    ("content", "options", "wrong"),
    [
        ("1,7\n", {}, "column=None: must be given: a number from 1 to 2, or a name, of ['1', '7']"),
        ("a,b\n1,7\n", {}, "column=None: must be given: a number from 1 to 2, or a name, of ['a', 'b']"),
        ("a,b\n1,7\n", {"column": "c"}, "column='c': must be a number from 1 to 2, or a name, of ['a', 'b']"),
        ("a,b\n1,7\n", {"column": "3"}, "column='3': must be a number from 1 to 2"),
        ("a,b\n1,7\n", {"column": "b", "operation": "0"}, "operation='0': must be a number from 1 to 2"),
        ("7\n", {"delimiter": "::"}, "delimiter='::': must be one character, or one of comma, tab"),
        ("7\n", {"form": "parquet"}, "format='parquet': must be one of auto, csv, oracle"),
        (oracle((1, 7, 1, -1)), {"column": "1"}, "column='1': must be left out: the trace is no CSV"),
    ],
)
def test_columns_that_are_not_there(content: str | bytes, options: dict[str, Any], wrong: str, write: Write) -> None:
    with pytest.raises(ParameterError, match=re.escape(wrong)):
        read(write(content), **options)


@given(ids=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 30), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_numbers_without_gaps_keep_their_order(ids: list[int]) -> None:
    pages, count = dense(np.array(ids, "u8"))
    known = sorted(set(ids))
    assert count == len(known)
    assert pages.tolist() == [known.index(one) for one in ids]
    assert pages.dtype == np.uint32


# --- oracleGeneral -------------------------------------------------------------------------------

# Two uses of the object 2**40 + 1 and one of 7, as libCacheSim writes them.
GOLDEN = bytes.fromhex(
    "64000000 0100000000010000 00020000 0300000000000000"
    "64000000 0700000000000000 00020000 ffffffffffffffff"
    "6a000000 0100000000010000 00020000 ffffffffffffffff"
)


def test_oracle_general(write: Write) -> None:
    assert oracle((100, 2**40 + 1, 512, 3), (100, 7, 512, -1), (106, 2**40 + 1, 512, -1)) == GOLDEN
    for form in ("auto", "oracle"):
        trace = read(write(GOLDEN), form=form)
        assert (trace.pages.tolist(), trace.count, trace.removed, trace.name) == ([1, 0, 1], 2, None, "trace")
    assert read(write(GOLDEN), page=4096).count == 2


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (GOLDEN[:-1], "record 3: '23 bytes' must be 24 bytes: the file is cut"),
        (GOLDEN + b"\0", "record 4: '1 bytes' must be 24 bytes: the file is cut"),
        (oracle((5, 7, 1, 2), (4, 7, 1, -1)), "record 2: 4 must be a time not before that of the record above (oracl"),
        (oracle((5, 7, 1, -1), (5, 7, 1, 2)), "record 2: 2 must be the number of a later record that has the same ob"),
    ],
)
def test_oracle_general_that_is_none_says_where(content: bytes, wrong: str, write: Write) -> None:
    path = write(content)
    with pytest.raises(TraceError, match=re.escape(f"{path}: {wrong}")):
        read(path, form="oracle")


def test_it_is_checked_beyond_the_first_part(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frontswap.replay.traces.PART", 2)
    records = [(9, n, 1, -1) for n in range(5)]
    assert read(write(oracle(*records))).count == 5
    records[4] = (8, 4, 1, -1)
    with pytest.raises(TraceError, match="record 5: 8 must be a time"):
        read(write(oracle(*records)))
    records[4] = (9, 4, 1, 5)
    with pytest.raises(TraceError, match="record 5: 5 must be the number of a later"):
        read(write(oracle(*records)))


# --- curves --------------------------------------------------------------------------------------


def test_sizes() -> None:
    assert curves.parse_sizes("50%, 10,100,10", 200) == [10, 100]
    assert curves.parse_sizes(None, 1000)[:3] == [10, 20, 50]
    assert curves.parse_sizes(None, 2) == [1, 2]
    assert curves.parse_sizes("0.1%", 10) == [1]


@pytest.mark.parametrize("text", ["0", "-1", "0%", "-5%", "1.5", "many", "", "10,", "2147483648", "nan%", "inf%"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ParameterError, match=r"sizes='.*': must be a number of pages from 1 on, or a part of all"):
        curves.parse_sizes(text, 100)


def test_policies() -> None:
    assert curves.parse_policies(None) == names()
    assert curves.parse_policies("Sieve, fifo") == ["fifo", "lru", "sieve", "belady"]
    with pytest.raises(ParameterError, match="policy='mru': must be one of fifo"):
        curves.parse_policies("lru,mru")


def test_a_loop_at_twice_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """LRU never hits; the optimum keeps all but one of the pages that fit."""
    monkeypatch.setattr(curves, "PART", 1000)
    trace, seen = Trace("loop", loop(100, 10_000), 100), list[int]()
    found = replay(trace, ["lru", "belady"], [50, 100], seen.append)
    assert (found.references, found.pages, found.cold, found.sizes) == (10_000, 100, 100, (50, 100))
    assert found.misses["lru"] == (10_000, 100)
    assert found.evictions["lru"] == (9950, 0)
    assert found.misses["belady"][1] == 100
    assert found.miss_ratios("belady")[0] == pytest.approx(1 - 0.49 / 0.99, abs=0.01)
    assert found.share("lru") == [0, 1]
    assert found.share("belady", "lru") == [None, 1]
    assert sum(seen) == 4 * 10_000


def test_pages_that_are_freed_are_first_uses_again() -> None:
    trace = Trace("t", np.array([0, 0, 0, 0], "u4"), 1, np.array([False, True, False, False]))
    found = replay(trace, names(), [1])
    assert (found.references, found.cold) == (3, 2)
    assert set(found.misses.values()) == {(2,)}


def test_an_error_in_a_run_ends_it() -> None:
    with pytest.raises(ParameterError, match="pages=7"):
        replay(Trace("t", np.array([7] * 100, "u4"), 5), ["lru"], [1, 2, 3])

    def stopped(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(Trace("t", np.zeros(100, "u4"), 5), ["lru"], [1, 2, 3], stopped)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def csv(write: Write) -> Path:
    return write("page\n" + "\n".join(map(str, TRACES["zipf"](400, 4000))))


def test_the_command_shows_tables(csv: Path) -> None:
    said = CliRunner().invoke(app, ["replay", str(csv), "--sizes", "20,182"])
    assert said.exit_code == 0, said.output
    assert "trace: 4,000 references to " in said.output
    rows = {line.split()[0]: line.split()[1:] for line in said.output.splitlines() if line.strip()}
    assert [len(rows[size]) for size in ("20", "182")] == [10, 10]
    assert rows["pages"][2:] == names()
    assert rows["arc"][-2:] == ["of", "2"]


def test_it_shows_json(csv: Path) -> None:
    said = CliRunner().invoke(app, ["replay", str(csv), "--sizes", "20,182", "--policy", "arc", "--json"])
    found = json.loads(said.output)
    trace = read(csv)
    assert found == json.loads(json.dumps(asdict(replay(trace, ["lru", "arc", "belady"], [20, 182]))))


ONE = "from frontswap.cli import main; main()"
FIVE = """
import sys
from pathlib import Path
from frontswap.replay import read, replay
from frontswap.replay.picture import draw
draw([replay(read(Path(sys.argv[2])), ["lru", "belady"], [20, 182])] * 5, Path(sys.argv[4]))
"""


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.parametrize("code", [ONE, FIVE], ids=["one trace", "five traces"])
def test_it_draws_a_picture(code: str, csv: Path, tmp_path: Path) -> None:
    png = tmp_path / "curves.png"
    # in a process of its own: matplotlib keeps font files open
    said = subprocess.run(
        [sys.executable, "-c", code, "replay", str(csv), "--png", str(png)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert code == FIVE or f"Picture: {png}" in said.stdout
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 700
    assert height > 400


def test_more_misses_than_lru_are_red_and_the_fewest_bold() -> None:
    counts: dict[str, tuple[int, ...]] = {"fifo": (60,), "lru": (50,), "arc": (40,), "belady": (30,)}
    found = curves.Replay("t", 100, 10, 10, (5,), counts, counts)
    console = Console(force_terminal=True, color_system="standard", width=80, no_color=False)
    with console.capture() as captured:
        console.print(screen.curves(found))
    assert re.search(r"\x1b\[31m\s*60.00\x1b", captured.get())
    assert re.search(r"\x1b\[1m\s*40.00\x1b", captured.get())
    assert re.search(r"[^m]50.00", captured.get())


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"png": "curves.jpg"}, "png='curves.jpg': must be the name of a .png file in a directory that exists"),
        ({"png": "none/curves.png"}, "png='none/curves.png': must be the name"),
        ({"page": "5000"}, "page='5000': must be a power of two"),
        ({"policies": "mru"}, "policy='mru'"),
        ({"sizes": "x"}, "sizes='x'"),
    ],
)
def test_what_is_wrong_is_said_before_the_trace_is_read(
    options: dict[str, Any], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "png" in options and find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    monkeypatch.setattr(command, "read", lambda *_, **__: pytest.fail("it was read"))
    plain: dict[str, Any] = dict.fromkeys(("policies", "sizes", "page", "column", "operation", "delimiter", "png"))
    given = plain | options
    given["png"] = given["png"] and Path(given["png"])
    with pytest.raises(FrontswapError, match=re.escape(wrong)):
        command.show(Path("trace"), form="auto", as_json=False, **given)


def test_without_matplotlib_it_says_what_to_install(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    said = CliRunner().invoke(app, ["replay", str(csv), "--png", "x.png"])
    assert isinstance(said.exception, MissingPackageError)
    assert str(said.exception) == "the package matplotlib is not installed: pip install 'frontswap[replay]'"
