"""``%load_ext frontswap``: large objects of a notebook may be larger than RAM, and a line says how it goes.

``%frontswap`` shows the state. Who wants another limit than "auto" calls ``frontswap.install("4G")`` before.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from .memory.install import install, installed
from .observe.view import line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .memory.memory import Memory

#: seconds: a cell that is over by then shows nothing while it runs, and how often the line changes
PERIOD = 0.5


class Status:
    """A line below a cell in which pages move, kept up to date while it runs."""

    def __init__(self, memory: Memory, shell: InteractiveShell) -> None:
        self.memory = memory
        # A terminal has no place to change: there it is a line at the end.
        self.live = hasattr(shell, "kernel")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._before = 0
        self._handle: Any = None

    def begin(self, *_: object) -> None:
        """pre_run_cell."""
        self.end()
        self._before = self._moves()
        self._handle = None
        if self.live:
            self._stop.clear()
            self._thread = threading.Thread(target=self._follow, name="frontswap-status", daemon=True)
            self._thread.start()

    def end(self, *_: object) -> None:
        """post_run_cell."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            if self._moves() != self._before:
                self._show()
        elif not self.live and self._moves() != self._before:
            print(line(self.memory.statistics()))
            self._before = self._moves()

    def _moves(self) -> int:
        found = self.memory.statistics()
        return found.evicted_clean + found.evicted_dirty + found.refaults

    def _follow(self) -> None:
        while not self._stop.wait(PERIOD):
            if self._moves() != self._before:
                self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        text = HTML(  # type: ignore[no-untyped-call]
            f'<small style="opacity:.7">{line(self.memory.statistics())}</small>'
        )
        if self._handle is None:
            self._handle = display(text, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(text)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """IPython calls it for ``%load_ext frontswap``: :func:`frontswap.install`, if nobody has, and a status line."""
    memory = installed() or install()
    status = Status(memory, shell)
    shell.events.register("pre_run_cell", status.begin)
    shell.events.register("post_run_cell", status.end)

    def frontswap(_: str) -> Memory:
        """Show the Memory that large objects of this notebook are in."""
        return memory

    shell.register_magic_function(frontswap, "line", "frontswap")  # type: ignore[arg-type]
