"""`python -m bench.replay`: the reclaim policies on synthetic traces, as docs/replay.md shows them, and their speed."""

import statistics
import time
from pathlib import Path

import click
from rich.console import Console

from bench.environment import environment
from bench.traces import TRACES, zipf
from frontswap.policies import Simulation, names, next_uses
from frontswap.replay import Replay, Trace, replay
from frontswap.replay.curves import MEASURE, OPTIMUM, make_policy, parse_sizes
from frontswap.replay.picture import draw

PAGES, RECORDS = 40_000, 800_000
SHOWN = "2%,5%,10%,25%,50%,75%"
SPEED = ((10_000, 4_000_000), (1_000_000, 8_000_000))  # pages and references of zipf, with room for a tenth
ROUNDS = 3
ONLINE = [name for name in names() if name != OPTIMUM]


def hits(found: Replay) -> list[str]:
    """Hits of each policy in percent of the optimum's; in bold where they are fewer than LRU's."""
    lines = []
    for at, size in enumerate(found.sizes):
        cells = []
        for name in ONLINE:
            share = found.share(name)[at]
            cell = "-" if share is None else f"{100 * share:.1f}"
            worse = found.misses[name][at] > found.misses[MEASURE][at]
            cells.append(f"**{cell}**" if worse else cell)
        best = f"{100 - 100 * found.misses[OPTIMUM][at] / found.references:.1f}%"
        lines.append(f"| {found.trace} | {100 * size / found.pages:.3g}% | {' | '.join(cells)} | {best} |")
    return lines


def speed(name: str, pages: int, records: int) -> float:
    """Millions of references in a second of a processor (which others on the machine disturb less), the median."""
    trace = zipf(pages, records)
    uses = next_uses(trace, pages) if name == OPTIMUM else None
    took = []
    for _ in range(ROUNDS):
        room = pages // 10
        simulation = Simulation(make_policy(name, pages, room, uses))
        began = time.thread_time()
        simulation.feed(trace)
        took.append(time.thread_time() - began)
    return records / statistics.median(took) / 1e6


@click.command()
@click.option("--png", type=click.Path(path_type=Path), help="Draw the curves.")
@click.option("--no-speed", is_flag=True, help="Counts only, which are the same everywhere.")
def main(png: Path | None, no_speed: bool) -> None:
    """Print tables in Markdown."""
    out = Console(soft_wrap=True, highlight=False)
    traces = [Trace(name, make(PAGES, RECORDS), PAGES) for name, make in TRACES.items()]
    out.print(f"| trace | room | {' | '.join(ONLINE)} | belady's hits |")
    out.print("| --- |" + " --- |" * (len(ONLINE) + 2))
    for trace in traces:
        for line in hits(replay(trace, names(), parse_sizes(SHOWN, PAGES))):
            out.print(line)
    if png is not None:
        draw([replay(trace, names(), parse_sizes(None, PAGES)) for trace in traces], png)
    if no_speed:
        return
    out.print("\n| policy |" + "".join(f" {pages:,} pages |" for pages, _ in SPEED))
    out.print("| --- |" + " --- |" * len(SPEED))
    for name in names():
        cells = [f"{speed(name, pages, records):.0f}" for pages, records in SPEED]
        out.print(f"| {name} | {' | '.join(cells)} |")
    here = environment(Path.cwd())
    out.print(f"\n{here['date']}, {here['cpu']}, load {here['load before']}, Linux {here['kernel']}")


if __name__ == "__main__":
    main()
