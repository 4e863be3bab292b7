"""The swap file: the slot behind every page.

Slots hold segments of the record log as they are (compressed), so writes are large and nothing is
decompressed on its way out. Space is reserved with ``fallocate`` before it is promised
(rule 2); the file has no name, so nothing is left behind when the process is killed. I/O goes past
the page cache with O_DIRECT, or, where the file system has none, is written through and dropped from
it: the page cache would be charged to the same cgroup that we keep small.

Every call looks first whether the descriptor is still the file's (core/keeper.py): a program that closes all it finds
gives its number to the next file that it opens, and that one must never get a page.
"""

import cython
from cython.cimports.frontswap.core.keeper import guard, guarded_call, unguard
from cython.cimports.frontswap.core.layout import IO_ALIGN, MAX_FILES
from cython.cimports.frontswap.core.leases import FILE_SHIFT, leases_check
from cython.cimports.frontswap.core.uapi import (
    EEXIST,
    EINTR,
    EINVAL,
    EIO,
    EISDIR,
    ENOENT,
    ENOSPC,
    EOPNOTSUPP,
    F_GETFL,
    F_SETFL,
    FS_IOC_GETFLAGS,
    FS_IOC_SETFLAGS,
    FS_NOCOW_FL,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECT,
    O_EXCL,
    O_NOFOLLOW,
    O_RDWR,
    O_TMPFILE,
    POSIX_FADV_DONTNEED,
    SYNC_FILE_RANGE_WAIT_AFTER,
    SYNC_FILE_RANGE_WAIT_BEFORE,
    SYNC_FILE_RANGE_WRITE,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fstatfs,
    SYS_ftruncate,
    SYS_pread64,
    SYS_pwrite64,
    SYS_sync_file_range,
    clock_ns,
    close,
    errno,
    fcntl,
    getpid,
    int64_t,
    ioctl,
    load64,
    loadi,
    lock,
    open,
    statfs_t,
    store64,
    storei,
    uint32_t,
    uint64_t,
    unlink,
    unlock,
)
from cython.cimports.libc.stdio import snprintf
from cython.cimports.libc.string import memcpy, memset

# Slots that only the cleaner may take: it needs somewhere to put live records before it can free any.
CLEANING_SLOTS = cython.declare(cython.uint, 4)
EXTRA_SLOTS = cython.declare(cython.uint, 10)


def slot_take(pg, cleaning):
    """A free slot of the swap file, or -1. The caller holds log_lock."""
    keep: cython.uint = 0 if cleaning else CLEANING_SLOTS
    number: uint32_t
    if pg.free_slots_n <= keep and pg.deferred_slots:
        leases_check(pg)
    if pg.free_slots_n <= keep:
        return -1
    pg.free_slots_n -= 1
    number = pg.free_slots[pg.free_slots_n]
    pg.slot_taken[number] = pg.forks
    return (cython.cast(int64_t, pg.own_file) << FILE_SHIFT) | number


def swap_tight(pg):
    """True when slots are so short that a page should give up its record as it comes in.

    mm/memory.c frees swap slots early for the same reason (vm_swap_full). Read without the lock:
    a late answer costs one slot for a while.
    """
    return pg.free_slots_n <= pg.slots // 16 + 2 * CLEANING_SLOTS


def disk_rests(pg):
    """The errno of a write that has just failed, else 0.

    A disk that fails is asked again a hundred times a second, not by every page that wants to leave.
    """
    error: cython.int = loadi(cython.address(pg.disk_error))
    return error if error != 0 and clock_ns() < load64(cython.address(pg.disk_retry)) else 0


def write_all(fd, data, length, at):
    """Write `length` bytes (a multiple of IO_ALIGN) at `at`; 0 or an errno.

    Short writes are continued; a write that makes no progress is an I/O error.
    """
    done: uint32_t = 0
    got: cython.Py_ssize_t
    while done < length:
        got = guarded_call(SYS_pwrite64, fd, cython.cast(cython.long, data) + done, length - done, at + done)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return errno if got < 0 else EIO
        # O_DIRECT goes on from an aligned place only; the bytes between are simply written again.
        done = (done + cython.cast(uint32_t, got)) & ~cython.cast(uint32_t, IO_ALIGN - 1)
        if got < IO_ALIGN and done < length:
            return EIO
    return 0


def read_all(fd, into, length, at):
    """Read `length` bytes at `at`, all aligned to IO_ALIGN; 0 or an errno."""
    done: uint32_t = 0
    got: cython.Py_ssize_t
    while done < length:
        got = guarded_call(SYS_pread64, fd, cython.cast(cython.long, into) + done, length - done, at + done)
        if got < 0 and errno == EINTR:
            continue
        if got < 0:
            return errno
        if got == 0 or (got & (IO_ALIGN - 1)) != 0:
            return EIO  # the file is shorter than what was reserved: somebody truncated it
        done += cython.cast(uint32_t, got)
    return 0


