"""The program closes descriptors, ours among them: no page is lost, and no file of the program gets one."""

from __future__ import annotations

import pytest
from helpers import Mode, run_child

SETUP = """
libc = ctypes.CDLL(None, use_errno=True)
CLOSE_RANGE = 436
MOST = 0xFFFFFFFF

memory = frontswap.Memory("16M", page=16384)
source = noise(18 << 20)
array = memory.array(source)

def check():
    "Everything leaves and comes back, by way of the swap file."
    memory.advise(array, "cold")
    assert np.array_equal(array, source)
    source[::4096] += 1
    np.add(array[::4096], 1, out=array[::4096])
    assert np.array_equal(array, source)

def ours():
    "Our descriptors, by what they are open on."
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            link = os.readlink(f"/proc/self/fd/{name}")
            if "userfaultfd" in link:
                found["userfaultfd"] = int(name)
            elif link.endswith("/mem"):
                found["memory"] = int(name)
            elif "eventfd" in link:
                found["event"] = int(name)
            elif link.startswith("/") and link.endswith(" (deleted)"):
                found["swap"] = int(name)
    return found

def refused(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(f"{call.__name__}{arguments} is not refused")

def open_pipe():
    "A pipe of the program; it must be closed with all else."
    return os.pipe()[0]

def is_open(fd):
    return os.path.exists(f"/proc/self/fd/{fd}")

mine = open_pipe()
before = ours()
check()
"""

