"""Trees of processes under `frontswap run` whose members are killed, at any moment: the others have their bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from groups import Group, memory_group
from helpers import FRONTSWAP, PATIENCE, MiB, wait_until

from frontswap.memory.ledger import Ledger
from frontswap.memory.startup import FOLDER, PREFIX

CRASHES = Path(__file__).with_name("crashes.py")
BUDGET = 64 * MiB


class Tree:
    """The run, and what its processes have said."""

    def __init__(
        self,
        folder: Path,
        swap: Path,
        depth: int,
        size: int,
        *ways: str,
        memory: str = "64M",
        group: Group | None = None,
    ) -> None:
        self.folder = folder
        before = set(FOLDER.glob(f"{PREFIX}*"))
        command = [FRONTSWAP, "run", "--memory", memory, "--threshold", "1M"]
        command += ["--swap", str(swap), "--quiet", str(CRASHES), str(folder), str(depth), str(size), *ways]
        if group is not None:
            command = ["/bin/sh", "-c", f'echo $$ > {group.path}/cgroup.procs && exec "$@"', "sh", *command]
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            self.root = subprocess.Popen(command, stderr=errors)
        wait_until(lambda: self.said()["right", self.root.pid], "the first turn")
        (path,) = set(FOLDER.glob(f"{PREFIX}*{self.root.pid}*")) - before
        self.ledger = Ledger(str(path), BUDGET)

    def said(self) -> Counter[tuple[str, int]]:
        """How often each process has said a thing."""
        try:
            lines = (self.folder / "log").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return Counter()
        found = Counter((word, int(pid)) for word, pid in map(str.split, lines))
        wrong = [pid for word, pid in found if word == "WRONG"]
        assert not wrong, self.errors.read_text(errors="replace")
        return found

    def refusals(self) -> int:
        """How often there was no room."""
        return sum(times for (word, _), times in self.said().items() if word == "refused")

    def living(self) -> list[int]:
        """The processes of the run."""
        return [line.pid for line in self.ledger.lines()]

    def go_on(self, processes: int) -> None:
        """Until so many processes live and each of them has had two more turns."""
        wait_until(lambda: len(self.living()) >= processes, f"{processes} processes")
        before = self.said()

        def gone_on() -> bool:
            now = self.said()
            return all(now["right", pid] >= before["right", pid] + 2 for pid in self.living())

        wait_until(gone_on, "all go on")

    def end(self) -> None:
        """All end, and nothing is left."""
        (self.folder / "stop").touch()
        self.root.wait(60 * PATIENCE)
        wait_until(lambda: not self.living(), "all have ended")
        self.said()
        self.ledger.remove_if_empty()
        assert not Path(self.ledger.path).exists()


@pytest.mark.parametrize(
    ("depth", "kills", "faults"),
    [
        (1, 4, "auto"),
        pytest.param(2, 40, "auto", marks=[pytest.mark.slow]),
        pytest.param(2, 40, "sigsegv", marks=[pytest.mark.slow]),
    ],
    ids=["small", "large", "protection"],
)
def test_killed_at_any_moment(
    tmp_path: Path, depth: int, kills: int, faults: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRONTSWAP_FAULTS", faults)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    (tmp_path / "swap").mkdir()
    tree = Tree(tmp_path, tmp_path / "swap", depth, 24, "fork", "thread", "exec")
    everybody = (2 << depth) - 1
    try:
        tree.go_on(everybody)
        for turn in range(kills):
            victims = [pid for pid in tree.living() if pid != tree.root.pid]
            if victims:
                os.kill(draw.choice(victims), signal.SIGKILL)
            if turn % 4 == 3:  # else the next one is killed in the middle of what this has set off
                tree.go_on(everybody)
        assert not [*(tmp_path / "swap").iterdir()], "a swap file has a name"
        # The first of all, too: the others see that, and end.
        tree.root.kill()
    finally:
        tree.end()
    assert tree.root.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_disk_without_room_for_all(tmp_path: Path, small_disk: Path) -> None:
    """A fork that cannot be backed is refused, and the parent loses nothing."""
    # A new program that finds no room has no part in the run: see test_run.py.
    tree = Tree(tmp_path, small_disk, 1, 80, "fork", "thread")
    try:
        wait_until(lambda: tree.refusals() > 8, "refusals")
        tree.go_on(1)
    finally:
        tree.end()
    assert tree.root.returncode == 0


@pytest.mark.slow
def test_the_limit_of_a_group_is_lowered_and_raised(tmp_path: Path) -> None:
    """While a tree of 300 MiB goes on in it: its run makes room, and nobody is killed."""
    (tmp_path / "swap").mkdir()
    with memory_group(512 * MiB) as group:
        tree = Tree(tmp_path, tmp_path / "swap", 1, 100, "fork", "exec", memory="auto", group=group)
        try:
            tree.go_on(3)
            for limit in (480, 440, 400, 360):
                # The kernel takes no limit that is in use: what the last one has set off makes room for the next.
                wait_until(lambda limit=limit: group.limit(limit * MiB), f"{limit} MiB")  # type: ignore[misc]
                tree.go_on(3)
            # 128 MiB stay free. What the tree has outside of its run, 40 to 110 MiB, changes with every fork.
            low = (360 - 128) * MiB
            wait_until(lambda: tree.ledger.budget < low, "it has become smaller")
            group.limit(512 * MiB)
            wait_until(lambda: tree.ledger.budget > low + 24 * MiB, "it grows again")
            tree.go_on(3)
        finally:
            tree.end()
        assert tree.root.returncode == 0
        assert group.kills == 0
