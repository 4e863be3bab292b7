"""Real damage: what is lost is never answered with zeros or old bytes, and what is not lost stays.

Records are overwritten in the pool and in the swap file, the file is truncated, writes to it fail, its disk is
full. Each story runs in a process of its own, since it ends with SIGBUS.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from conftest import NewMemory
from helpers import MiB, Mode, ballast, noise, quiet, run_child

from frontswap.core.plane import kernel_features

# The log as layout.pxd has it: records one after the other, each a header of 16 bytes (page, length, codec,
# shift, unused, checksum) and `length` bytes, at multiples of 16. The first array's pages have the ids 1, 2, ...
TOOLS = """
PAGE = 4096

def records(log):
    at = 0
    while at + 16 <= len(log):
        page, length = struct.unpack_from("<II", log, at)
        if not page or not 0 < length <= PAGE:
            return
        yield page - 1, at, length
        at += (16 + length + 15) // 16 * 16

def pool_of(memory, length=256 << 10):
    address, _ = memory._plane.extents()["pool"]
    kept = 2 * memory._space.settings.segment  # for refused pages
    return (ctypes.c_ubyte * length).from_address(address + kept)

# The file is read and written past the page cache: through aligned buffers.
def read_file(memory, at, length):
    buffer = mmap.mmap(-1, length)
    assert os.preadv(memory._plane.swap_fd, [buffer], at) == length
    return buffer