# Ways to close everything that libc, and with it our side, sees.
WAYS = {
    "closerange": "os.closerange(3, 65536)",
    "close": """
for fd in range(3, 2048):
    with contextlib.suppress(OSError):
        os.close(fd)
""",
    "close_range": "assert libc.close_range(3, ctypes.c_uint(MOST), 0) == 0",
    "close_range_exactly": """
for fd in sorted([mine, *before.values()]):
    assert libc.close_range(fd, fd, 0) == 0
""",
    "close_range_unshare": "assert libc.close_range(3, ctypes.c_uint(MOST), 2) == 0",
    "closefrom": "libc.closefrom(3)",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_libc_closes(way: str, seam: Mode) -> None:
    """Ours are not there for the program: all else is closed, nothing of ours."""
    code = f"""
assert len(before) == (3 if os.environ["FRONTSWAP_FAULTS"] == "thread" else 2)
assert is_open(mine)
{WAYS[way]}
assert not is_open(mine)
assert ours() == before
check()
del array
memory.close()
assert ours() == {{}}
"""
    run_child(SETUP + code, mode=seam).check()


def test_numbers_are_refused() -> None:
    """close() as if they were not there; dup2() cannot say so, and says that they are busy."""
    code = """
for fd in before.values():
    assert fd >= 768
    refused(errno.EBADF, os.close, fd)
    refused(errno.EBUSY, os.dup2, mine, fd)
    refused(errno.EBUSY, lambda: os.dup2(mine, fd, inheritable=False))
    assert os.dup2(fd, fd) == fd
assert libc.close_range(5, 3, 0) == -1 and ctypes.get_errno() == errno.EINVAL
assert libc.close_range(before["swap"], before["swap"], 1 << 30) == -1 and ctypes.get_errno() == errno.EINVAL
assert libc.close_range(3, ctypes.c_uint(MOST), 4) == 0  # to be closed on exec
assert ours() == before
check()
"""
    run_child(SETUP + code).check()


def test_few_descriptors() -> None:
    """Where `ulimit -n` has no room high up they lie lower, and are guarded as well."""
    code = """
del array
memory.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
memory = frontswap.Memory("16M", page=4096)
array = memory.array(source)
assert all(48 <= fd < 64 for fd in ours().values())
os.closerange(3, 64)
check()
"""
    run_child(SETUP + code).check()


def test_raw_calls(seam: Mode) -> None:
    """A system call past libc takes them all. The keeper has them still."""
    code = """
fds = before.values()
assert libc.syscall(CLOSE_RANGE, 3, ctypes.c_uint(MOST), 0) == 0
assert ours() == {}
check()
more = memory.array(noise(8 << 20, 1))  # the swap file grows
check()
assert np.array_equal(more, noise(8 << 20, 1))
with memory.pin(array[:100]):
    memory.advise(array, "cold")
assert memory.statistics().poisoned == memory.statistics().slot_errors == 0
other = frontswap.Memory("16M", page=4096)  # another one does not get the numbers that were ours
copied = source.copy()
again = other.array(copied)
assert not set(fds) & set(ours().values())
check()
other.advise(again, "cold")
assert np.array_equal(again, copied)
del array, more, again
memory.close()
other.close()
assert left_since(at_start) == {}
"""
    run_child("at_start = census()\n" + SETUP.replace("mine = open_pipe()", "mine = -1") + code, mode=seam).check()


def test_raw_calls_and_pages_with_holes(mode: Mode) -> None:
    """What was there in part when the arena was registered is filled by the keeper, too."""
    code = """
libc = ctypes.CDLL(None)
memory = frontswap.Memory("16M", page=65536)
first, second = memory.zeros(4 << 20, "u1"), memory.zeros(4 << 20, "u1")
first[::65536] = second[::65536] = 7
with memory.pin(memory.zeros(1)):
    assert libc.syscall(436, 3, ctypes.c_uint(0xFFFFFFFF), 0) == 0
    memory.advise(second, "cold")
    for at in range(1, 65536, 4096):
        assert not first[at::65536].any() and not second[at::65536].any()
    first[1::4096] = second[1::4096] = 9
    for array in first, second:
        memory.advise(array, "cold")
        assert (array[::65536] == 7).all() and (array[1::4096] == 9).all()
        assert np.count_nonzero(array) == 64 + 1024
"""
    run_child(code, mode=mode, environment={"FRONTSWAP_REGISTER": "late"}).check()


def test_a_file_that_gets_the_number(seam: Mode) -> None:
    """What the program opens under the numbers that were ours is never written, read, truncated or closed by us."""
    code = """
assert libc.syscall(CLOSE_RANGE, 3, ctypes.c_uint(MOST), 0) == 0
theirs = {}
for name, fd in before.items():
    new = os.memfd_create(name)
    os.write(new, b"theirs" * 100000)
    os.lseek(new, 0, 0)
    os.dup2(new, fd)
    os.close(new)
    theirs[name] = (fd, os.fstat(fd))
check()
more = memory.array(noise(8 << 20, 1))
check()
assert np.array_equal(more, noise(8 << 20, 1))
assert memory.statistics().poisoned == memory.statistics().slot_errors == 0
del array, more
memory.close()
for fd, found in theirs.values():
    now = os.fstat(fd)
    assert (now.st_ino, now.st_size, now.st_mtime_ns) == (found.st_ino, found.st_size, found.st_mtime_ns)
    assert os.lseek(fd, 0, 1) == 0
    assert os.pread(fd, 1 << 20, 0) == b"theirs" * 100000
    os.close(fd)  # it is the program's own, and can be closed
    assert not is_open(fd)
"""
    run_child(SETUP + code, mode=seam).check()


@pytest.mark.slow
def test_raw_calls_while_threads_fault(seam: Mode) -> None:
    """Descriptors go away in the middle of everything."""
    code = """
done = threading.Event()
wrong = []

def scan(i):
    rng = np.random.default_rng(i)
    while not done.is_set():
        at = int(rng.integers(0, len(source) - 65536))
        if not np.array_equal(array[at : at + 65536], source[at : at + 65536]):
            wrong.append(at)

threads = [threading.Thread(target=scan, args=(i,)) for i in range(3)]
for thread in threads:
    thread.start()
wait_until(lambda: memory.statistics().refaults > 100, "faults")
assert libc.syscall(CLOSE_RANGE, 3, ctypes.c_uint(MOST), 0) == 0
at = memory.statistics().refaults
wait_until(lambda: memory.statistics().refaults > at + 500, "faults after it")
done.set()
for thread in threads:
    thread.join()
assert wrong == []
assert memory.statistics().poisoned == memory.statistics().slot_errors == 0
"""
    run_child(SETUP + code, mode=seam).check()


def test_pipes_of_the_program_end() -> None:
    """The keeper's table has nothing but ours: a reader sees the end when the program closes its side."""
    code = """
read, write = os.pipe()
other = frontswap.Memory("16M")
os.close(write)
assert os.read(read, 1) == b""
other.close()
"""
    run_child(SETUP + code).check()


@pytest.mark.slow
def test_an_ordinary_user(seam: Mode) -> None:
    code = """
os.closerange(3, 65536)
check()
assert libc.syscall(CLOSE_RANGE, 3, ctypes.c_uint(MOST), 0) == 0
check()
"""
    run_child(SETUP + code, mode=seam, ordinary=True).check()


@pytest.mark.slow
def test_forked_children(seam: Mode) -> None:
    """A child has the same numbers, its own userfaultfd, a file of its own and the parent's, and a lease on that."""
    code = """
def child():
    os.closerange(3, 65536)
    memory.advise(array, "cold")
    check()
    memory.advise(array, "cold")
    if os.fork() == 0:
        check()
        os._exit(0)
    assert os.wait()[1] == 0
    assert libc.syscall(CLOSE_RANGE, 3, ctypes.c_uint(MOST), 0) == 0
    check()

for turn in range(2):
    memory.advise(array, "cold")  # the child reads it from the parent's file
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.closerange(3, 65536)
    check()
    assert os.waitpid(pid, 0)[1] == 0
    check()
assert libc.syscall(CLOSE_RANGE, 3, ctypes.c_uint(MOST), 0) == 0
check()
memory.advise(array, "cold")
# What has been lost cannot be inherited: a child that touches it is told so.
pid = os.fork()
if pid == 0:
    array.sum()
    os._exit(0)
assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGBUS
check()
"""
    assert "page lost" in run_child(SETUP + code, mode=seam).check().err


def test_subprocess() -> None:
    """The child of a vfork resets all handlers and closes all descriptors; the parent notices nothing."""
    code = """
import subprocess
script = "import os; print(sorted(os.listdir('/proc/self/fd')))"
for options in (
    {"close_fds": True},
    {"close_fds": False},
    {"close_fds": True, "restore_signals": False},
    {"close_fds": True, "pass_fds": (mine,)},
    {"close_fds": True, "preexec_fn": lambda: os.closerange(3, 4096)},
    {"close_fds": True, "start_new_session": True},
):
    faulthandler.enable()
    listed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, **options)
    names = {"0", "1", "2", "3"}
    if options.get("pass_fds"):
        names.add(str(mine))
    # 3 or so is the listing's own; no userfaultfd, no swap file
    assert all(int(name) < 768 for name in eval(listed.stdout)), listed.stdout
    assert ours() == before
    faulthandler.disable()
    check()
assert os.spawnv(os.P_WAIT, "/bin/true", ["true"]) == 0
assert os.system("true") == 0
assert os.popen("echo yes").read() == "yes\\n"
check()
"""
    run_child(SETUP + code).check()


def test_multiprocessing() -> None:
    """spawn and forkserver start, work and end; fork too."""
    code = """
import multiprocessing
for method in ("spawn", "forkserver", "fork"):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
    assert ours().keys() >= before.keys()
    check()
"""
    run_child(SETUP + code).check()


def test_daemon() -> None:
    """daemon(3), and what a hand-written one does: fork, a new session, everything closed."""
    code = """
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    assert libc.daemon(1, 1) == 0
    for fd in range(3, 1024):
        if fd != write:
            with contextlib.suppress(OSError):
                os.close(fd)
    again = frontswap.Memory("16M", page=4096)
    small = noise(8 << 20)
    there = again.array(small)
    os.closerange(3, write)
    os.closerange(write + 1, 65536)
    again.advise(there, "cold")
    os.write(write, b"right" if np.array_equal(there, small) else b"wrong")
    os._exit(0)
os.close(write)
assert os.read(read, 10) == b"right"
check()
"""
    run_child(SETUP + code).check()
