"""A tree of processes, for test_crash.py: ``frontswap run crashes.py FOLDER DEPTH MIB WAY...``.

Each knows every byte of an array of MIB MiB, more than its share of the budget, changes all of them again and again,
and writes to FOLDER/log what it has found: "right", or "WRONG". It has two children, made by "fork", by the fork of
another "thread", or by "exec", and makes another one for each that dies; where there is no room for it ("refused") it
goes on without, and tries again. All end when there is a file FOLDER/stop, and each that is orphaned.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import threading
import traceback
from pathlib import Path

import numpy as np

FOLDER = Path(sys.argv[1])
#: words of a row, which all have the same bytes, 1 MiB of them
ROW = 1 << 17
ROWS = int(sys.argv[3])
WAYS = sys.argv[4:]
PATTERN = np.random.default_rng(5).integers(0, 1 << 62, ROW, dtype=np.uint64)


def say(word: str) -> None:
    """A line is written in one piece."""
    fd = os.open(FOLDER / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{word} {os.getpid()}\n".encode())
    os.close(fd)


class Node:
    """A process of the tree."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.array = np.tile(PATTERN, ROWS).reshape(ROWS, ROW)
        self.turn = 0
        self.children: list[int] = []

    def check(self) -> None:
        """Look at every byte, and change it."""
        for number, row in enumerate(self.array):
            wrong = np.flatnonzero(row != PATTERN + np.uint64(self.turn))
            assert not len(wrong), f"{len(wrong)} words of a row, the first at {wrong[0]}: {row[wrong[0]]:x}"
            self.array[number] += np.uint64(1)
        self.turn += 1
        say("right")

    def fork(self) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            say("refused")
            return
        if pid:
            self.children.append(pid)
            return
        self.depth -= 1
        self.children.clear()
        self.live()

    def more(self) -> None:
        """Another child."""
        way = random.choice(WAYS)
        if way == "exec":
            command = [sys.executable, __file__, str(FOLDER), str(self.depth - 1), str(ROWS), *WAYS]
            self.children.append(os.posix_spawn(sys.executable, command, os.environ))
        elif way == "thread":
            thread = threading.Thread(target=self.fork)
            thread.start()
            thread.join()
        else:
            self.fork()

    def live(self) -> None:
        """Until the end."""
        random.seed()
        parent = os.getppid()
        try:
            while not (FOLDER / "stop").exists() and os.getppid() == parent:
                for _ in range(2 * bool(self.depth) - len(self.children)):
                    self.more()
                self.check()
                self.children = [pid for pid in self.children if os.waitpid(pid, os.WNOHANG)[0] == 0]
            for pid in self.children:
                os.waitpid(pid, 0)
        except BaseException:
            say("WRONG")
            traceback.print_exc()
            os._exit(3)
        os._exit(0)


if __name__ == "__main__":
    try:
        node = Node(int(sys.argv[2]))
    except MemoryError:
        say("refused")
        sys.exit(0)
    node.live()