def write_out(fd, at, length):
    """Have the page cache write a range now and forget it: it would be charged to the cgroup that we keep small."""
    if guarded_call(
        SYS_sync_file_range,
        fd,
        at,
        length,
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER,
    ):
        return errno
    guarded_call(SYS_fadvise64, fd, at, length, POSIX_FADV_DONTNEED)
    return 0


def slot_write(pg, slot, data, length):
    """Write `length` bytes from `data` (page aligned) to the start of `slot`; 0 or an errno."""
    at: int64_t = cython.cast(int64_t, cython.cast(uint32_t, slot)) * pg.segment_bytes
    total: uint32_t = (length + IO_ALIGN - 1) & ~cython.cast(uint32_t, IO_ALIGN - 1)
    error: cython.int
    store64(cython.address(pg.disk_retry), clock_ns() + 10000000)
    error = write_all(pg.file, data, total, at)
    if error == 0 and not pg.direct:
        error = write_out(pg.file, at, total)
    storei(cython.address(pg.disk_error), error)
    return error


def slot_read(pg, slot, offset, into, length):
    """Read [offset, offset + length) of `slot`, all aligned to IO_ALIGN; 0 or an errno."""
    at: int64_t = cython.cast(int64_t, cython.cast(uint32_t, slot)) * pg.segment_bytes + offset
    fd: cython.int = pg.files[slot >> FILE_SHIFT]
    error: cython.int = read_all(fd, into, length, at)
    if error == 0 and not pg.direct:
        guarded_call(SYS_fadvise64, fd, at, length, POSIX_FADV_DONTNEED)
    return error


# --- swap areas: a slot for each page, at its offset -------------------------------------------------------------


def area_slot_write(area, ctx, offset, data, size):
    """Write a page to its slot; 0 or an errno. O_DIRECT wants aligned memory: other bytes go by way of `ctx`."""
    at: int64_t = cython.cast(int64_t, offset) * size
    error: cython.int
    if area.direct and (cython.cast(uint64_t, data) & (IO_ALIGN - 1)) != 0:
        memcpy(ctx.scratch, data, size)
        data = ctx.scratch
    error = write_all(area.fd, data, size, at)
    if error == 0 and not area.direct:
        error = write_out(area.fd, at, size)
    return error


def area_slot_read(area, ctx, offset, into, size):
    """Read a page from its slot; 0 or an errno."""
    at: int64_t = cython.cast(int64_t, offset) * size
    bounce: cython.bint = area.direct and (cython.cast(uint64_t, into) & (IO_ALIGN - 1)) != 0
    error: cython.int = read_all(area.fd, ctx.scratch if bounce else into, size, at)
    if error == 0 and bounce:
        memcpy(into, ctx.scratch, size)
    if error == 0 and not area.direct:
        guarded_call(SYS_fadvise64, area.fd, at, size, POSIX_FADV_DONTNEED)
    return error


def area_slot_zero(area, ctx, offset, size):
    """Have a slot read as zeros, by `area.zeroing`, or by a write where that cannot be done; 0 or an errno."""
    at: int64_t = cython.cast(int64_t, offset) * size
    while guarded_call(SYS_fallocate, area.fd, area.zeroing, at, size) != 0:
        if errno == EOPNOTSUPP:
            memset(ctx.scratch, 0, size)
            return area_slot_write(area, ctx, offset, ctx.scratch, size)
        if errno != EINTR:
            return errno
    return 0


def back_slots(pg, fd, start, end):
    """Have the file system keep room for the slots [start, end) of a file that ends at `start`; 0 or an errno."""
    at: int64_t = start * cython.cast(int64_t, pg.segment_bytes)
    stop: int64_t = end * cython.cast(int64_t, pg.segment_bytes)
    error: cython.int
    disk: statfs_t
    # fallocate() takes all that there is before it says that it was not enough: who writes meanwhile finds a full disk.
    # (A file system that counts no blocks says nothing. They are of f_frsize bytes: f_bsize is larger on ZFS, and what
    # FUSE says. Of one without a limit their bytes may be more than 64 bits hold.)
    if (
        guarded_call(SYS_fstatfs, fd, cython.cast(cython.long, cython.address(disk)), 0, 0) == 0
        and disk.f_blocks
        and disk.f_frsize
        and cython.cast(uint64_t, stop - at) // disk.f_frsize > disk.f_bfree
    ):
        return ENOSPC
    if guarded_call(SYS_fallocate, fd, 0, at, stop - at) == 0:
        return 0
    error = errno
    if error == EOPNOTSUPP:
        error = fill_slots(pg, fd, at, stop)
    # What a full disk has given all the same goes back: the allocation is refused whole.
    if error and guarded_call(SYS_ftruncate, fd, at, 0, 0) != 0:
        pass
    return error


