"""Exports whose clients have gone give their RAM back: their pages leave the pool for their bases.

They are not dropped. A client that comes back (QEMU does, with reconnect-delay) finds every byte; it could not be told
that they had gone, for NBD's handshake has no words for it, and it would take zeros for what it had written.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from ..errors import ClosedError
from .base import RamBase
from .exports import Export, Exports

#: seconds after which it is looked whether a client has come back
STEP = 0.2
_log = logging.getLogger("frontswap.serve")


class Idle:
    """A thread that looks after exports without clients, from `start` to `stop`."""

    def __init__(self, exports: Exports, seconds: float) -> None:
        """An export is idle when no client has had it for so long. RAM in the place of a base stays as it is."""
        self._seconds = seconds
        self._exports = exports
        self._done: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="frontswap-idle", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, max(0.01, self._seconds / 4))):
            for export in self._exports.values():
                if isinstance(export.base, RamBase) or not self._is_idle(export):
                    continue
                if self._done.get(export.name) != export.left:
                    with suppress(ClosedError):  # removed meanwhile
                        self._reclaim(export)

    def _is_idle(self, export: Export) -> bool:
        return export.clients == 0 and export.idle_for >= self._seconds and not self._stop.is_set()

    def _reclaim(self, export: Export) -> None:
        left, before = export.left, -1
        held = export.area.statistics().pool_bytes
        while held not in (0, before) and self._is_idle(export):
            before = held
            held = export.area.reclaim(deadline=STEP)
        if held == 0 or self._is_idle(export):
            self._done[export.name] = left
            if held:
                _log.warning("export %r has no clients; %d bytes of it cannot leave for its base", export.name, held)
