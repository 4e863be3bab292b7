"""``frontswap run job.py``: a script whose NumPy arrays come from a Memory. The first form; it will cover more.

So far: arrays that NumPy makes in the main thread, from `threshold` on (NEP 49). Exit code, arguments and tracebacks
are the script's own.
"""

from __future__ import annotations

import os
import runpy
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from ..errors import ParameterError
from ..observe.debugfs import DebugFS
from ..sizes import format_size
from .memory import Memory


def run(
    arguments: list[str],
    *,
    memory: str,
    swap: str | None,
    backends: str,
    module: str | None,
    code: str | None,
    debugfs: Path | None,
    quiet: bool,
) -> None:
    """Run `module`, `code` or the script that `arguments` begin with; what it raises (SystemExit too) goes on.

    Raises:
        ParameterError: nothing to run, or a setting of the Memory that is not allowed.
    """
    if module is None and code is None:
        if not arguments:
            raise ParameterError("job.py", "nothing", "a script, -m MODULE or -c CODE")
        if not Path(arguments[0]).is_file():
            raise ParameterError("job.py", arguments[0], "a script that exists")
    mem = Memory(memory, swap="auto" if swap is None else swap, backends=backends)
    own = os.getpid()  # a forked child that ends by SystemExit comes out here, too
    with ExitStack() as end:
        if not quiet:
            end.callback(lambda: os.getpid() == own and print(summary(mem), file=sys.stderr))
        if debugfs is not None:
            end.enter_context(DebugFS(debugfs))
        end.enter_context(mem)
        if module is not None:
            sys.argv = [module, *arguments]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        elif code is not None:
            sys.argv = ["-c", *arguments]
            sys.path.insert(0, "")
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), main.__dict__)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")


def summary(mem: Memory) -> str:
    """One line on what it was good for."""
    found = mem.statistics()
    ratio = f", {found.compression_ratio:.1f} times smaller in RAM" if found.compression_ratio else ""
    return (
        f"frontswap: limit {format_size(found.limit_bytes)}, {found.refaults:,} pages came back, "
        f"{format_size(found.written_back_bytes)} written to disk{ratio}"
    )
