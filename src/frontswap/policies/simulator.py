# cython: annotation_typing=False, infer_types=True
"""A trace through a policy: what is missed, and who leaves. No page is there, only numbers."""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

from ..errors import ParameterError
from .contract import Policy

if not cython.compiled:  # where it is, the .pxd imports them
    from .arrays import octets, words
from .arrays import zeros

NEVER = 0xFFFFFFFF  # of next_uses()


class Simulation:
    """A policy that is fed a trace, and its counts so far.

    ``references``: records that use a page. ``misses``: of them, those whose page was not held. ``cold``: of the
    misses, those that nobody can avoid: the first use of a page, ever or since it was removed. ``evictions``: pages
    that left for others.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.references = 0
        self.misses = 0
        self.cold = 0
        self.evictions = 0
        self.marks = zeros(policy.pages, np.uint8)
        self.seen = octets(self.marks)

    def feed(self, pages: Any, removed: Any = None) -> None:
        """Run the next records. The GIL is free meanwhile; one thread at a time may feed a Simulation.

        ``pages``: an array of page numbers (of any integers; uint32 is not copied). ``removed``: None, or an array of
        bool, true for records in which the page is freed instead of used. ParameterError: a page that the policy does
        not have, arrays that do not fit.
        """
        trace, gone = checked(pages, removed, self.policy.pages)
        count = cython.declare(cython.ulonglong, len(trace))
        if count == 0:
            return
        records = words(trace)
        removals = octets(gone)
        marked = cython.declare(cython.bint, removed is not None)
        with cython.nogil:
            if marked:
                self.run_marked(records, removals, count)
            else:
                self.run(records, count)

    def run(self, trace: Any, count: int) -> None:
        """All records use a page."""
        for i in range(count):
            self.use(trace[i])

    def run_marked(self, trace: Any, removed: Any, count: int) -> None:
        """Some records remove one."""
        for i in range(count):
            if removed[i] == 0:
                self.use(trace[i])
            else:
                self.remove(trace[i])

    def use(self, page: int) -> None:
        """One reference."""
        self.references += 1
        if self.policy.holds(page):
            self.policy.on_hit(page)
            return
        self.misses += 1
        if self.seen[page] == 0:
            self.seen[page] = 1
            self.cold += 1
        while self.policy.count >= self.policy.capacity:  # once, but after resize()
            self.policy.on_victim(page)
            self.evictions += 1
        self.policy.on_insert(page)

    def remove(self, page: int) -> None:
        """A page is freed; its next use is a first one again."""
        self.policy.on_remove(page)
        self.seen[page] = 0


def checked(pages: Any, removed: Any, most: int) -> tuple[Any, Any]:
    """The records as arrays of uint32 and of uint8 (one item where nothing is removed)."""
    trace = np.asarray(pages)
    if trace.ndim != 1 or (trace.dtype.kind not in "ui" and len(trace)):  # of an empty list it is float
        raise ParameterError("pages", f"{trace.ndim} dimensions of {trace.dtype}", "a list of whole numbers")
    if len(trace) and not 0 <= (wrong := trace.min() if trace.min() < 0 else trace.max()) < most:
        raise ParameterError("pages", int(wrong), f"pages from 0 to {most - 1}")
    if removed is None:
        return np.ascontiguousarray(trace, np.uint32), np.zeros(1, np.uint8)
    gone = np.asarray(removed)
    if gone.shape != trace.shape or gone.dtype not in (np.bool_, np.uint8):
        raise ParameterError("removed", f"{gone.shape} of {gone.dtype}", f"{trace.shape} of bool, as pages is")
    return np.ascontiguousarray(trace, np.uint32), np.ascontiguousarray(gone).view(np.uint8)


def next_uses(pages: Any, count: int, removed: Any = None) -> Any:
    """For each reference of a trace, the number of the reference that uses its page next: an array of uint32.

    2**32 - 1: it is not used again, or is removed before. Numbers count references alone, from 0. ``count``: how many
    pages there are; the rest is as in :meth:`Simulation.feed`. At most 2**32 - 2 records: ParameterError.
    """
    trace, gone = checked(pages, removed, count)
    if len(trace) >= NEVER:
        raise ParameterError("pages", len(trace), f"at most {NEVER - 1} records")
    if removed is None:
        gone = np.zeros(len(trace), np.uint8)
    uses = np.empty(len(trace) - np.count_nonzero(gone), np.uint32)
    if len(uses) == 0:
        return uses
    due = np.full(count, NEVER, np.uint32)
    records, removals, when, found = words(trace), octets(gone), words(due), words(uses)
    length = cython.declare(cython.ulonglong, len(trace))
    references = cython.declare(cython.ulonglong, len(uses))
    with cython.nogil:
        look_back(records, removals, when, found, length, references)
    return uses


def look_back(trace: Any, removed: Any, due: Any, uses: Any, count: int, references: int) -> None:
    """``due``: of each page, its next use among the records that were looked at; NEVER in the beginning."""
    for i in range(count):
        page = trace[count - 1 - i]
        if removed[count - 1 - i] != 0:
            due[page] = NEVER
        else:
            references -= 1
            uses[references] = due[page]
            due[page] = references
