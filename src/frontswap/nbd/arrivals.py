"""Who comes to sockets that listen, until it is told to stop."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar


class Listening(Protocol):
    """A socket, or what has one."""

    def fileno(self) -> int:
        """Its descriptor."""


Listener = TypeVar("Listener", bound=Listening)


def arrivals(listeners: Sequence[Listener], stop: int) -> Iterator[Listener]:
    """Those of `listeners` where somebody waits to be let in, until the descriptor `stop` becomes readable."""
    poll = select.poll()
    poll.register(stop, select.POLLIN)
    by_number = {one.fileno(): one for one in listeners}
    for number in by_number:
        poll.register(number, select.POLLIN)
    while True:
        ready = [number for number, _ in poll.poll()]
        if stop in ready:
            return
        yield from (by_number[number] for number in ready)
