"""What the tests of fork share: a Memory most of which is on disk, and children that check it."""

from __future__ import annotations

from helpers import Mode, run_child

# What the snippets share. 24 MiB of noise in 16 MiB: most of it is on disk; the walk is compressed.
START = """
libc = ctypes.CDLL(None, use_errno=True)
memory = frontswap.Memory("16M", page={page})
data, numbers = noise(24 << 20), walk(1 << 20)
array, floats = memory.array(data), memory.array(numbers)
def right():
    # not same(): its asserts name arrays of 24 MiB when they fail
    return np.array_equal(array, data) and np.array_equal(floats, numbers)
def forked(work):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(int(100 * PATIENCE))
        status = 0 if work() in (None, True) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
def ended(child):
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
assert right()
"""


def child(code: str, mode: Mode | None = None, *, page: int = 4096, ordinary: bool = False) -> None:
    """Run a snippet after START."""
    run_child(START.format(page=page) + code, mode=mode, ordinary=ordinary).check()
