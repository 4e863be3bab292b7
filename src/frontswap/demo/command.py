"""The command from its options to its exit status."""

import time
from pathlib import Path

from rich.console import Console

from ..extras import check_picture
from .meter import PeakRss
from .picture import draw
from .run import run
from .screen import Screen


def demonstrate(limit: str | None, size: float, swap: str | None, out: Path) -> int:
    """Run, draw and show; 1 if a result is wrong."""
    began = time.perf_counter()
    check_picture(out, "out", "demo")
    screen = Screen(Console())
    peak = PeakRss()
    report = run(screen.watch, limit=limit, size=size, swap=swap)
    draw(report, out)
    rss = peak.read(max(sample.rss for sample in report.samples))
    screen.show(report, rss, out, time.perf_counter() - began)
    return 0 if report.passed else 1
