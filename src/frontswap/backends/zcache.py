"""``zcache``: compressed RAM.

Refuses what does not shrink by a sixteenth, and everything when memory is critically short. What is above its size
leaves for the slots, coldest first. Source: drivers/staging/zcache (2011-12) and its heirs, zswap and zram.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..core import codec
from ..core.native import Native, make_zcache
from ..errors import ParameterError
from ..sizes import format_size
from ..times import parse_duration
from .layers import Bytes, Duration, Layer, Switch, choice, setting, size, switch

if TYPE_CHECKING:
    from ..policies import Policy

AGE = "age"
#: for tests: recompress=zstd does not wait for cold pages or an idle processor
HOW = {"idle": 1, "eager": 2}
SMALLEST = 4 << 20
LARGEST = 1 << 44
_KINDS = {
    "auto": -1,
    "lz4": codec.LZ4,
    "shuffle": codec.SHUFFLE,
    "bitshuffle": codec.BITSHUFFLE,
    "decimals": codec.DECIMALS,
    "sparse": codec.SPARSE,
}


def _size(value: int | str, parameter: str) -> int:
    if value in ("auto", 0):
        return 0
    found = size(value, parameter)
    if not SMALLEST <= found <= LARGEST:
        raise ParameterError(parameter, value, f'"auto" or {format_size(SMALLEST)} to {format_size(LARGEST)}')
    return found


def _staging(value: int | str, parameter: str) -> int | str:
    return value if value == "auto" else 0 if value in ("off", 0) else size(value, parameter)


def _policy(value: str, parameter: str) -> str:
    if value == AGE:
        return value
    from ..policies import names  # with NumPy, which the package does without until it is asked for

    found: str = choice(AGE, *(name for name in names() if name != "belady"))(value, parameter)
    return found


def _budget(value: int | str, parameter: str) -> int:
    return 0 if value in ("off", 0) else size(value, parameter)


def _period(value: float | str, parameter: str) -> int:
    found = parse_duration(value, parameter)
    if found < 10**9:
        raise ParameterError(parameter, value, "a second or more, up to 365 days")
    return found


@dataclass(frozen=True)
class Zcache(Layer):
    """Compressed RAM in front of the slots.

    Args:
        codec: "auto" chooses by sampling; or one of the codecs for all pages: "lz4", "shuffle", "bitshuffle",
            "decimals" (float64 only), "sparse" (elements of 4 or 8 bytes).
        size: bytes of RAM that the pool may take, all overhead counted. "auto": in a Memory three quarters of its
            limit, in front of swap areas a fifth of the machine's memory, as zswap's default.
        recompress: "zstd" packs what has been cold for long anew, more densely, when a processor is idle and the pool
            is more than half full, or when it has been there for half a minute; "off" does not.
        staging: in front of swap areas, bytes of the pool that pages may take as they are: while it is less than half
            full, pages are taken without compressing them, and packed when a processor is idle. "auto": a quarter of
            `size`; "off": each page is compressed when it is stored. Not without `recompress`.
        dedup: in front of swap areas, "on" has identical pages of all areas share one record, once they have been cold
            for some seconds; what one area's user measures may then tell what another one has. Pages of up to 8 KiB.
            Not without `recompress`.
        write_budget: bytes that a Memory may write to its swap file in each `write_period`; "off": as many as it takes.
            When it has been spent, compressed pages may take nearly all of the limit; what does not fit then is written
            all the same.
        write_period: a duration from 1 s on.
        policy: which page leaves when the pool is full, by the name of a class of frontswap.policies. "age": the pages
            of the oldest segment, behind the memory door of the coldest one. Others not under `frontswap run`, nor
            without a swap file.
    """

    name: ClassVar[str] = "zcache"

    codec: str = setting("auto", choice(*_KINDS))
    size: Bytes = setting("auto", _size)
    recompress: str = setting("zstd", choice("zstd", "off"))
    staging: Bytes = setting("auto", _staging)
    dedup: Switch = setting(False, switch)
    write_budget: Bytes = setting("off", _budget)
    write_period: Duration = setting("24h", _period)
    policy: str = setting(AGE, _policy)

    @property
    def codec_kind(self) -> int:
        """The number of the codec, -1 for "auto"."""
        return _KINDS[self.codec]

    @property
    def recompress_how(self) -> int:
        """0: not at all, 1: when a processor is idle, 2: at once (FRONTSWAP_RECOMPRESS=eager)."""
        how = os.environ.get("FRONTSWAP_RECOMPRESS", "idle")
        if how not in HOW:
            raise ParameterError("FRONTSWAP_RECOMPRESS", how, " or ".join(HOW))
        return HOW[how] if self.recompress == "zstd" else 0

    @property
    def area_size(self) -> int:
        """Bytes of the pool in front of swap areas."""
        return int(self.size) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 5

    @property
    def staging_bytes(self) -> int:
        """Bytes that pages may take as they are, in front of swap areas."""
        return self.area_size // 4 if self.staging == "auto" else int(self.staging)

    @property
    def make_policy(self) -> Callable[[int], Policy] | None:
        """What makes its policy, for so many pages; None for "age"."""
        if self.policy == AGE:
            return None
        from ..policies import find

        # Until the first record says how many fit, they are taken for halves of pages of 4 KiB.
        return lambda pages: find(self.policy)(pages, min(pages, self.area_size // 2048))

    def check_for_memory(self, *, process: bool, swap: bool) -> None:
        """ParameterError for a policy that cannot work behind the memory door: a whole process, no swap file."""
        if self.policy == AGE:
            return
        if process:
            raise ParameterError(
                "zcache:policy",
                self.policy,
                f'"{AGE}" where all of a process is behind the memory door: a policy is an object of Python, which '
                "must not lie there itself; others can serve a Memory, and swap areas (frontswap.Frontswap)",
            )
        if not swap:
            raise ParameterError("zcache:policy", self.policy, f'"{AGE}" without a swap file: no page can leave')

    @property
    def segment(self) -> int:
        """Bytes of a segment in front of swap areas: a largest page must fit, and the pool needs some of them."""
        return max(256 << 10, min((2 << 20) + 8192, self.area_size // 32 // 4096 * 4096))

    def native(self) -> Native:
        """A new one."""
        return make_zcache()
