"""What swap areas, and the hooks in front of them, count."""

from __future__ import annotations

from dataclasses import dataclass

from .hooks import StackStatistics


@dataclass(frozen=True, slots=True)
class AreaStatistics:
    """What has happened to one area. Counters count pages and mean what they mean in mm/frontswap.c."""

    type: int
    page: int  #: bytes
    pages: int
    curr_pages: int  #: pages that backends have: bits of the map
    loads: int  #: pages that backends gave
    succ_stores: int
    failed_stores: int  #: stores that every backend refused
    invalidates: int
    slot_stores: int
    slot_loads: int
    poisoned: int  #: pages lost
    written_back_pages: int  #: pages that zcache had taken and has written to their slots since, to make room
    pool_bytes: int  #: of zcache's pool that its pages take: their records, with headers
    quota_bytes: int  #: of it that they may take at most; -1: there is no quota
    weight: int  #: of its share when the pool is full


@dataclass(frozen=True, slots=True)
class HooksStatistics:
    """All areas and all backends behind one set of hooks, at one moment."""

    loads: int
    succ_stores: int
    failed_stores: int
    invalidates: int
    curr_pages: int
    slot_stores: int
    slot_loads: int
    slot_errors: int
    poisoned: int
    refusals: dict[str, int]  #: pages refused, by reason; one page may be refused by several backends
    pool_bytes: int  #: RAM that zcache takes
    pool_live_bytes: int  #: of it what pages take; the rest is dead until the cleaner moves what is beside it
    pool_limit_bytes: int
    staged_bytes: int  #: of what pages take, those that zcache has as they are: it packs them later, or could not
    packed_later_pages: int  #: pages that it took so, and has packed since
    pages_sharing: int  #: pages whose record in zcache has been made with the bytes of another one's (dedup=on)
    recompressed_pages: int  #: records of zcache that were packed anew: by zstd, or by a codec that suits them
    recompressed_saved_bytes: int  #: by how much they became smaller
    areas: tuple[AreaStatistics, ...]
    backends: tuple[StackStatistics, ...]
