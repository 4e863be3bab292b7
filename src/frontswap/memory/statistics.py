"""What a Memory has done and holds, at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the Memory was made, and gauges. Counters with kernel names count pages (mm/frontswap.c).

    Pages of different arrays may have different sizes; what ends in ``_bytes`` is bytes.
    """

    registered: bool  #: faults come to frontswap; False as long as all that was allocated fits in the limit
    # gauges
    limit_bytes: int  #: RAM that the arrays may use: resident + pool + reserve
    reserve_bytes: int  #: part of the limit set aside for fault contexts, the record log's own work, and recompression
    allocated_bytes: int  #: size of all live arrays, in whole pages
    resident_bytes: int  #: pages that are mapped now; as the kernel counts them until `registered`
    pinned_bytes: int  #: the part of them that is pinned
    pool_bytes: int  #: compressed pages in RAM as held, with headers and dead space
    pool_live_bytes: int  #: the part of pool_bytes that a page still needs
    stored_bytes: int  #: the pages in the pool, uncompressed
    swapped_bytes: int  #: records in the swap file
    swap_buffer_bytes: int  #: refused pages on their way to the swap file (inside the reserve)
    swap_reserved_bytes: int  #: size of the swap file
    frontswap_pages: (
        int  #: pages that backends have (frontswap_curr_pages), those in zcache's written-back segments too
    )
    used_bytes: int  #: what is charged to the limit beside the reserve: resident + pool, and pages on their way
    pressure_level: int  #: how short memory is, for zcache: 0 not at all, 1 low, 2 medium, 3 critical

    # counters
    faults: int  #: faults handled, protection faults included; none before `registered`
    refaults: int  #: faults and readaheads that brought a page back
    first_touches: int  #: pages used for the first time, since `registered`
    write_upgrades: int  #: writes to clean pages: their record was dropped
    loads: int  #: pages loaded from a backend
    succ_stores: int  #: pages that a backend accepted
    failed_stores: int  #: stores that a backend refused
    invalidates: int  #: records dropped because the page was written or freed
    reject_refused: int  #: refused by a backend without a reason
    reject_incompressible: int  #: refused by zcache: does not shrink
    reject_pool_full: int  #: refused by zcache: the pool is full and cannot be written back
    reject_limit: int  #: refused by the filter limit
    reject_inactive: int  #: refused by the filter active_only
    reject_slow: int  #: refused by the filter latency
    reject_pressure: int  #: refused because memory is short
    reject_stopped: int  #: refused because a backend is on its way out
    reject_injected: int  #: refused by the filter inject
    reject_error: int  #: refused because a backend raised (none behind the memory door)
    reject_quota: int  #: refused by an area's quota or share (none behind the memory door)
    same_filled_pages: int  #: stores of pages filled with one word: they take no room
    slot_stores: int  #: refused pages written to their slot
    slot_loads: int  #: pages loaded from the swap file
    slot_errors: int  #: reads and writes of the swap file that failed
    written_back_bytes: int  #: written to the swap file, compressed
    write_budget_left: int  #: bytes that may be written to it in this period yet; -1: no budget, see zcache
    cleaned_bytes: int  #: records moved to win dead space back
    recompressed_pages: int  #: cold records that were packed anew by zstd
    recompressed_saved_bytes: int  #: by how much they became smaller
    evicted_clean: int  #: pages evicted without compression: their record was still good
    evicted_dirty: int  #: pages evicted through the hooks
    evicted_huge: int  #: huge pages that left in one piece (each is many of evicted_dirty, or of evicted_clean)
    loaded_huge: int  #: huge pages that came back in one piece (each is many of refaults)
    splits: int  #: pages that have been split: their parts, of 4 KiB, come and go alone
    collapses: int  #: and that have become whole again
    direct_reclaims: int  #: faults that had to evict first
    readaheads: int  #: pages brought in before they were asked for
    busy_pages: int  #: evictions refused by the kernel: the page was in use (pinned for I/O)
    overshoots: int  #: charges above the limit because nothing could leave
    brakes: int  #: times that the limit was lowered at once, without waiting for Python: see docs/pressure.md
    poisoned: int  #: pages lost: their record could not be read or did not verify

    @property
    def compression_ratio(self) -> float:
        """Uncompressed over compressed size of what the pool holds, all overhead counted; 0.0 when empty."""
        return self.stored_bytes / self.pool_bytes if self.pool_bytes else 0.0
