"""The view that scripts for the kernel's frontswap know: ``/sys/kernel/debug/frontswap/``.

Four files, each a number and a newline: ``loads``, ``succ_stores``, ``failed_stores``, ``invalidates``, with the
meaning of mm/frontswap.c, summed over all Memories and all swap areas of a process, as the kernel's are over all swap
areas of a machine. What the kernel never had (areas, backends, reasons) lies beside them in ``.statistics.json``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ClosedError, ParameterError
from ..memory.space import living_spaces

NAMES = ("loads", "succ_stores", "failed_stores", "invalidates")
DETAILS = ".statistics.json"
#: changes of a limit that follows, the last ones
STEPS = 16


def process_statistics() -> dict[str, Any]:
    """All Memories and all hooks of this process: the kernel's four counters, and each by itself."""
    memories, hooks = [], []
    for space in living_spaces():
        try:
            memories.append(
                {
                    **asdict(space.statistics()),
                    "backends": [asdict(s) for s in space.backends.statistics()],
                    "steps": [asdict(step) for step in tuple(space.steps)[-STEPS:]],
                }
            )
        except ClosedError:  # it closes at this moment
            continue
    # not imported for this: it imports NumPy, and where nobody has there are none
    area = sys.modules.get(f"{__package__.rpartition('.')[0]}.area")
    for frontswap in area.living_hooks() if area else ():
        try:
            hooks.append(asdict(frontswap.statistics()))
        except ClosedError:
            continue
    totals = {name: sum(found[name] for found in [*memories, *hooks]) for name in NAMES}
    return {"pid": os.getpid(), **totals, "memories": memories, "hooks": hooks}


class DebugFS:
    """Keeps the files in a directory up to date, until it is closed. Use it as a context manager.

    Counters of what has been closed meanwhile stay in the sums: they never go down.
    """

    def __init__(self, directory: str | os.PathLike[str], *, every: float = 1.0) -> None:
        """Make the directory if it is missing and write the files once.

        Args:
            directory: its last part is made, its parents are not.
            every: seconds between two updates.

        Raises:
            ParameterError: the directory cannot be made or written, or `every` is no time.
        """
        if not isinstance(every, int | float) or not 0.01 <= every <= 3600:
            raise ParameterError("every", every, "0.01 to 3600 seconds")
        self.directory = Path(directory)
        self._every = every
        self._most = dict.fromkeys(NAMES, 0)
        self._stop = threading.Event()
        try:
            self.directory.mkdir(exist_ok=True)
            self.update()
        except OSError as error:
            raise ParameterError("debugfs", str(directory), f"a directory that can be written ({error})") from error
        self._thread = threading.Thread(target=self._run, name="frontswap-debugfs", daemon=True)
        self._thread.start()

    def update(self) -> None:
        """Write the files now. Each is replaced whole: a reader never sees half a number."""
        found = process_statistics()
        for name in NAMES:
            self._most[name] = found[name] = max(found[name], self._most[name])
            self._write(name, f"{found[name]}\n")
        self._write(DETAILS, json.dumps(found))

    def _write(self, name: str, text: str) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.directory, prefix=".new-", delete=False) as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, self.directory / name)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.update()
            except OSError:  # a full disk, or somebody has removed the directory: the next time, perhaps
                continue

    def close(self) -> None:
        """Write the files a last time and leave them there."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.update()

    def __enter__(self) -> DebugFS:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def default_directory() -> Path:
    """FRONTSWAP_DEBUGFS, where ``frontswap run --debugfs`` and ``frontswap stats`` meet; else one of this user's."""
    named = os.environ.get("FRONTSWAP_DEBUGFS")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"frontswap-{os.getuid()}"


def read(directory: Path) -> dict[str, Any]:
    """What a process keeps in a directory.

    Raises:
        ParameterError: there is nothing of ours.
    """
    try:
        found: dict[str, Any] = json.loads((directory / DETAILS).read_text())
    except (OSError, ValueError) as error:
        raise ParameterError(
            "DIR", str(directory), f"a directory that `frontswap run --debugfs DIR` keeps up to date ({error})"
        ) from error
    return found
