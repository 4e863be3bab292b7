"""``frontswap run job.py``: the program in the place of this process, with its large allocations in a space.

The space is made by the program's own Python as it starts (startup), which says what it cannot be made of, too: checked
here, it would take the start a fifth longer. So would what is imported here: no more than this and click.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, NoReturn

from ..errors import KernelSupportError, ParameterError
from .startup import VARIABLE, Order, new_ledger, pth_is_there


def run(
    arguments: list[str],
    *,
    memory: str,
    swap: str | None,
    backends: str,
    threshold: str,
    page: str,
    module: str | None,
    code: str | None,
    debugfs: Path | None,
    record: Path | None,
    summary: Literal["line", "json", "none"],
) -> NoReturn:
    """Become Python with `module`, `code` or the script that `arguments` begin with.

    Raises:
        ParameterError: nothing to run, or a setting that is not allowed.
        KernelSupportError: this Python will not find frontswap when it starts.
    """
    if module is None and code is None:
        if not arguments:
            raise ParameterError("job.py", "nothing", "a script, -m MODULE or -c CODE")
        if arguments[0] != "-" and not Path(arguments[0]).exists():
            raise ParameterError("job.py", arguments[0], "a script that exists")
    # Its children may start in other directories.
    swap = "auto" if swap in (None, "auto") else str(Path(swap).absolute())
    if not pth_is_there():
        raise KernelSupportError(
            0, f"frontswap_run.pth is not beside the packages of {sys.executable}: pip install frontswap there"
        )
    order = Order(
        os.getpid(),
        memory,
        swap,
        backends,
        threshold,
        page,
        summary,
        None if debugfs is None else str(debugfs.absolute()),
        None if record is None else str(record.absolute()),
        new_ledger(),
    )
    what = ["-m", module] if module is not None else ["-c", code] if code is not None else []
    command = [sys.executable, *subprocess._args_from_interpreter_flags(), *what, *arguments]  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed
            stream.flush()
    os.execve(sys.executable, command, {**os.environ, VARIABLE: order.text()})
