"""``python -m frontswap.testing.hooks_soak``: four threads store, load and invalidate; all else changes under them.

Backends come and go, refuse, are slow, and in every second round lose pages; pressure, shrink, writethrough and stop()
change where pages are. Each page has one writer, any thread reads it: a reader must find a generation that is no older
than what was stored before it began and no newer than what was begun before it ended. At every checkpoint all stand
still, and all pages, the maps, curr_pages, the backends and the pool's bytes must agree; quotas hold all the time. The
first wrong byte ends it with status 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..area import Frontswap, SwapArea
from ..errors import DrainError, PageLostError
from ..hooks import Registered
from .content import Content

THREADS = 4
PAGES = 512
#: what a round may have behind its hooks; none of it loses pages by itself
SPECS = (
    "inject:refuse=20% / zcache:size=4M",
    "latency:deadline=1ms,trips=2,rest=1ms / inject:delay=2ms,virtual=on / checksum / model",
    "active_only / limit:size=1M / model",
    "checksum / inject:refuse=50% / model:most=200",
    "limit:size=512K / zcache:size=8M",
    "checksum / zcache:size=4M,policy=duel",
    "checksum / zcache:size=8M,dedup=on",
    "inject:refuse=20% / zcache:size=4M,policy=s3fifo",
    "null",
)
DAMAGE = {"error": 0.01, "corrupt": 0.01, "short": 0.01}


@dataclass
class Shadow:
    """One area and what is known of its pages. A page's writer is thread `offset % THREADS`.

    Generations count up; every 16th of a page is an invalidation, which reads as zeros.
    """

    area: SwapArea
    content: Content
    begun: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begun = [0] * self.area.pages
        self.done = [0] * self.area.pages


class Soak:
    """Hooks, areas and threads."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.hooks = Frontswap()
        self.shadows = [
            Shadow(self.hooks.swapon(PAGES, page=page, quota=quota, weight=weight), Content(page))
            for page, quota, weight in ((4096, "300K", 1), (8192, None, 3), (65536, "3M", None))
        ]
        self.problems: list[str] = []
        self.operations = [0] * THREADS
        self.errors = [0] * THREADS
        self.damaging = False
        self.stop = threading.Event()
        self.registered: list[Registered] = []
        self.turns = 0

    def wrong(self, text: str) -> None:
        """Note it and end."""
        self.problems.append(text)
        self.stop.set()

    def work(self, thread: int, seed: int) -> None:
        """One thread of one round."""
        rng = random.Random(seed)
        buffers = {shadow.content.words: np.empty(shadow.content.words, np.uint64) for shadow in self.shadows}
        while not self.stop.is_set():
            shadow = rng.choices(self.shadows, (6, 3, 1))[0]
            what = rng.random()
            if what < 0.4:
                self.store(shadow, rng.randrange(shadow.area.pages // THREADS) * THREADS + thread)
            elif what < 0.45:
                start = rng.randrange(shadow.area.pages // THREADS // 2)
                self.store_many(shadow, [(start + i) * THREADS + thread for i in range(rng.randrange(1, 16))])
            else:
                self.load(shadow, rng.randrange(shadow.area.pages), buffers[shadow.content.words], thread)
            self.operations[thread] += 1

    def store(self, shadow: Shadow, offset: int) -> None:
        """The next generation."""
        shadow.begun[offset] += 1
        if shadow.begun[offset] % 16:
            shadow.area.store(offset, shadow.content.page(offset, shadow.begun[offset]))
        else:
            shadow.area.invalidate_page(offset)
        shadow.done[offset] = shadow.begun[offset]

    def store_many(self, shadow: Shadow, offsets: list[int]) -> None:
        """The next generation of some pages."""
        offsets = [offset for offset in offsets if (shadow.begun[offset] + 1) % 16]
        if not offsets:
            return
        for offset in offsets:
            shadow.begun[offset] += 1
        pages = [shadow.content.page(offset, shadow.begun[offset]) for offset in offsets]
        results = shadow.area.store_many(offsets, np.concatenate(pages))
        if (results < 0).any():
            self.wrong(f"store_many: {results}")
        for offset in offsets:
            shadow.done[offset] = shadow.begun[offset]

    def load(self, shadow: Shadow, offset: int, found: npt.NDArray[np.uint64], thread: int) -> None:
        """Any page, against what may be there."""
        least = shadow.done[offset]
        try:
            shadow.area.load(offset, found)
        except PageLostError as error:
            self.errors[thread] += 1
            if not self.damaging:
                self.wrong(f"{shadow.area}, page {offset}: {error}, and nothing was injected")
            return
        most = shadow.begun[offset]
        generation = most // 16 * 16 if not found.any() else shadow.content.generation(offset, found)
        if not least <= generation <= most:
            self.wrong(f"WRONG BYTES: {shadow.area}, page {offset}: generation {generation}, not {least} to {most}")

    def change(self, rng: random.Random) -> None:
        """One change of what is behind the hooks."""
        what = rng.randrange(10)
        if what < 2 and len(self.registered) < 4:
            used = {registered.stack.name for registered in self.registered}
            spec = rng.choice([spec for spec in SPECS if "zcache" not in spec or "zcache" not in used])
            self.registered += self.hooks.register(spec)
        elif what < 4 and self.registered:
            registered = self.registered.pop(rng.randrange(len(self.registered)))
            try:
                self.hooks.unregister(registered, deadline=60)
            except DrainError as error:
                self.wrong(str(error))
        elif what == 4:
            self.hooks.pressure(rng.randrange(4))
        elif what == 5:
            self.hooks.shrink(rng.randrange(PAGES))
        elif what == 6:
            self.hooks.writethrough(rng.random() < 0.3)
        elif what == 7:
            area = rng.choice(self.shadows).area
            area.stop("soak") if rng.random() < 0.3 else area.resume()
        elif what == 8:
            area = rng.choice(self.shadows).area
            area.set_weight(rng.choice((None, 0, 1, 5)))
            area.reclaim(rng.randrange(1 << 20), deadline=1)
        elif self.damaging:
            for registered in self.registered:
                if "checksum / inject" in str(registered.stack):
                    registered.set("inject", **DAMAGE)
        for seen in self.hooks.statistics().areas:
            if not 0 <= seen.pool_bytes <= seen.quota_bytes and seen.quota_bytes >= 0:
                self.wrong(f"quota: {seen}")
        self.turns += 1

    def round(self, number: int, seconds: float) -> None:
        """Let all run, have all stand still, compare."""
        rng = random.Random(self.seed * 1000 + number)
        self.damaging = number % 2 == 1
        self.stop.clear()
        threads = [
            threading.Thread(target=self.guarded, args=(thread, rng.getrandbits(30))) for thread in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stop.is_set():
            self.change(rng)
            time.sleep(rng.random() * 0.02)
        self.stop.set()
        for thread in threads:
            thread.join()
        self.checkpoint()

    def guarded(self, thread: int, seed: int) -> None:
        """A thread that raises ends all."""
        try:
            self.work(thread, seed)
        except BaseException as error:
            self.wrong(f"thread {thread}: {error!r}")
            raise

    def checkpoint(self) -> None:
        """Everything stands still: every page, and who has it."""
        for registered in self.registered:
            if "inject" in str(registered.stack):
                registered.set("inject", error=0, corrupt=0, short=0)
        for shadow in self.shadows:
            found = np.empty(shadow.content.words, np.uint64)
            for offset in range(shadow.area.pages):
                try:
                    shadow.area.load(offset, found)
                except PageLostError as error:
                    if not self.damaging:
                        self.problems.append(f"{shadow.area}, page {offset}: {error}, and nothing was injected")
                    self.store(shadow, offset)
                    continue
                done = shadow.done[offset]
                generation = done // 16 * 16 if not found.any() else shadow.content.generation(offset, found)
                if generation != done:
                    self.problems.append(
                        f"WRONG BYTES at a checkpoint: {shadow.area}, page {offset}: generation {generation}, "
                        f"not {done}"
                    )
        deadline = time.monotonic() + 10
        while len(set(self.counts())) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)  # writeback is on its way
        if len(set(self.counts())) > 1:
            self.problems.append(f"map, areas, backends, curr_pages disagree: {self.counts()}")
        while len(set(self.pool_bytes())) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        if len(set(self.pool_bytes())) > 1:
            self.problems.append(f"bytes in the pool, by segment and by area: {self.pool_bytes()}")

    def pool_bytes(self) -> tuple[int, int]:
        """What lives in the pool of zcache, by whom one asks."""
        found = self.hooks.statistics()
        return found.pool_live_bytes, sum(area.pool_bytes for area in found.areas)

    def counts(self) -> tuple[int, ...]:
        """Pages in backends, by whom one asks."""
        areas = [shadow.area for shadow in self.shadows]
        return (
            sum(int(area.frontswap_map.sum()) for area in areas),
            sum(area.curr_pages() for area in areas),
            sum(stack.curr_pages for stack in self.hooks.backends.statistics()),
            self.hooks.curr_pages(),
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m frontswap.testing.hooks_soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="in all (600)")
    parser.add_argument("--round", type=float, default=5, help="seconds between checkpoints (5)")
    parser.add_argument("--seed", type=int, help="printed, so that a run can be repeated")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 20)
    faulthandler.dump_traceback_later(options.seconds * 3 + 120, exit=True)
    os.environ.setdefault("FRONTSWAP_RECOMPRESS", "eager")
    print(f"hooks soak: {THREADS} threads, {options.seconds:g} s, seed {seed}", flush=True)
    soak = Soak(seed)
    number = 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end and not soak.problems:
        soak.round(number, min(options.round, max(0.1, end - time.monotonic())))
        number += 1
    found = soak.hooks.statistics()
    for problem in soak.problems[:20]:
        print(problem)
    print(
        f"{sum(soak.operations):,} operations, {soak.turns:,} changes, {number} checkpoints; "
        f"{found.succ_stores:,} pages accepted, {found.failed_stores:,} refused, {found.loads:,} loaded from backends, "
        f"{found.slot_loads:,} from slots, {found.poisoned:,} lost on purpose ({sum(soak.errors):,} readers told)"
    )
    soak.hooks.close(force=True)
    faulthandler.cancel_dump_traceback_later()
    print("FAILED" if soak.problems else "passed")
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
