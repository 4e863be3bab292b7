"""What ``frontswap run`` does inside of the program: called when a Python starts, by frontswap_run.pth.

So the program is started by Python as always, and nothing of it can tell: arguments, ``__main__``, tracebacks, signals
and exit status are its own. Python programs that it starts find the same environment and are under frontswap too.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import warnings
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import FrontswapError

if TYPE_CHECKING:
    from .ledger import Ledger
    from .record import Recording
    from .space import Space

VARIABLE = "FRONTSWAP_RUN"
#: the ledgers of runs
FOLDER = Path("/dev/shm")
PREFIX = "frontswap-run-"
_begun: list[bool] = []
_stderr: list[tuple[int, int]] = []  # as _file() had it at the beginning


@dataclass(frozen=True, slots=True)
class Order:
    """What ``frontswap run`` was told, as it goes through the environment."""

    pid: int  #: of the program itself; others are its children
    memory: str
    swap: str
    backends: str
    threshold: str
    page: str
    summary: Literal["line", "json", "none"]
    debugfs: str | None
    record: str | None
    ledger: str  #: the file in which all its processes share `memory`, "": each has it for itself

    def text(self) -> str:
        """For the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Order:
        """From the environment; ValueError, TypeError: that is none."""
        return cls(**json.loads(text))


def new_ledger() -> str:
    """A name for the ledger of a run."""
    return str(FOLDER / f"{PREFIX}{os.getpid()}-{os.urandom(6).hex()}")


def begin(known: Set[str]) -> None:
    """Take over the large allocations of this process. `known`: the modules that Python had before it came here.

    What stands in the way ends the program before it has begun. A child of it goes on without, and says so: it may need
    none.
    """
    if _begun:  # in a virtual environment Python reads .pth files twice
        return
    _begun.append(True)
    there = _file(2)
    if there is not None:
        _stderr.append(there)
    try:
        from .install import install_space
    except ImportError:
        if _is_subinterpreter():
            return
        raise
    try:
        order = Order.of(os.environ[VARIABLE])
    except (ValueError, TypeError) as error:
        _give_up(f"{VARIABLE} in the environment is not what `frontswap run` writes: {error}")
    first = order.pid == os.getpid()
    try:
        _begin(order, first, install_space)
    finally:
        _forget(set(sys.modules) - known)


def _begin(order: Order, first: bool, install_space: Callable[..., Space]) -> None:
    try:
        ledger = _ledger(order)
        with warnings.catch_warnings(record=True) as said:  # a program's own filters, as errors, are not for them
            warnings.simplefilter("always")
            space = install_space(
                order.memory,
                swap=order.swap,
                backends=order.backends,
                threshold=order.threshold,
                page=order.page,
                ledger=ledger,
            )
        notices = [str(one.message) for one in said]
        if first and order.summary == "line":
            for notice in notices:
                _print(notice)
        if first and order.debugfs is not None:
            from ..observe.debugfs import DebugFS

            atexit.register(DebugFS(order.debugfs).close)
        recording = None
        if first and order.record is not None:
            from .record import Recording

            recording = Recording(space, order.record)
    except FrontswapError as error:
        if first:
            _give_up(str(error))
        _print(f"frontswap: process {os.getpid()} goes on without: {error}")
        return
    if first and order.summary != "none":
        atexit.register(_summarize, space, order, notices)
    if recording is not None:
        atexit.register(_end, recording, order, notices)


def _ledger(order: Order) -> Ledger | None:
    """What this process shares with the others of its run; None where there can be none."""
    from .ledger import Ledger
    from .pressure import auto_limit
    from .settings import parse_limit

    if order.pid == os.getpid():
        Ledger.sweep()
    try:
        if order.memory != "auto":
            return Ledger(order.ledger, parse_limit(order.memory))
        return Ledger(order.ledger, 0 if os.path.exists(order.ledger) else auto_limit())
    except OSError:
        return None


def _forget(modules: Set[str]) -> None:
    """Of the modules that were imported here, forget those that the program has in its own folder.

    ``import token`` is the file beside the script then, as without us. What we have imported we keep.
    """
    folder = program_folder(sys.orig_argv)
    if folder is None:
        return
    for name in modules:
        spec = getattr(sys.modules[name], "__spec__", None)
        if "." in name or spec is None or not spec.has_location:  # what is built in comes before any folder
            continue
        own = PathFinder.find_spec(name, [folder])
        if own is not None and own.has_location and own.origin != spec.origin:
            for other in [other for other in sys.modules if other == name or other.startswith(f"{name}.")]:
                del sys.modules[other]


def program_folder(command: list[str]) -> str | None:
    """What Python will put first in sys.path for this command line of its own; None: nothing."""
    if getattr(sys.flags, "safe_path", sys.flags.isolated):
        return None
    words = iter(command[1:])
    for word in words:
        if word in ("-X", "-W", "--check-hash-based-pycs"):
            next(words, None)
        elif word == "-" or word.startswith(("-c", "-m")):
            break
        elif not word.startswith("-"):
            path = os.path.realpath(word)
            return os.path.dirname(path) if os.path.isfile(path) else path
    return os.getcwd()


def _is_subinterpreter() -> bool:
    """True if another interpreter of this process has the core, which is for one only, and has begun."""
    with open("/proc/self/maps") as maps:
        return any("/frontswap/core/heap." in line for line in maps)


def _give_up(why: str) -> None:
    _print(f"frontswap: {why}")
    os._exit(1)


def _file(descriptor: int) -> tuple[int, int] | None:
    """What is open there; None: nothing."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _print(text: str) -> None:
    """To the stderr that the program began with, if that is still there: what it has opened since is not ours.

    Not by sys.stderr: what that cannot write stays in it, and Python ends with status 120.
    """
    if sys.stderr is None or not _stderr or _file(2) != _stderr[0]:
        return
    with suppress(OSError, ValueError):  # nobody reads it: the program's affair
        sys.stderr.flush()
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def _end(recording: Recording, order: Order, notices: list[str]) -> None:
    notice = recording.close()
    if notice:
        notices.append(notice)
        if order.summary == "line":
            _print(f"frontswap: {notice}")


def _summarize(space: Space, order: Order, notices: list[str]) -> None:
    if os.getpid() != order.pid:  # a forked child that ends as its parent does
        return
    from ..observe.view import line

    found = space.statistics()
    if order.summary == "line":
        _print(line(found))
    else:  # one document, with what a person is told at the beginning
        _print(json.dumps({"frontswap": asdict(found), **({"notices": notices} if notices else {})}))


def pth_is_there() -> bool:
    """True if a Python started like this one will find frontswap_run.pth."""
    return any(Path(folder, "frontswap_run.pth").is_file() for folder in sys.path if folder)
