"""The bench's pure parts: its data, its loops, its arithmetic. The measuring itself is `python -m bench --quick`."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench import before, cgroup, confine, data, jobs, native, pool, report, results, subjects, tasks, zswap
from bench.__main__ import parser, verdict
from bench.missing import Missing
from bench.native import Loops, words
from bench.run import STEPS, Plan, Record, works
from bench.zram import read_pool
from helpers import PATIENCE, ROOT

MIB = 1 << 20
README = Path(__file__).parents[1] / "bench" / "README.md"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return native.build(tmp_path_factory.mktemp("loops"))


@pytest.fixture(scope="module")
def loops(library: Path) -> Loops:
    return Loops(library)


def record(subject: str, fill: float = 1.0, *, round_: int = 1, kind: str = "mixed", **rest: object) -> Record:
    steps = {"fill": {"gb_per_s": fill, "cpu_seconds": 1.0}}
    made = Record(kind, "pass", round_, subject, limit=512 * MIB, steps=steps, group_peak=512 * MIB)
    return dataclasses.replace(made, **rest)  # type: ignore[arg-type]


def kept(subject: str, kind: str, ram: float, *, disk: float = 0, size: float = 100) -> Record:
    step = {"ram_bytes": ram, "disk_bytes": disk, "size_bytes": size}
    return Record(kind, "memory", 1, subject, limit=0, steps={"memory": step})


PLAN = Plan(
    subjects=subjects.SUBJECTS,
    kinds=("float64", "mixed"),
    steps=STEPS,
    rounds=3,
    size=2048 * MIB,
    sort_size=1024 * MIB,
    memory_size=1024 * MIB,
    limit=512 * MIB,
    touches=1,
    touch_seconds=1,
    timeout=1,
    folder=Path("/var/tmp"),
)


@pytest.fixture
def plan() -> Plan:
    return PLAN


class TestData:
    @pytest.fixture(autouse=True)
    def few_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = b"".join(b"line %d of some text\n" % number for number in range(5000))
        monkeypatch.setattr(data, "gather_text", lambda *_: np.frombuffer(lines, np.uint8))

    @pytest.mark.parametrize("name", [kind.name for kind in data.KINDS])
    def test_the_same_seed_makes_the_same_bytes(self, name: str) -> None:
        first, second = (data.stream(name, np.random.default_rng(7), MIB)(MIB) for _ in range(2))
        assert first.nbytes == MIB
        assert np.array_equal(first, second)

    def test_walks_are_rounded_in_turn_and_have_no_negative_zero(self) -> None:
        take = data.floats(np.random.default_rng(1), 2, 3)
        for decimals in (2, 3):
            walk = take(4 * MIB).view(np.float64)
            assert np.array_equal(walk, np.round(walk, decimals))
            assert not np.any(np.signbit(walk) & (walk == 0))
            assert np.abs(np.diff(walk)).max() < 10

    def test_timestamps_go_on_where_they_stopped(self) -> None:
        take = data.timestamps(np.random.default_rng(1))
        both = np.concatenate([take(8192), take(8192)]).view("datetime64[ns]")
        assert both[0] >= np.datetime64("2026-01-01")
        assert np.all(np.diff(both) >= np.timedelta64(0))
        assert not np.any(both.view(np.int64) % 1000)

    def test_one_place_in_fifty_is_not_zero(self) -> None:
        values = data.sparse(np.random.default_rng(1))(MIB).view(np.float64)
        assert 0.018 < np.count_nonzero(values) / values.size <= 0.02

    def test_weights_are_rounded_to_the_upper_half(self) -> None:
        drawn = np.random.default_rng(1)
        spread = np.float32(0.02 * 2 ** drawn.uniform(-1, 1))
        exact = drawn.standard_normal(4096, np.float32) * spread
        halves = data.weights(np.random.default_rng(1))(8192).view(np.uint16)
        rounded = (halves.astype(np.uint32) << 16).view(np.float32)
        assert np.all(np.abs(rounded - exact) <= np.abs(exact) * 2**-8)

    def test_photographs_do_not_come_again(self) -> None:
        take = data.photographs(np.random.default_rng(1), data.gather_photographs())
        pages = [page.tobytes() for page in np.concatenate([take(MIB), take(MIB)]).reshape(-1, 4096)]
        assert len(set(pages)) == len(pages)

    def test_counters_go_on_where_they_stopped(self) -> None:
        take = data.counters(np.random.default_rng(1))
        both = np.concatenate([take(4096), take(4096)]).view(np.int32)
        assert set(np.diff(both).tolist()) == {0, 1}

    def test_text_comes_around_out_of_step_with_pages(self) -> None:
        source = np.arange(10_007, dtype=np.uint64).astype(np.uint8)
        take = data.text(source)
        taken = np.concatenate([take(8192) for _ in range(4)])
        assert np.array_equal(taken, np.resize(source, 4 * 8192))

    def test_mixed_blocks_take_turns(self) -> None:
        one, two = (lambda size, value=value: np.full(size, value, np.uint8) for value in (1, 2))
        taken = data.blocks(one, two)(3 * data.BLOCK)
        assert [int(block[0]) for block in taken.reshape(3, -1)] == [1, 2, 1]
        assert all(len(set(block.tolist())) == 1 for block in taken.reshape(3, -1))


class TestGatheredText:
    def test_each_text_file_once_and_nothing_binary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "b.py").write_text("second")
        (tmp_path / "a.py").write_text("first ")
        (tmp_path / "link.py").symlink_to("a.py")
        (tmp_path / "c.py").write_bytes(b"bin\0ary")
        (tmp_path / "d.so").write_text("not text")
        monkeypatch.setattr("bench.data.sysconfig.get_path", lambda _: str(tmp_path))
        monkeypatch.setattr(data, "ELSEWHERE", tmp_path)
        assert data.gather_text(12, needed=1).tobytes() == b"first second"

    def test_too_little_text_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.data.sysconfig.get_path", lambda _: str(tmp_path))
        monkeypatch.setattr(data, "ELSEWHERE", tmp_path)
        with pytest.raises(Missing, match="MiB of text"):
            data.gather_text(100)


class TestLoops:
    def test_scan_sees_a_page_in_another_pages_place(self, loops: Loops) -> None:
        pages = np.random.default_rng(1).integers(0, 255, (4, 4096), dtype=np.uint8)
        swapped = pages[[0, 2, 1, 3]].copy()
        assert loops.scan(words(pages)) == loops.scan(words(pages.copy()))
        assert loops.scan(words(pages)) != loops.scan(words(swapped))

    def test_fill_and_rmw_and_differ(self, loops: Loops) -> None:
        source = words(np.random.default_rng(1).integers(0, 255, 3 * MIB + 64, dtype=np.uint8))
        target = np.zeros_like(source)
        loops.fill(target, source)
        assert loops.differ(target, source) == -1
        loops.rmw(target, data.SIGN)
        assert loops.differ(target, source, flip=data.SIGN) == -1
        target[77] ^= np.uint64(4)
        assert loops.differ(target, source, flip=data.SIGN) == 77

    def test_touches_read_and_take_back(self, loops: Loops) -> None:
        array = words(np.arange(512, dtype=np.uint64))
        places, took = words(np.array([3, 500, 3], np.uint64)), np.zeros(3, np.uint64)
        assert loops.touch(array, places, took) == (3, 506)
        assert took.all()
        for _ in range(2):
            loops.touch(array, places, took, flip=data.BITS)
        assert np.array_equal(array, np.arange(512))

    def test_mix_does_not_depend_on_the_order_and_unsorted_does(self, loops: Loops) -> None:
        values = np.random.default_rng(1).random(1000)
        ordered = np.sort(values)
        assert loops.mix(words(values)) == loops.mix(words(ordered))
        assert loops.unsorted(ordered) == -1
        ordered[[10, 20]] = ordered[[20, 10]]
        assert loops.unsorted(ordered) == 11

    def test_words_are_in_order_without_a_sign(self, loops: Loops) -> None:
        assert loops.unsorted(np.array([1, 2, 1 << 63], np.uint64)) == -1
        assert loops.unsorted(np.array([1, 1 << 63, 2], np.uint64)) == 2


class TestResults:
    def test_medians_and_ratios(self) -> None:
        records = [record("zram-lz4", value, round_=at) for at, value in enumerate((1.0, 5.0, 2.0))]
        records += [record("frontswap", value, round_=at) for at, value in enumerate((7.0, 6.0, 1.0))]
        (table,) = results.tables(records)
        cells = {metric.name: row for metric, row in table.rows}
        assert table.subjects == ("zram-lz4", "frontswap")
        assert cells["fill"][1] == results.Cell(6.0, 3.0)
        assert report.cell(cells["fill"][1], base=False) == "6 (3x)"

    @pytest.mark.parametrize(("metric", "loses"), [("fill", True), ("random", False)])
    def test_whether_less_is_worse_depends_on_the_metric(self, metric: str, loses: bool) -> None:
        def steps(value: float) -> dict[str, dict[str, float]]:
            return {"fill": {"gb_per_s": value, "cpu_seconds": 1}, "random": {"mean_us": value, "cpu_seconds": 1}}

        (table,) = results.tables([record("zram-lz4", steps=steps(2)), record("memmap", steps=steps(1))])
        (cell,) = [row[1] for found, row in table.rows if found.name == metric]
        assert cell.loses is loses
        assert report.cell(cell, base=False) == "1 (0.5x worse)" if loses else "1 (0.5x)"

    def test_a_failed_round_is_told_and_does_not_count(self) -> None:
        failed = record("memmap", round_=2, failed="killed: out of memory", steps={})
        (table,) = results.tables([record("memmap", 3.0), failed])
        assert report.cell(table.rows[0][1][0], base=False) == "3, but 1 x killed: out of memory"
        (table,) = results.tables([record("zram-lz4"), failed])
        assert report.cell(table.rows[0][1][1], base=False) == "killed: out of memory"

    def test_compression_of_both_kinds(self) -> None:
        ours = record("frontswap", samples={"scan": {"stored_bytes": 30, "pool_bytes": 10}})
        theirs = record("zram-lz4", samples={"fill": {"orig_data_size": 30, "mem_used_total": 15}})
        assert (results.compression(ours), results.compression(theirs)) == (3, 2)
        assert results.compression(record("memmap")) is None

    def test_all_ram_is_the_group_and_zrams_pool(self) -> None:
        assert record("zram-lz4", pool_peak=100 * MIB).ram == 612 * MIB

    def test_targets_are_met_at_their_value(self) -> None:
        records = [record("zram-lz4", 1.0), record("frontswap", 5.0), record("frontswap-ram", 4.9)]
        found = {one.subject: one.met for one in results.verdicts(results.tables(records))}
        assert found == {"frontswap": True, "frontswap-ram": False}

    @pytest.mark.parametrize(("kind", "ratio"), [("int32", 0.75), ("text", 1.02), ("images", None)])
    def test_memory_is_judged_by_the_kind_of_data(self, kind: str, ratio: float | None) -> None:
        names = ("zram-lz4", "frontswap", "frontswap-4k")
        found = results.verdicts(results.tables([kept(name, kind, 50) for name in names]))
        assert [(one.subject, one.target.ratio) for one in found] == [
            (name, ratio) for name in names[1:] if ratio is not None
        ]

    def test_what_is_on_disk_counts_as_memory(self) -> None:
        ours = kept("frontswap", "int32", 20, disk=30, size=200)
        assert results.memory("ram_bytes", "disk_bytes")(ours) == 256
        table = report.shown(results.tables([kept("zram-lz4", "int32", 50), ours]), PLAN)[0]
        assert table.head == ("", "zram-lz4", "frontswap")
        assert table.rows == [[("int32", False), ("512", False), ("256 (0.5x), 154 on disk", False)]]

    def test_small_pages_have_their_own_targets(self) -> None:
        def touched(value: float) -> dict[str, dict[str, float]]:
            return {"random": {"mean_us": value, "p99_us": value, "cpu_seconds": 1}}

        names = ("zram-lz4", "frontswap", "frontswap-4k")
        found = results.verdicts(results.tables([record(name, steps=touched(9)) for name in names]))
        assert {one.subject for one in found} == {"frontswap-4k"}

    def test_wrong_bytes_and_our_failures_fail_the_run(self) -> None:
        from rich.console import Console

        quiet = Console(quiet=True)
        assert verdict(quiet, [record("memmap", failed="killed: out of memory")]) == 0
        assert verdict(quiet, [record("memmap", wrong="the word at byte 8 is wrong")]) == 1
        assert verdict(quiet, [record("frontswap", failed="killed: out of memory")]) == 1


class TestReport:
    @pytest.mark.parametrize(("value", "text"), [(0.0712, "0.0712"), (1.0, "1"), (13.14, "13.1"), (4400.4, "4400")])
    def test_numbers_have_three_digits(self, value: float, text: str) -> None:
        assert report.number(value) == text

    def test_markdown_has_the_date_the_table_and_the_verdicts(self, plan: Plan) -> None:
        where = {
            "date": "2026-01-02 03:04 UTC",
            "cpu": "2 x CPU",
            "kernel": "6.18",
            "numpy": "2.4",
            "load before": "0.1",
        }
        records = [record("zram-lz4", 1.0), record("frontswap", 3.5)]
        text = report.markdown(plan, records, where, beside=None)
        assert "Measured on 2026-01-02: 2 x CPU, Linux 6.18" in text
        assert "| fill, GB/s | 1 | 3.5 (3.5x) |" in text
        assert "| target | subject | mixed |" in text
        assert "| fill at least 5x zram-lz4 | frontswap | 3.5x missed |" in text


class TestPlan:
    def test_workloads_follow_the_steps(self, plan: Plan) -> None:
        assert [(work, kind) for work, kind, *_ in works(plan)] == [
            ("pass", "float64"),
            ("pass", "mixed"),
            ("sort", "float64"),
            ("sort", "mixed"),
            ("memory", "float64"),
            ("memory", "mixed"),
        ]
        scans = dataclasses.replace(plan, steps=("scan",))
        assert [steps for *_, steps in works(scans)] == [("scan",), ("scan",)]

    def test_zram_comes_before_those_who_get_its_ram(self) -> None:
        names = [subject.name for subject in subjects.SUBJECTS]
        assert all(
            names.index(subjects.ZRAM) < names.index(subject.name) for subject in subjects.SUBJECTS if subject.same_ram
        )

    def test_memory_is_for_those_who_compress(self) -> None:
        names = [subject.name for subject in subjects.SUBJECTS if subject.takes("memory")]
        assert names == ["zram-lz4", "zram-lzo-rle", "zswap", "frontswap", "frontswap-4k"]

    def test_an_unknown_name_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parser().parse_args(["--only", "fill,nonsense"])
        assert "'nonsense' is none of fill, scan" in capsys.readouterr().err


class TestMachine:
    def test_pool_use_is_read_from_mm_stat(self, tmp_path: Path) -> None:
        (tmp_path / "mm_stat").write_text("  8192  4096  5000  0  6000  1  2  3  4\n")
        pool = read_pool(tmp_path / "mm_stat")
        assert (pool.orig_data_size, pool.mem_used_total, pool.mem_used_max) == (8192, 5000, 6000)

    def test_zswaps_pool_is_read_from_meminfo(self, tmp_path: Path) -> None:
        (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nZswap:      4 kB\nZswapped:    10 kB\nDirty: 0 kB\n")
        assert zswap.held(tmp_path / "meminfo") == {"orig_data_size": 10 << 10, "mem_used_total": 4 << 10}

    def test_zswap_that_others_use_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "enabled").write_text("Y\n")
        swaps = tmp_path / "swaps"
        swaps.write_text("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n")
        with pytest.raises(Missing, match="nobody uses"):
            zswap.check("ext4", swaps, tmp_path)
        (tmp_path / "enabled").write_text("N\n")
        with pytest.raises(Missing, match="overlay may have none"):
            zswap.check("overlay", swaps, tmp_path)
        with pytest.raises(Missing, match=r"no .*/nowhere"):
            zswap.check("ext4", swaps, tmp_path / "nowhere")

    def test_zswap_is_put_back_as_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if swapon fails: all but the swap itself is files."""
        for name, value in (("enabled", "N\n"), ("compressor", "deflate\n")):
            (tmp_path / name).write_text(value)
        monkeypatch.setattr(zswap, "PARAMETERS", tmp_path)
        file = tmp_path / "swap"

        def no_swap(where: Path, _: object) -> None:
            assert where.stat().st_size == MIB
            assert [(tmp_path / name).read_text() for name in ("enabled", "compressor")] == ["Y", "lz4"]
            raise OSError("swapon: no")

        monkeypatch.setattr(zswap, "switch_on", no_swap)
        with pytest.raises(OSError, match="swapon: no"), zswap.ZswapSwap(file, MIB):
            pass
        assert [(tmp_path / name).read_text() for name in ("enabled", "compressor")] == ["N", "deflate"]
        assert not file.exists()

    def test_cgroup_v1_is_found_below_our_own_group(self, tmp_path: Path) -> None:
        mount = tmp_path / "memory"
        (mount / "jobs" / "one").mkdir(parents=True)
        (tmp_path / "cgroup").write_text("4:memory:/jobs/one\n0::/\n")
        (tmp_path / "mountinfo").write_text(f"35 31 0:32 / {mount} rw - cgroup cgroup rw,memory\n")
        assert cgroup.find(tmp_path) == cgroup.Hierarchy(1, mount / "jobs" / "one")

    def test_cgroup_v2_needs_the_memory_controller(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup").write_text("0::/user.slice\n")
        (tmp_path / "mountinfo").write_text(f"35 31 0:32 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
        (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
        assert cgroup.find(tmp_path) == cgroup.Hierarchy(2, tmp_path)
        (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
        with pytest.raises(Missing, match=r"cgroup\.subtree_control"):
            cgroup.find(tmp_path)

    def test_file_system_of_the_closest_mount(self, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        mounts = tmp_path / "mounts"
        mounts.write_text(f"disk / ext4 rw 0 0\nnone {inner} tmpfs rw 0 0\n")
        assert subjects.filesystem(inner, mounts) == "tmpfs"
        assert subjects.filesystem(tmp_path, mounts) == "ext4"


def test_the_manual_names_everything_there_is() -> None:
    manual = README.read_text()
    options = {option for action in parser()._actions for option in action.option_strings if option.startswith("--")}
    names = [known.name for known in (*subjects.SUBJECTS, *data.KINDS)]
    missing = [name for name in (*names, *STEPS, *options - {"--help"}) if not re.search(rf"`{name}[ `]", manual)]
    assert not missing


def test_before_pairs_rounds() -> None:
    """A side that failed in a round has none; what is slower in all of them is missed."""
    records = []
    for turn, (old, new) in enumerate([(1.0, 1.2), (2.0, 2.3), (1.0, 1.1)]):
        for name, seconds in (("before", old), ("frontswap", new)):
            record = Record("int32", "pass", turn, name, 1)
            record.steps = {"scan": {"seconds": seconds}, "random": {"mean_us": 5.0}}
            records.append(record)
    records[-1].steps.pop("random")
    for name in ("before", "frontswap"):
        half = Record("int32", "sort", 0, name, 1)
        half.steps = {"fill": {"seconds": 1.0}}
        records.append(half)
    rows = {row[1]: row[2:] for row in before.sheet(records).rows}
    assert rows == {
        "scan": ("1", "1.2", "1.150 (1.100 to 1.200) missed", "3"),
        "random": ("5", "5", "1.000 (1.000 to 1.000)", "2"),
    }


class TestPool:
    @pytest.mark.parametrize(("kind", "swap"), [("int32-ids", "/var/tmp"), ("float64", None)])
    def test_rewriting_keeps_every_byte_and_says_how_dense_the_pool_is(
        self, library: Path, kind: str, swap: str | None
    ) -> None:
        found = pool.churn(pool.Churn(kind, 4096, 48 * MIB, 24 * MIB, swap, 1, str(library)))
        assert 0 < found["live_of_pool"] <= 1
        assert 0 < found["least"] <= found["live_of_ram"] <= 1
        assert len(found["samples"]) == pool.TURNS
        assert bool(found["written"]) == (swap is not None)

    def test_what_is_written_is_at_least_what_is_there(self, library: Path) -> None:
        found = pool.fill(pool.Fill("int32-ids", 4096, 64 * MIB, 24 * MIB, "/var/tmp", str(library)))
        assert found["left"] > 0
        assert found["written_bytes"] > found["compressed_bytes"] > 0

    def test_goals(self) -> None:
        run = {"kind": "text", "page": 4096, "size": MIB, "limit": MIB, "swap": "/var/tmp", "times": 6, "us": 1}
        state = {"pool_bytes": MIB, "live_of_pool": 0.95, "least": 0.5, "moved": 0.1}
        good = {**run, **state, "live_of_ram": 0.9, "written": 1.05}
        bad = {**good, "live_of_ram": 0.8999, "written": 1.051}
        rows = pool.churn_sheet([good, bad]).rows
        assert [(row[5], row[9]) for row in rows] == [("0.900 met", "1.050 met"), ("0.900 missed", "1.051 missed")]
        left = {**run, "left": 9, "compressed_bytes": MIB, "written_bytes": MIB, "ratio": 1.06}
        assert pool.fill_sheet([left]).rows[0][-1] == "1.060 missed"


class TestJobs:
    @pytest.mark.parametrize("part", ["", "-large"])
    def test_three_libraries_give_the_same_answers(self, part: str) -> None:
        """And none of them depends on what another one may have wrong."""
        names = ("pandas", "polars", "duckdb")
        for name in names:
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"needs {name}")
        commands = [jobs.plain(name + part, 20_000) for name in names]
        found = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
        assert len({json.loads(done.stdout)["digest"] for done in found}) == 1

    def test_a_wrong_answer_is_seen_and_one_that_was_not_given_is_none(self) -> None:
        right, other = {"bytes": MIB, "digest": "a"}, {"bytes": MIB, "digest": "b"}
        free = confine.Outcome(confine.FINISHED, 10, 9, 400 * MIB, 0, right)
        killed = confine.Outcome(confine.KILLED, 1, 1, 100 * MIB, 0)
        ours = dataclasses.replace(free, seconds=15, cpu=18, statistics={"faults": 7000, "refaults": 3})
        good = jobs.Tight("pandas", 100 * MIB, "48M", free, killed, ours)
        wrong = dataclasses.replace(good, ours=dataclasses.replace(ours, found=other))
        lost = dataclasses.replace(good, ours=killed)
        assert [(one.wrong, one.lost) for one in (good, wrong, lost)] == [(False, False), (True, True), (False, True)]
        rows = [row[3:12] for row in jobs.tight_sheet([good, wrong, lost]).rows]
        assert rows[0] == ("100 (4.0x)", "killed", "48M", "finished, same", "10", "15", "1.5", "2.0", "7,000")
        assert [row[3] for row in rows[1:]] == ["WRONG", "killed"]
        assert rows[2][6:8] == ("-", "-")

    def test_what_costs_too_much_in_every_round_is_missed(self) -> None:
        def done(seconds: float, digest: str = "a") -> confine.Outcome:
            found = {"seconds": seconds - 0.5, "digest": digest}
            return confine.Outcome(confine.FINISHED, seconds, 2 * seconds, MIB, 0, found)

        plain = [done(1.0), done(1.0)]
        ours = {"slow": [done(1.03), done(1.05)], "noisy": [done(1.5), done(0.99)], "other": [done(1), done(1, "b")]}
        rows = jobs.fits_sheet([jobs.Fits(name, plain, taken) for name, taken in ours.items()]).rows
        assert [row[3].partition(") ")[2] for row in rows] == ["missed", "", "WRONG"]
        assert rows[0][3:6] == ("1.040 (1.030 to 1.050) missed", "1.040 (1.030 to 1.050)", "1.080 (1.060 to 1.100)")

    def test_the_manual_names_all_options_and_jobs(self) -> None:
        manual = README.read_text().partition("# bench.jobs")[2]
        options = {option for action in jobs.options()._actions for option in action.option_strings}
        names = (*tasks.JOBS, *(option for option in options if option.startswith("--") and option != "--help"))
        assert not [name for name in names if not re.search(rf"{name}\b", manual)]

    @pytest.mark.skipif(not ROOT, reason="needs root: makes a memory cgroup")
    @pytest.mark.parametrize(("size", "how"), [(8, confine.FINISHED), (256, confine.KILLED)])
    def test_a_group_holds_an_ordinary_user(self, size: int, how: str) -> None:
        try:
            confine.check()
            hierarchy = cgroup.find()
        except Missing as what:
            pytest.skip(f"needs {what}")
        code = f'import json, os; held = b"1" * ({size} << 20); print(json.dumps({{"user": os.getuid()}}))'
        done = confine.run([sys.executable, "-c", code], hierarchy, 64 * MIB, Path("/var/tmp"), 60 * PATIENCE)
        assert done.how == how, done
        assert done.found == ({"user": confine.NOBODY} if how == confine.FINISHED else {})
        assert done.peak <= 64 * MIB
