"""``frontswap run --record FILE``: the faults of a program, for ``frontswap replay``."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from ..core.recorder import RECORD, record_begin, record_end
from ..errors import ParameterError
from ..sizes import format_size
from .space import Space, registering

#: faults that there is room for
MOST = 10_000_000


class Recording:
    """The faults of a space, from now until it is closed.

    The file has its whole size from the beginning, and what it needs of the disk. When it is closed it ends with the
    last fault.
    """

    def __init__(self, space: Space, path: str, most: int = MOST) -> None:
        """Begin. ParameterError: the file cannot be made, or there is no room for it."""
        self.path = path
        self._space = space
        self._most = most
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                os.posix_fallocate(fd, 0, most * RECORD)
                self._map = mmap.mmap(fd, most * RECORD)
            except OSError:
                os.ftruncate(fd, 0)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            room = format_size(most * RECORD)
            raise ParameterError("record", path, f"a file for {room} that can be written: {error.strerror}") from error
        self._pid = os.getpid()
        with registering():
            space.plane.register_arena()
        record_begin(space.plane, self._map)

    def close(self) -> str:
        """End it; what there is to say of it, or "". In a forked child it is nobody's."""
        if os.getpid() != self._pid:
            return ""
        faults = record_end(self._space.plane)
        os.truncate(self.path, min(faults, self._most) * RECORD)
        if faults <= self._most:
            return ""
        return f"{Path(self.path).name} has the first {self._most:,} of {faults:,} faults: there is no room for more"
