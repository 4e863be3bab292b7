"""The order in which segments of the record log leave RAM: the pool's by age, those of refused pages as they fill."""

import cython
from cython.cimports.frontswap.core.layout import STREAM_SLOT, segment_p


def link(pg, number, older):
    """Put a segment into the list behind `older`, 0: as the oldest. The caller holds log_lock."""
    s: segment_p = cython.address(pg.segments[number])
    s.older = older
    s.newer = pg.segments[older].newer if older else pg.oldest
    if s.newer:
        pg.segments[s.newer].older = number
    else:
        pg.newest = number
    if older:
        pg.segments[older].newer = number
    else:
        pg.oldest = number


def age_append(pg, number):
    """Make a sealed segment the youngest of its stream. The caller holds log_lock."""
    if pg.segments[number].stream == STREAM_SLOT:
        pg.full_slots[1 if pg.full_slots[0] else 0] = number
    else:
        link(pg, number, pg.newest)


def age_prepend(pg, number):
    """Put a segment back as the oldest: a try to write it out failed. The caller holds log_lock."""
    if pg.segments[number].stream == STREAM_SLOT:
        pg.full_slots[1] = pg.full_slots[0]
        pg.full_slots[0] = number
    else:
        link(pg, number, 0)


def age_insert(pg, number):
    """Make a sealed segment of recompressed records the youngest of them, older than all others: they were the coldest
    before, and are so still. The caller holds log_lock.
    """
    link(pg, number, pg.dense_end)
    pg.dense_end = number


def full_remove(pg, number):
    """A full segment of STREAM_SLOT is taken or gone. The caller holds log_lock."""
    if pg.full_slots[0] == number:
        pg.full_slots[0] = pg.full_slots[1]
        pg.full_slots[1] = 0
    elif pg.full_slots[1] == number:
        pg.full_slots[1] = 0


def age_remove(pg, number):
    """Take a sealed segment out of the age list. The caller holds log_lock."""
    s: segment_p = cython.address(pg.segments[number])
    if s.stream == STREAM_SLOT:
        full_remove(pg, number)
        return
    if pg.dense_end == number:
        pg.dense_end = s.older
    if s.older:
        pg.segments[s.older].newer = s.newer
    else:
        pg.oldest = s.newer
    if s.newer:
        pg.segments[s.newer].older = s.older
    else:
        pg.newest = s.older
    s.older = s.newer = 0
