"""What the kernel's compressed swaps have in common: mkswap, swapon, swapoff, undisturbed by signals."""

import abc
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from bench.missing import Missing

TOOLS = ("mkswap", "swapon", "swapoff")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until what must be done together is done."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


class Swap(abc.ABC):
    """In use as swap only inside the `with` block."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()

    @abc.abstractmethod
    def begin(self, undo: contextlib.ExitStack) -> None:
        """Switch it on; `undo` takes all of it back, also if this fails half-way."""

    def __enter__(self) -> Self:
        with undisturbed(), contextlib.ExitStack() as undo:
            self.begin(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self._undo.close()


def check_tools() -> None:
    """Say which of the tools is missing."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise Missing(f"{tool} (package util-linux or mount)")


def switch_on(where: Path, undo: contextlib.ExitStack) -> None:
    """Make a device or file the swap of highest priority, until `undo` is closed."""
    _tool("mkswap", str(where))
    _tool("swapon", "--priority", "32767", str(where))
    undo.callback(_tool, "swapoff", str(where))


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