def fill_slots(pg, fd, at, stop):
    """back_slots() where the file system has no fallocate(): zeros take the room; 0 or an errno.

    (glibc's emulation writes single bytes, which O_DIRECT refuses.)
    """
    got: cython.Py_ssize_t
    while at < stop:
        got = guarded_call(
            SYS_pwrite64,
            fd,
            cython.cast(cython.long, pg.zeros),
            pg.max_page if stop - at > pg.max_page else stop - at,
            at,
        )
        if got >= IO_ALIGN:
            at += got // IO_ALIGN * IO_ALIGN
        elif got >= 0:
            return ENOSPC
        elif errno != EINTR:
            return errno
    return 0


def swap_grow(pg, slots):
    """Reserve space for `slots` slots in all; 0 or an errno. The caller is that of swap_reserve()."""
    error: cython.int
    if slots <= pg.slots:
        return 0
    if slots > pg.max_slots:
        return EIO
    if not pg.overcommit:
        error = back_slots(pg, pg.file, pg.slots, slots)
        if error != 0:
            return error
    lock(cython.address(pg.log_lock))
    slots_add(pg, slots)
    unlock(cython.address(pg.log_lock))
    return 0


def slots_add(pg, slots):
    """The file has room for `slots` slots now. The caller holds log_lock."""
    i: uint32_t
    # Pushed from the end, so that low offsets are used first.
    for i in range(slots - pg.slots):
        pg.free_slots[pg.free_slots_n] = slots - 1 - i
        pg.free_slots_n += 1
    pg.slots = slots


def slots_for(pg, allocated, budget):
    """Slots that back `allocated` bytes beside `budget` of RAM: what does not fit, an eighth for cleaning, and some
    more.

    Clean pages need no slot beside their frame: when slots are short, a page gives its record up as it
    comes in (swap_tight), so what is resident does not count twice.
    """
    beyond: int64_t = allocated - budget // 8 * 7
    if beyond <= 0:
        return EXTRA_SLOTS
    return cython.cast(uint32_t, (beyond + beyond // 8) // pg.segment_bytes) + EXTRA_SLOTS


def swap_reserve(pg, allocated, budget):
    """Make sure that `allocated` bytes can always be kept beside `budget` of RAM (rule 2); 0 or an errno.

    Without a swap file: nothing to do. The caller holds arena_lock, or the gate is closed.
    """
    error: cython.int = 0 if pg.file < 0 else swap_grow(pg, slots_for(pg, allocated, budget) + pg.leased_slots)
    if error == 0 and allocated > pg.reserved_for:
        store64(cython.address(pg.reserved_for), allocated)
    return error


# --- a forked child's file ---------------------------------------------------------------------------------------


def unnamed_file(directory):
    """A new file of mode 0600 in `directory` that has no name any more, or -errno. As frontswap.swap makes it."""
    path: cython.char[4200]
    turn: cython.int
    fd: cython.int = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600)
    if fd >= 0:
        return fd
    if errno != EOPNOTSUPP and errno != EISDIR and errno != ENOENT and errno != EINVAL:
        return -errno
    for turn in range(100):
        snprintf(path, 4200, "%s/frontswap-%d-%d", directory, getpid(), turn)
        fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if fd >= 0:
            unlink(path)
            return fd
        if errno != EEXIST:
            break
    return -errno


def swap_file_make(pg, slots, made):
    """A second swap file beside ours, with room for `slots` slots: `*made`; 0 or an errno."""
    error: cython.int = 0
    flags: cython.long = 0
    fd: cython.int = unnamed_file(pg.directory)
    if fd < 0:
        return -fd
    if ioctl(fd, FS_IOC_GETFLAGS, cython.address(flags)) == 0 and (flags & FS_NOCOW_FL) == 0:
        flags |= FS_NOCOW_FL
        ioctl(fd, FS_IOC_SETFLAGS, cython.address(flags))  # btrfs; the others do not know it
    if pg.direct and fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) != 0:
        error = errno
    if error == 0 and slots and not pg.overcommit:
        error = back_slots(pg, fd, 0, slots)
    if error:
        close(fd)
        return error
    made[0] = guard(fd)
    return 0


def file_used(pg, file):
    """True if a segment is in a swap file."""
    i: uint32_t
    for i in range(1, pg.next_segment):
        if pg.segments[i].slot >= 0 and (pg.segments[i].slot >> FILE_SHIFT) == file:
            return True
    return False


def file_place(pg):
    """A free place in `files`, or -1. What is not needed any more of the ancestors' files is closed. Gate closed."""
    i: cython.int
    for i in range(MAX_FILES):
        if i != pg.own_file and pg.files[i] >= 0 and not file_used(pg, i):
            unguard(pg.held[i])
            pg.held[i] = -1
            if i > 0:
                unguard(pg.files[i])
                pg.files[i] = -1
    for i in range(1, MAX_FILES):
        if pg.files[i] < 0:
            return i
    return -1