def find_in_file(memory, needle):
    size = os.fstat(memory._plane.swap_fd).st_size
    log = read_file(memory, 0, size // PAGE * PAGE)
    at = log.find(needle)
    assert at >= 0, "not in the swap file"
    return at

def overwrite(memory, at, data):
    start = at // PAGE * PAGE
    block = read_file(memory, start, 2 * PAGE)
    block[at - start : at - start + len(data)] = data
    assert os.pwritev(memory._plane.swap_fd, [block], start) == len(block)

def lost(memory, part):
    "True if pinning says that the page is lost; an access would end the process."
    before = memory.statistics().poisoned
    try:
        with memory.pin(part):
            return False
    except frontswap.PinError:
        assert memory.statistics().poisoned == before + 1
        return True
"""

# Compressed pages: in the pool.
POOL = (
    TOOLS
    + """
memory = frontswap.Memory("16M", page=PAGE)
source = walk(64 * 512).reshape(64, 512)
array = memory.array(source)
memory.advise(array, "random")
quiet(memory)
memory.advise(array, "cold")
log = pool_of(memory)
places = {page: (at, length) for page, at, length in records(bytes(log))}
assert sorted(places) == list(range(64))
"""
)

# Noise: in the swap file. (What was written last is still in a buffer; all that is looked at was written first.)
# The file has room for what does not fit in RAM: an array that is never touched makes it large enough for all.
FILE = (
    TOOLS
    + """
memory = frontswap.Memory("16M", page=PAGE)
spare = memory.empty(32 << 20, "u1")
source = noise(32 << 20).reshape(-1, PAGE)
array = memory.array(source)
memory.advise(array, "random")
def all_out():
    # again: readahead that was asked for before the advice may have had no processor yet
    memory.advise(array, "cold")
    now = quiet(memory)
    return now.swapped_bytes > 30 << 20 and now.resident_bytes == 0
wait_until(all_out, "the array to leave")
"""
)


def ends_in_sigbus(code: str, seam: Mode, cause: str, first: int, where: str, *, faulthandler: bool = False) -> str:
    """Run it; the message must name array, bytes and cause, once."""
    array = 2 if where == "swap file" else 1
    done = run_child(code, mode=seam, options=("-X", "faulthandler") if faulthandler else ())
    done.died_of(signal.SIGBUS)
    found = re.findall(r"frontswap: SIGBUS: page lost: .*", done.err)
    assert len(found) == 1, done.err
    assert re.fullmatch(
        rf"frontswap: SIGBUS: page lost: array {array} \(\d+ bytes\), bytes {first} to {first + 4095}: "
        rf"its record in the {where} cannot be used: .*{cause}.*",
        found[0],
    ), found[0]
    assert "wrong" not in done.out
    assert ("Fatal Python error: Bus error" in done.err) == faulthandler
    return done.out


# What may happen to a record, and what is said about it; the number of the page it happens to is its place here.
DAMAGES = [
    ("log[at + 16 + length // 2] ^= 1", "checksum"),
    ("log[at + 16 + length - 1] ^= 128", "checksum"),
    ("log[at] = 200", "names another page"),
    ("log[at + 5] = 255", "names another page or length"),
    ("log[at + 8] ^= 3", "checksum|does not decompress"),
    ("log[at + 9] += 1", "names another page or length"),
    ("ctypes.memset(ctypes.addressof(log) + at, 0, length + 16)", "names another page"),
    ("log[at : at + 16] = log[places[63][0] : places[63][0] + 16]", "names another page"),
]


def test_damaged_records_in_the_pool(seam: Mode) -> None:
    code = "".join(f"at, length = places[{page}]; {damage}\n" for page, (damage, _) in enumerate(DAMAGES))
    code += f"""
at, length = places[60]
log[at + 12] ^= 1  # the header's own copy of the checksum is not what is believed
same(np.array(array[{len(DAMAGES)}:]), source[{len(DAMAGES)}:])
for page in range({len(DAMAGES)}):
    assert lost(memory, array[page]), page
print("others are right", flush=True)
value = array[3].copy(); print("wrong:", value)
"""
    done = run_child(POOL + code, mode=seam).died_of(signal.SIGBUS)
    assert done.out == "others are right\n"
    said = re.findall(r"frontswap: SIGBUS: page lost: .*", done.err)
    assert len(said) == len(DAMAGES)
    for page, (line, (_, cause)) in enumerate(zip(said, DAMAGES, strict=True)):
        assert re.search(rf"array 1 .* bytes {page * 4096} to .* in the compressed pool .*({cause})", line), line


def test_damaged_records_that_a_policy_names(seam: Mode) -> None:
    """What is a record no more stays in the pool, what has wrong bytes goes to the disk with them: lost, all of it."""
    start = POOL.replace("page=PAGE", 'page=PAGE, backends=Watched(recompress="off", policy="fifo")')
    code = "from watched import Watched\n" + start
    code += "".join(f"at, length = places[{page}]; {damage}\n" for page, (damage, _) in enumerate(DAMAGES))
    code += f"""
more = noise(24 << 20) & np.uint8(15)
other = memory.array(more)
before = memory.statistics().slot_loads
same(np.array(array[{len(DAMAGES)}:]), source[{len(DAMAGES)}:])
assert memory.statistics().slot_loads > before, "they have left"
assert len(Watched.made[0]) >= memory.backends.curr_pages(), "what stays is asked for again"
for page in range({len(DAMAGES)}):
    assert lost(memory, array[page]), page
same(other, more)
print("others are right", flush=True)
value = array[3].copy(); print("wrong:", value)
"""
    done = run_child(code, mode=seam).died_of(signal.SIGBUS)
    assert done.out == "others are right\n"
    said = re.findall(r"frontswap: SIGBUS: page lost: .*", done.err)
    assert len(said) == len(DAMAGES)
    for line, (_, cause) in zip(said, DAMAGES, strict=True):
        assert re.search(rf"in the (compressed pool|swap file) .*({cause})", line), line


def test_a_segment_that_cannot_be_emptied_stops_nobody(seam: Mode) -> None:
    """By a policy a segment does not leave as a whole: with a lost page's record in it, it is the emptiest for good."""
    code = POOL.replace("page=PAGE", 'page=PAGE, backends="zcache:recompress=off,policy=lru"')
    code += """
log[places[7][0] + 20] ^= 1
assert lost(memory, array[7])
more = (noise(24 << 20) & np.uint8(15)).reshape(-1, PAGE)
other = memory.array(more)
memory.advise(other, "random")
rng = np.random.default_rng(2)
def writes():
    before = memory.statistics().failed_stores
    places = rng.integers(0, len(other), 4000)
    other[places, 0] ^= 1
    more[places, 0] = other[places, 0]
    return memory.statistics().failed_stores - before
refused = [writes() for _ in range(6)]
assert max(refused[2:]) < 400, refused
same(other, more)
"""
    run_child(code, mode=seam).check()


@pytest.mark.parametrize("access", ["array[7, 0]", "array[7, 0] = 1", "array.sum()", "array[7] = source[7]"])
def test_every_access_to_a_lost_page(seam: Mode, access: str) -> None:
    """A write too: its page would keep zeros around the bytes that are written."""
    code = f"at, length = places[7]; log[at + 20] ^= 1\n{access}\nprint('wrong')\n"
    ends_in_sigbus(POOL + code, seam, "checksum", 7 * 4096, "compressed pool")


def test_traceback_where_faulthandler_was_enabled_before(seam: Mode) -> None:
    code = "log[places[7][0] + 20] ^= 1\ndef reader():\n    return array[7, 0]\nreader()\n"
    ends_in_sigbus(POOL + code, seam, "checksum", 7 * 4096, "compressed pool", faulthandler=True)


def test_sigbus_that_is_ignored_is_no_way_out(seam: Mode) -> None:
    """The kernel ends it, or we do; where a handler thread has to send the signal (no UFFDIO_POISON) it ends all."""
    code = "signal.signal(signal.SIGBUS, signal.SIG_IGN)\nlog[places[7][0] + 20] ^= 1\nprint('wrong', array[7, 0])\n"
    done = run_child(POOL + code, mode=seam)
    sent = seam.faults == "thread" and not kernel_features()["poison"]
    done.died_of(signal.SIGABRT if sent else signal.SIGBUS)
    assert "page lost" in done.err
    assert "wrong" not in done.out


def test_lost_pages_are_counted_and_can_be_given_up(seam: Mode) -> None:
    code = """
for page in (3, 4, 9):
    log[places[page][0] + 20] ^= 1
assert [lost(memory, array[page]) for page in (2, 3, 4, 5, 9)] == [False, True, True, False, True]
assert memory.statistics().poisoned == 3
memory.advise(array[3:5], "dontneed")
assert not array[3:5].any()
array[3:5] = source[3:5]
memory.advise(array, "cold")
rest = np.arange(64) != 9
same(array[rest], source[rest])
assert memory.statistics().pinned_bytes == 0
del array
now = quiet(memory)
assert (now.allocated_bytes, now.resident_bytes, now.pool_live_bytes, now.used_bytes - now.pool_bytes) == (0, 0, 0, 0)
array = memory.zeros((64, 512))
assert not array.any()  # the same addresses, and nothing lost about them
memory.close(force=True)
"""
    assert run_child(POOL + code, mode=seam).check().err.count("page lost") == 3


def test_lost_page_stays_lost(seam: Mode) -> None:
    """It does not heal when the damage goes away, and nobody gets its bytes in the meantime."""
    code = """
log[places[7][0] + 20] ^= 1
assert lost(memory, array[7])
log[places[7][0] + 20] ^= 1
sys.stdout.flush()
value = array[7].copy(); print("wrong:", value)
"""
    ends_in_sigbus(POOL + code, seam, "checksum", 7 * 4096, "compressed pool")


def test_readahead_over_a_damaged_page_is_no_access(seam: Mode) -> None:
    code = """
log[places[7][0] + 20] ^= 1
memory.advise(array, "willneed")
wait_until(lambda: memory.statistics().resident_bytes == 63 * PAGE, "readahead")
memory.advise(array, "normal")
same(np.array(array[:7]), source[:7])
same(np.array(array[8:]), source[8:])
assert quiet(memory).poisoned == 0
print("others are right", flush=True)
value = array[7].copy(); print("wrong:", value)
"""
    assert "others are right" in ends_in_sigbus(POOL + code, seam, "checksum", 7 * 4096, "compressed pool")


def test_damaged_record_in_the_swap_file(seam: Mode) -> None:
    code = """
at = find_in_file(memory, bytes(source[100, 1000:1100]))
overwrite(memory, at, b"garbage")
same(np.array(array[:100]), source[:100])
assert np.array_equal(array[101:], source[101:])
print("others are right", flush=True)
value = array[100].copy(); print("wrong:", value)
"""
    assert "others are right" in ends_in_sigbus(FILE + code, seam, "checksum", 100 * 4096, "swap file")


def test_write_that_the_disk_has_lost(seam: Mode) -> None:
    """The page's older record, whole and in order, where its newer one should be."""
    code = """
first = find_in_file(memory, bytes(source[100])) - 16
old = bytes(read_file(memory, first // PAGE * PAGE, 3 * PAGE))[first % PAGE :][: PAGE + 16]
array[100] = source[100][::-1]
memory.advise(array, "cold")
array[5000:7000] += 1  # until the new record has left its buffer
memory.advise(array, "cold")
quiet(memory)
second = find_in_file(memory, bytes(source[100][::-1])) - 16
overwrite(memory, second, old)
right = (array[100] == source[100]).all(); print("wrong:", right)
"""
    ends_in_sigbus(FILE + code, seam, "checksum", 100 * 4096, "swap file")


def test_truncated_swap_file(seam: Mode) -> None:
    code = """
with memory.pin(array[:50]):
    os.ftruncate(memory._plane.swap_fd, 0)
    same(np.array(array[:50]), source[:50])  # what is in RAM is right
    print("resident pages are right", flush=True)
    value = array[100].copy(); print("wrong:", value)
"""
    out = ends_in_sigbus(FILE + code, seam, "Input/output error", 100 * 4096, "swap file")
    assert "resident pages are right" in out


# --- writes that fail ----------------------------------------------------------------------------


def test_failing_writes_lose_nothing(seam: Mode) -> None:
    """RLIMIT_FSIZE, lowered after the space was reserved; Python ignores SIGXFSZ."""
    code = """
memory = frontswap.Memory("16M")
source = noise(64 << 20)
array = memory.empty(64 << 20, "u1")
array[: 24 << 20] = source[: 24 << 20]
quiet(memory)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
# more than clean pages can make room for without a write
array[24 << 20 : 44 << 20] = source[24 << 20 : 44 << 20]
now = quiet(memory)
assert now.slot_errors > 0 and now.overshoots > 0 and now.poisoned == 0, now
same(np.array(array[: 44 << 20]), source[: 44 << 20])
print("goes on, above its limit", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
array[44 << 20 :] = source[44 << 20 :]
before = quiet(memory)
same(np.array(array), source)
now = quiet(memory)
assert now.overshoots == before.overshoots and now.slot_errors == before.slot_errors, (before, now)
assert now.used_bytes + now.reserve_bytes <= now.limit_bytes
"""
    assert "goes on" in run_child(code, mode=seam, ordinary=True).check().out


def test_short_writes_are_continued(seam: Mode) -> None:
    """A limit in the middle of a segment: the kernel writes as much as it may, and says so."""
    code = """
memory = frontswap.Memory("16M")
source = noise(40 << 20)
array = memory.empty(40 << 20, "u1")
resource.setrlimit(resource.RLIMIT_FSIZE, ((8 << 20) + 12288, resource.RLIM_INFINITY))
array[: 18 << 20] = source[: 18 << 20]
quiet(memory)
same(np.array(array[: 18 << 20]), source[: 18 << 20])
assert memory.statistics().swapped_bytes < (8 << 20) + 12288
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
array[:] = source
same(np.array(array), source)
"""
    run_child(code, mode=seam, ordinary=True).check()


def test_full_disk_with_overcommit(seam: Mode, small_disk: Path, new_memory: NewMemory) -> None:
    """Nothing was promised: the Memory grows above its limit and says so; with room again it shrinks again."""
    memory = new_memory(swap=small_disk, overcommit=True)
    source = noise(40 * MiB)
    array = memory.empty(2048 * MiB, "u1")  # far more than the disk has
    part = array[: 40 * MiB]
    part[: 20 * MiB] = source[: 20 * MiB]
    quiet(memory)
    filler = ballast(small_disk, 0)
    end = 20 * MiB
    while (now := quiet(memory)).slot_errors == 0 or now.overshoots == 0:
        # clean pages make room for the first ones without a write
        part[end : end + 3 * MiB] = source[end : end + 3 * MiB]
        end += 3 * MiB
        assert end < len(part)
    assert (part[:end] == source[:end]).all()
    filler.unlink()
    part[:] = source
    before = quiet(memory)
    assert (part == source).all()
    now = quiet(memory)
    assert (now.overshoots, now.poisoned) == (before.overshoots, 0)
    assert now.used_bytes + now.reserve_bytes <= now.limit_bytes
    del array, part
