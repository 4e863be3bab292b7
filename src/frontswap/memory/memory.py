"""Memory: NumPy arrays that may be larger than the RAM they use."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from .. import causes
from ..backends.stack import Spec
from ..core.allocator import Allocator
from ..core.plane import REFUSED_ADDRESSES, REFUSED_ALLOCATION, REFUSED_REGISTRATION
from ..errors import DtypeError, OutOfMemoryError, ParameterError, PinError
from ..observe.view import html
from ..sizes import format_size
from .settings import Settings
from .space import Space, registering
from .statistics import Statistics
from .steps import Step

Array = npt.NDArray[Any]
Shape = SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex]
Order = Literal["C", "F"]
LikeOrder = Literal["C", "F", "A", "K"]
Advice = Literal["willneed", "dontneed", "cold", "sequential", "random", "normal"]


class Memory:
    """RAM with a limit, compressed memory and a swap file behind it, for NumPy arrays.

    Resident pages, compressed pages and everything the Memory needs for its own work stay within
    ``limit``; the rest is in the swap file, compressed. Arrays are plain ``numpy.ndarray``s. As long as all of them
    fit in the limit they are ordinary memory, with huge pages where NumPy uses them, and nothing costs anything.

    Threads may use one Memory and its arrays at the same time. A forked child has them as they were at the
    fork, and a limit of its own; what it had to be given was reserved before, or the fork failed (ENOMEM).
    System calls on arrays go by way of a buffer; docs/processes.md says which, and what to :meth:`pin`.
    """

    def __init__(
        self,
        limit: int | str,
        *,
        swap: str | os.PathLike[str] | None = "auto",
        page: int | str = "auto",
        backends: Spec = "zcache",
        allocate: int | str | None = None,
        arena: int | str = "1T",
        overcommit: bool = False,
        threshold: int | str = "1M",
    ) -> None:
        """Make a Memory.

        Args:
            limit: bytes of RAM for its arrays, resident and compressed together; at least 16 MiB.
            swap: directory (or new file) for the swap file; "auto": TMPDIR or /var/tmp; None: no disk.
            page: unit of eviction, 4096 to 2 MiB and a power of two; "auto": by the size of each array, and then by how
                it is used: what is read at random gets pages of 4 KiB.
                A page of 2 MiB needs a limit of 256 MiB or more, smaller ones in proportion.
                Where userfaultfd is forbidden, a large limit has larger pages (docs/design.md, "Without userfaultfd").
            backends: stacks in front of the swap file, first to last: "zcache" (compressed RAM), "limit:size=1GiB /
                zcache:codec=lz4", or objects of frontswap.backends; None: pages go straight to the swap file.
            allocate: with ``swap=None``, how many bytes of arrays are handed out (default: ``limit``).
                Data that does not compress into the limit then ends in SIGBUS at the fault.
            arena: addresses to reserve; costs RAM only for what is touched.
            overcommit: do not reserve disk space for what is allocated: for sparse arrays larger than the
                disk. A disk that fills up then makes the Memory exceed its limit, counted in ``overshoots``.
            threshold: as NumPy's allocator (``with mem:``), arrays from this size on come from here.

        Raises:
            ParameterError: a value that is not allowed.
            SwapDirectoryError: the swap directory is missing, not writable, full, or RAM itself.
            KernelSupportError: userfaultfd is missing or forbidden, and /proc/self/mem too; says what to do.
        """
        settings = Settings.check(
            limit=limit,
            page=page,
            backends=backends,
            allocate=allocate,
            arena=arena,
            threshold=threshold,
            swap=swap,
            overcommit=overcommit,
        )
        self._stand_on(Space(settings, swap))

    @classmethod
    def over(cls, space: Space) -> Memory:
        """A Memory in front of a space that exists."""
        memory = cls.__new__(cls)
        memory._stand_on(space)
        return memory

    def _stand_on(self, space: Space) -> None:
        self._space = space
        self._plane = space.plane
        #: backends that come and go: register, unregister, pressure, statistics
        self.backends = space.backends
        self._allocator = Allocator(space.plane, space.settings.threshold)
        space.at_close.append(self._allocator.close)
        self._entered = threading.local()

    # --- arrays ----------------------------------------------------------------------------------

    def empty(
        self,
        shape: Shape,
        dtype: npt.DTypeLike = float,
        order: Order = "C",
        *,
        page: int | str | None = None,
    ) -> Array:
        """A new array; it reads as zeros. ``page`` overrides the Memory's page size for this array.

        Raises:
            DtypeError: the dtype holds references to Python objects.
            OutOfMemoryError: neither the limit nor the disk can back it; says what is missing.
        """
        kind = _checked_dtype(dtype)
        with self._making(page, kind, shape):
            try:
                return np.empty(shape, kind, order)
            except ValueError as error:
                raise ParameterError(
                    "shape", shape, f"dimensions of 0 and more that fit in memory ({error})"
                ) from error

    @contextmanager
    def _making(self, page: int | str | None, dtype: np.dtype[Any] | None, shape: Shape | None) -> Iterator[None]:
        """NumPy makes its next array, however small, in this Memory; a refusal says why."""
        self._space.check_open()
        settings = self._space.settings
        size = settings.page if page is None else settings.checked_page(page)
        allocator = self._allocator
        before = allocator.enter()
        refused = 0
        try:
            allocator.hint(size, 0 if dtype is None else _typesize(dtype), -1)
            try:
                yield
            finally:
                refused = allocator.unhint()
        except MemoryError as error:
            raise OutOfMemoryError(self._why(refused, shape, dtype)) from error
        finally:
            allocator.leave(before)

    def zeros(
        self, shape: Shape, dtype: npt.DTypeLike = float, order: Order = "C", *, page: int | str | None = None
    ) -> Array:
        """A new array of zeros, which take no memory until they are written."""
        return self.empty(shape, dtype, order, page=page)

    def ones(
        self, shape: Shape, dtype: npt.DTypeLike = float, order: Order = "C", *, page: int | str | None = None
    ) -> Array:
        """A new array of ones."""
        return self.full(shape, 1, dtype, order, page=page)

    def full(
        self,
        shape: Shape,
        fill_value: Any,
        dtype: npt.DTypeLike | None = None,
        order: Order = "C",
        *,
        page: int | str | None = None,
    ) -> Array:
        """A new array filled with a value (by default of the value's own dtype)."""
        out = self.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order, page=page)
        out[...] = fill_value
        return out

    def array(
        self,
        source: npt.ArrayLike,
        dtype: npt.DTypeLike | None = None,
        order: LikeOrder = "K",
        *,
        page: int | str | None = None,
    ) -> Array:
        """A copy of ``source`` in this Memory."""
        known = source.dtype if dtype is None and isinstance(source, np.ndarray) else None
        kind = known if dtype is None else _checked_dtype(dtype)
        shape = source.shape if isinstance(source, np.ndarray) else None
        with self._making(page, kind if kind is not None and kind.itemsize else None, shape):
            out: Array = np.array(source, dtype, order=order, copy=True)
        _checked_dtype(out.dtype)
        return out

    def asarray(self, source: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """``source`` itself if it is an array of this Memory (and dtype), else a copy in this Memory."""
        self._space.check_open()
        if (
            isinstance(source, np.ndarray)
            and source.size
            and (dtype is None or source.dtype == np.dtype(dtype))
            and self._plane.owns(np.lib.array_utils.byte_bounds(source)[0])
        ):
            return source
        return self.array(source, dtype)

    def empty_like(
        self,
        prototype: npt.ArrayLike,
        dtype: npt.DTypeLike | None = None,
        order: LikeOrder = "K",
        shape: Shape | None = None,
    ) -> Array:
        """A new array with the shape, dtype and order of another; it reads as zeros."""
        given = np.asarray(prototype)
        kind = _checked_dtype(given.dtype if dtype is None else dtype)
        with self._making(None, kind, given.shape if shape is None else shape):
            return np.empty_like(given, kind, order, subok=False, shape=shape)

    def zeros_like(
        self,
        prototype: npt.ArrayLike,
        dtype: npt.DTypeLike | None = None,
        order: LikeOrder = "K",
        shape: Shape | None = None,
    ) -> Array:
        """A new array of zeros with the shape, dtype and order of another."""
        return self.empty_like(prototype, dtype, order, shape)

    def ones_like(
        self,
        prototype: npt.ArrayLike,
        dtype: npt.DTypeLike | None = None,
        order: LikeOrder = "K",
        shape: Shape | None = None,
    ) -> Array:
        """A new array of ones with the shape, dtype and order of another."""
        return self.full_like(prototype, 1, dtype, order, shape)

    def full_like(
        self,
        prototype: npt.ArrayLike,
        fill_value: Any,
        dtype: npt.DTypeLike | None = None,
        order: LikeOrder = "K",
        shape: Shape | None = None,
    ) -> Array:
        """A new array filled with a value, with the shape, dtype and order of another."""
        out = self.empty_like(prototype, dtype, order, shape)
        out[...] = fill_value
        return out

    # --- as NumPy's allocator --------------------------------------------------------------------

    def __enter__(self) -> Memory:
        """Large arrays that NumPy makes in this thread come from here, until the block ends (NEP 49)."""
        self._space.check_open()
        stack = self._entered.__dict__.setdefault("before", [])
        stack.append(self._allocator.enter())
        return self

    def __exit__(self, *_: object) -> None:
        """Put NumPy's allocator back. The Memory stays open."""
        self._allocator.leave(self._entered.before.pop())

    # --- advice, pins ----------------------------------------------------------------------------

    def advise(self, array: Array, advice: Advice) -> None:
        """Say how an array (or a part of it, for the first three) will be used, as madvise(2) does.

        "willneed": read it in now, in the background. "cold": evict it now. "dontneed": its contents are
        not needed any more; pages that the part covers whole read as zeros afterwards. "sequential": long
        readahead. "random": none, and pages of 4 KiB. "normal": readahead where accesses are in sequence, small pages
        where they are at random (small and large only where nobody has said how large a page is).

        Raises:
            KernelSupportError: "cold", and the kernel does not let us follow the pages (from then on).
        """
        self._space.check_open()
        start, length = self._span(array)
        if advice in ("sequential", "random", "normal"):
            self._plane.set_advice(start, advice)
        elif advice == "willneed":
            self._plane.prefetch(start, length)
        elif advice == "cold":
            with registering():
                self._plane.evict(start, length)
        elif advice == "dontneed":
            if not (array.flags.c_contiguous or array.flags.f_contiguous):
                raise ParameterError("array", f"strides {array.strides}", 'contiguous for advice "dontneed"')
            pinned = self._plane.zap(start, length)
            if pinned:
                raise PinError(f'advise "dontneed": {pinned} pages are pinned and stay; the others are dropped')
        else:
            raise ParameterError("advice", advice, '"willneed", "dontneed", "cold", "sequential", "random" or "normal"')

    @contextmanager
    def pin(self, array: Array) -> Iterator[Array]:
        """Keep an array's pages in RAM, writable, as long as the block lasts: for DMA and system calls.

        Raises:
            PinError: with it, more than half of the limit would be pinned.
            KernelSupportError: the kernel does not let us follow the pages (from then on).
        """
        self._space.check_open()
        start, length = self._span(array)
        with registering():
            pinned = self._plane.pin(start, length)
        if pinned < 0:
            raise PinError(
                f"pin: {format_size(length)} beside {format_size(self.statistics().pinned_bytes)} already pinned is "
                f"more than half of the limit of {format_size(self.limit)}, or could not be brought in"
            )
        try:
            yield array
        finally:
            self._plane.unpin(start, length)

    def _span(self, array: Array) -> tuple[int, int]:
        if not isinstance(array, np.ndarray):
            raise ParameterError("array", type(array).__name__, "a numpy.ndarray of this Memory")
        low, high = np.lib.array_utils.byte_bounds(array)
        if low == high or not self._plane.owns(low):
            raise ParameterError("array", f"an array of {array.nbytes} bytes", "a non-empty array of this Memory")
        return low, high - low

    # --- state -----------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Bytes of RAM for its arrays, resident and compressed together: :meth:`resize` changes it."""
        return self._space.settings.limit

    def resize(self, limit: int | str) -> None:
        """Change the limit while everything goes on: raised, it holds at once; lowered, what is above it leaves now.

        When it returns what is used fits in the new limit, unless something cannot leave for the moment (a disk that
        fails): that goes with the next faults. Arrays, and what is reserved in the swap file, stay as they are. In a
        forked child it is the child's limit.

        Args:
            limit: bytes, as for :class:`Memory`; at least 16 MiB, or twice what is set aside for the largest pages in
                use, at most the RAM of the machine (or what the Memory was made with); where userfaultfd is forbidden,
                as far as there are mappings for its pages. Without a swap file not less than what is allocated;
                ``allocate`` goes along if it was the limit.

        Raises:
            ParameterError: a limit that is not allowed; says what is.
            PinError: more than half of it is pinned.
            OutOfMemoryError: the disk cannot back what would not fit any more.
            KernelSupportError: everything has fitted until now, and the kernel does not let us follow the pages.
        """
        self._space.resize(limit)

    def statistics(self) -> Statistics:
        """Counters and gauges of this moment."""
        return self._space.statistics()

    def steps(self) -> tuple[Step, ...]:
        """The last changes of a limit that follows, the oldest first: what was read, what was decided, and why.

        None for a limit that was told: docs/pressure.md.
        """
        return tuple(self._space.steps)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html(self.statistics())

    def close(self, *, force: bool = False) -> None:
        """Give everything back. Closing twice is no error.

        Args:
            force: also while arrays live: touching them afterwards ends the process with SIGSEGV.

        Raises:
            InUseError: arrays live, and ``force`` is not given; or the process allocates from it.
        """
        self._space.close(force=force)

    def _why(self, refused: int, shape: Shape | None, dtype: np.dtype[Any] | None) -> str:
        what = "the array"
        if shape is not None and dtype is not None:
            dims = shape if isinstance(shape, tuple | list) else (shape,)
            what = f"an array of {format_size(math.prod(map(int, dims)) * dtype.itemsize)}"
        if refused == REFUSED_ALLOCATION:
            return (
                f"{what} is more than allocate={format_size(self._space.settings.allocate)} leaves; without a swap "
                "file everything must fit in compressed RAM: raise allocate=, or give swap= a directory"
            )
        if refused == REFUSED_ADDRESSES:
            return f"{what} does not fit in the arena of {format_size(self._space.settings.arena)}; raise arena="
        if refused > REFUSED_REGISTRATION:
            error = refused - REFUSED_REGISTRATION
            return (
                f"{what} would be the first that does not fit in the limit with the others, and their pages cannot be "
                f"followed from now on: {causes.userfaultfd(error)} [{os.strerror(error)}]. Nothing has changed"
            )
        if refused > 0 and self._space.swap is not None:
            also = "raise limit=, or overcommit=True for a sparse array"
            return f"{what} cannot be backed: {self._space.swap.cannot_grow(refused, also)}"
        return f"{what} is larger than the address space"


def _checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise DtypeError("dtype", str(kind), "without references to Python objects (not object, not StringDType)")
    return kind


def _typesize(dtype: np.dtype[Any]) -> int:
    """Element size for the shuffle: 0 where the codec had better find out by itself."""
    base = dtype.base
    size = base.itemsize
    if base.kind == "c":
        size //= 2
    elif base.kind == "U":
        size = 4
    elif base.kind == "S":
        size = 1
    elif base.kind == "V":
        size = 0
    return size if size in (1, 2, 4, 8, 16) else 0
