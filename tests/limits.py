"""A process in a made-up cgroup, whose limit follows."""

from __future__ import annotations

from pathlib import Path

from conftest import NewMemory
from helpers import Clock, MiB
from tree import Tree

from frontswap.memory.pressure import Follower, auto_limit
from frontswap.memory.steps import Step


class Job:
    """A process of 100 MiB in a cgroup (v2) of 512 MiB, where neighbours use 50 more, and its Memory."""

    def __init__(self, root: Path, new_memory: NewMemory) -> None:
        self.tree = Tree(root)
        self.tree.cgroup2("/job")
        self.tree.group("/job", max=512 * MiB, high="max", current=0)
        self.neighbours(50 * MiB)
        self.memory = new_memory(auto_limit(self.tree.machine))
        self.clock = Clock()
        self.follower = Follower(self.memory._space, self.tree.machine, self.clock)

    def neighbours(self, used: int, own: int = 100 * MiB, cache: int = 0) -> None:
        """What is used in the group: by others, by this process beside its arrays, and by files."""
        self.tree.write("/proc/self/status", f"RssAnon:\t{own >> 10} kB\n")
        self.tree.group("/job", current=own + used + cache, stat=f"anon {own + used}\ninactive_file {cache}")

    def wait(self, total: int) -> None:
        """PSI: so many microseconds of waiting until now."""
        self.tree.group(
            "/job",
            pressure=f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0",
        )

    def tick(self, seconds: float = 0.1) -> Step:
        self.clock.now += seconds
        step = self.follower.tick()
        assert step is not None
        assert step == self.follower.last
        assert step.limit == self.memory.limit == self.memory.statistics().limit_bytes
        return step
