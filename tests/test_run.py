"""`frontswap run` and `frontswap stats`: a script under a Memory, and the counters as the kernel shows them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import c_library
from helpers import FRONTSWAP, PATIENCE, forbidden, without_notice

import frontswap
from frontswap.memory.startup import VARIABLE, program_folder
from frontswap.observe.debugfs import NAMES, DebugFS, process_statistics

JOB = """
import sys
import numpy as np
from pathlib import Path

if __name__ == "__main__":
    array = np.cumsum(np.random.default_rng(0).normal(size=6_000_000)).round(2)
    for _ in range(2):
        array = array + 1
    print(sys.argv[1:], Path(sys.argv[0]).name, f"{array.sum():.1f}", sys.path[0] == str(Path(__file__).parent))
    sys.exit(3)
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(JOB)
    return path


def run(*arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [FRONTSWAP, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120 * PATIENCE, **settings)


def test_a_script_is_the_script_that_it_is(job: Path, tmp_path: Path) -> None:
    plain = subprocess.run([sys.executable, job, "--x", "-c", "1"], capture_output=True, text=True, check=False)
    ours = run("run", "--memory", "24M", "--debugfs", tmp_path / "fs", job, "--x", "-c", "1")
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout) == (3, plain.stdout)
    assert without_notice(ours.stderr).startswith("frontswap: limit 24 MiB, ")
    assert sorted(path.name for path in (tmp_path / "fs").iterdir()) == sorted([*NAMES, ".statistics.json"])
    numbers = {name: int((tmp_path / "fs" / name).read_text()) for name in NAMES}
    assert numbers["succ_stores"] > 100
    assert run("stats", "--debugfs", tmp_path / "fs").stdout == "".join(f"{n}:{numbers[n]}\n" for n in NAMES)
    known = json.loads(run("stats", "--json", tmp_path / "fs").stdout)
    assert known["memories"][0]["backends"][0]["name"] == "zcache"
    assert "succ_stores" in run("stats", tmp_path / "fs").stdout


# What a program can see of how it was started, each with its arguments.
PROGRAMS = {
    "argv": "import sys; print(__name__, sys.argv, sys.path[:1], sys.flags, sys.orig_argv[1:] != [], __file__)",
    "traceback": "def f():\n    raise LookupError('mine')\nf()",
    "syntax error": "def f(:",
    "exit status": "import sys; sys.exit(7)",
    "message": "import sys; sys.exit('sorry')",
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "abort": "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
    "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT); [None for _ in range(10**9)]",
    "input": "import sys; print(sys.stdin.read().upper())",
    "atexit": "import atexit, sys\natexit.register(lambda: print('last words', file=sys.stderr))\nprint('first')",
    "_exit": "import os; print('gone', flush=True); os._exit(5)",
    "variables": "import os\nos.environ['OMP_NUM_THREADS'] = '1'\nimport sys; print('numpy' in sys.modules)",
    "handlers": "import signal; print([signal.getsignal(s) for s in signal.Signals if s != signal.SIGBUS])",
    "fork": "import os, sys\nif os.fork() == 0: sys.exit(3)\nprint(os.wait()[1])",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_can_tell(name: str, tmp_path: Path) -> None:
    """Exit status, output, tracebacks: those of the plain run."""
    script = tmp_path / "job.py"
    script.write_text(PROGRAMS[name])
    environment = {**os.environ, "PYTHONFAULTHANDLER": ""}
    plain = subprocess.run(
        [sys.executable, script, "a", "--b"], input="text", capture_output=True, text=True, check=False, env=environment
    )
    ours = run("run", "--memory", "16M", "--quiet", script, "a", "--b", input="text", env=environment)
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_a_core_dump_is_written_without_the_arena(tmp_path: Path) -> None:
    """The kernel would ask for every page of a TiB, and would get none of those that are away."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        pytest.skip(f"core dumps do not go to the directory of the process here: {pattern}")
    code = """
import os, resource
import numpy as np
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
array = np.random.default_rng(0).random(6 << 20)
os.abort()
"""
    done = run("run", "--memory", "16M", "-c", code, cwd=tmp_path)
    assert done.returncode == -signal.SIGABRT, done.stderr
    (core,) = tmp_path.glob("core*")
    assert core.read_bytes()[:4] == b"\x7fELF"
    assert core.stat().st_size < 1 << 30
    assert core.stat().st_blocks * 512 < 200 << 20


def test_module_and_code(tmp_path: Path) -> None:
    code = "import sys; print(__name__, sys.argv)"
    done = run("run", "--memory", "16M", "--quiet", "-c", code, "-b", "a")
    assert (done.stdout, done.stderr) == ("__main__ ['-c', '-b', 'a']\n", "")
    done = run("run", "--memory", "16M", "--quiet", "-m", "json.tool", "--help")
    assert done.returncode == 0
    assert "usage" in done.stdout
    (tmp_path / "__main__.py").write_text("print('a directory')")
    assert run("run", "--memory", "16M", "--quiet", tmp_path).stdout == "a directory\n"


ALL_OVER = """
import json, os, subprocess, sys, threading, multiprocessing
import numpy as np
import frontswap
def allocated():
    array = np.ones(3 << 20)
    return frontswap.installed().statistics().allocated_bytes >= array.nbytes
def answer(_):
    return allocated()
if __name__ == "__main__":
    found = {"main": allocated()}
    thread = threading.Thread(target=lambda: found.__setitem__("thread", allocated()))
    thread.start()
    thread.join()
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            found[method] = pool.map(answer, [0])[0]
    here = os.path.dirname(__file__)
    code = f"import sys; sys.path.insert(0, {here!r}); import all_over; print(all_over.allocated())"
    for name, flags in (("exec", []), ("isolated", ["-I"])):
        done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)
        found[name] = done.stdout == "True\\n" and done.stderr == ""
    print(json.dumps(found))
"""


def test_threads_and_children_are_under_it(tmp_path: Path) -> None:
    (tmp_path / "all_over.py").write_text(ALL_OVER)
    done = run("run", "--memory", "64M", tmp_path / "all_over.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == dict.fromkeys(found, True)
    assert len(found) == 7
    said = without_notice(done.stderr)
    assert said.count("frontswap: ") == 1, "only the program itself says something at the end"


def test_a_directory_for_the_swap_file_is_the_same_for_children_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "swap").mkdir()
    code = "import os; print([os.path.realpath('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd')])"
    job = f"import os, subprocess, sys; os.chdir('/var/tmp'); subprocess.run([sys.executable, '-c', {code!r}])"
    done = run("run", "--memory", "16M", "--swap", "swap", "--quiet", "-c", job, cwd=tmp_path)
    assert f"'{tmp_path / 'swap'}/" in done.stdout, done


def test_a_script_on_stdin() -> None:
    done = run("run", "--memory", "16M", "--quiet", "-", "a", input="import sys; print(sys.argv)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "['-', 'a']\n", "")


def test_without_stderr(tmp_path: Path) -> None:
    """What would be said is not said, and not on stdout either."""
    command = [FRONTSWAP, "run", "--memory", "16M", "-c", "print(5)"]
    done = subprocess.run(["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"5\n")
    code = f"import os, subprocess, sys; os.rmdir({str(tmp_path / 'swap')!r}); os.close(2)"
    code += "; subprocess.run([sys.executable, '-c', 'print(6)'])"
    (tmp_path / "swap").mkdir()
    done = subprocess.run(
        [*command[:-2], "--swap", str(tmp_path / "swap"), "-c", code], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"6\n")


def test_modules_beside_the_script_are_its_own(tmp_path: Path) -> None:
    """Frontswap imports some of the standard library before the program has begun."""
    for name in ("resource", "token", "fractions"):
        (tmp_path / f"{name}.py").write_text("mine = __file__")
    (tmp_path / "logging").mkdir()
    (tmp_path / "logging" / "__init__.py").write_text("mine = __file__")
    (tmp_path / "shutil").mkdir()  # no package: the library's comes before it
    job = tmp_path / "job.py"
    job.write_text(
        "import resource, token, fractions, logging, shutil; print(token.mine, logging.mine, shutil.copyfile)"
    )
    plain = subprocess.run([sys.executable, job], capture_output=True, text=True, check=True)
    ours = run("run", "--memory", "16M", "--quiet", job)
    assert (ours.returncode, ours.stdout.split(" at ")[0], ours.stderr) == (0, plain.stdout.split(" at ")[0], "")
    for how in (["-m", "job"], ["-c", job.read_text()]):
        assert run("run", "--memory", "16M", "--quiet", *how, cwd=tmp_path).stdout.startswith(str(tmp_path)), how


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        (["-X", "dev", "-B", "/a/job.py", "-m"], "/a"),
        (["-W", "error", "-m", "job"], "."),
        (["-c", "print()"], "."),
        (["-mjob"], "."),
        (["-", "/a/job.py"], "."),
        ([], "."),
        (["/usr"], "/usr"),
    ],
)
def test_where_a_programs_own_modules_are(command: list[str], folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    monkeypatch.setattr("os.path.isfile", lambda path: path == "/a/job.py")
    assert program_folder(["python", *command]) == os.path.realpath(folder)


def test_another_interpreter_in_the_same_process() -> None:
    """Its large objects are ours as well, and it has nothing to begin."""
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
found = interpreters.create()
run = getattr(interpreters, "run_string", None) or interpreters.exec
run(found, "x = bytes(30 << 20); print(len(x))")
interpreters.destroy(found)
"""
    done = run("run", "--memory", "16M", "--quiet", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{30 << 20}\n", "")


def test_summary_as_json(job: Path) -> None:
    done = run("run", "--memory", "24M", "--summary", "json", job)
    document = json.loads(done.stderr)
    assert ["forbids userfaultfd" in notice for notice in document.get("notices", [])] == [True] * forbidden()
    found = document["frontswap"]
    assert found["limit_bytes"] == 24 << 20
    assert found["registered"] is True
    assert found["refaults"] > 0
    done = run("run", "-c", "1", env={**os.environ, "FRONTSWAP_REGISTER": "late"})
    assert without_notice(done.stderr).startswith("frontswap: everything fits in ")


def test_an_order_that_is_none() -> None:
    """In the environment of somebody who is not under `frontswap run`."""
    environment = {**os.environ, VARIABLE: "{}"}
    done = subprocess.run([sys.executable, "-c", "1"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"frontswap: {VARIABLE} in the environment is not what")


def test_a_child_without_room_goes_on(tmp_path: Path) -> None:
    """The directory of the swap file has gone when the child starts."""
    swap = tmp_path / "place" / "swap"
    code = (
        f"import os, subprocess, sys; os.rmdir({str(swap)!r}); os.rmdir({str(swap.parent)!r}); "
        "print(subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True, text=True))"
    )
    swap.mkdir(parents=True)
    done = run("run", "--memory", "16M", "--swap", swap, "--quiet", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "stdout='5\\n'" in done.stdout
    assert "goes on without: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--memory", "16M"], "job.py='nothing': must be a script, -m MODULE or -c CODE"),
        (["run", "--memory", "16M", "/no/such.py"], "job.py='/no/such.py': must be a script that exists"),
        (["run", "--memory", "16M", "--threshold", "1", "-c", "1"], "threshold='1': must be at least 4 KiB"),
        (["run", "--memory", "16M", "--page", "1", "-c", "1"], "page='1': must be "),
        (["run", "--memory", "16M", "--swap", "/no/such", "-c", "1"], "/no/such"),
        (["run", "--memory", "1M", "-c", "1"], "limit='1M': must be at least 16 MiB"),
        (["run", "--memory", "16M", "--backends", "zcache:codec=x", "-c", "1"], "backends='zcache:codec': 'x' must be"),
        (["run", "--memory", "16M", "--backends", "model", "-c", "1"], "GIL"),
        (["run", "--memory", "16M", "--debugfs", "/no/such/dir", "-c", "1"], "debugfs='/no/such/dir': must be"),
        (["stats", "/no/such/dir"], "DIR='/no/such/dir': must be a directory"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debugfs_counts_what_swap_areas_do(tmp_path: Path) -> None:
    before = process_statistics()
    with frontswap.Frontswap("model") as hooks, DebugFS(tmp_path / "fs", every=3600) as files:
        area = hooks.swapon(8)
        page = np.zeros(4096, "u1")
        for offset in range(8):
            area.store(offset, page)
        area.load(0, page)
        area.invalidate_page(1)
        files.update()
        now = {name: int((tmp_path / "fs" / name).read_text()) - before[name] for name in NAMES}
        assert now == {"loads": 1, "succ_stores": 8, "failed_stores": 0, "invalidates": 1}
    assert int((tmp_path / "fs" / "succ_stores").read_text()) >= 8  # what has been closed still counts


def test_debugfs_needs_a_time_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(frontswap.ParameterError, match="every"):
        DebugFS(tmp_path, every=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(frontswap.ParameterError, match="debugfs"):
        DebugFS(tmp_path / "file")


# Blocks one behind the other in what it maps, 8 MiB at a time. jemalloc, tcmalloc and mimalloc map as much.
ALLOCATOR = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char *at, *end;
static void *take(size_t align, size_t n) {
    size_t room = n + align + 32;
    char *found;
    pthread_mutex_lock(&mutex);
    if (end - at < (long)room) {
        size_t more = room > (8 << 20) ? (room + 4095) & ~4095UL : 8 << 20;
        at = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        end = at + more;
    }
    found = (char *)(((uintptr_t)at + 16 + align - 1) & -align);
    at = found + n;
    pthread_mutex_unlock(&mutex);
    ((size_t *)found)[-1] = n;
    return found;
}
void *malloc(size_t n) { return take(16, n); }
void free(void *p) {}
size_t malloc_usable_size(void *p) { return p ? ((size_t *)p)[-1] : 0; }
void *calloc(size_t k, size_t n) { return memset(take(16, k * n), 0, k * n); }
void *realloc(void *p, size_t n) {
    size_t old = malloc_usable_size(p);
    void *new = take(16, n);
    return p ? memcpy(new, p, old < n ? old : n) : new;
}
void *memalign(size_t align, size_t n) { return take(align < 16 ? 16 : align, n); }
void *aligned_alloc(size_t align, size_t n) { return memalign(align, n); }
int posix_memalign(void **p, size_t align, size_t n) { *p = memalign(align, n); return 0; }
void *valloc(size_t n) { return take(4096, n); }
void *pvalloc(size_t n) { return take(4096, (n + 4095) & ~4095UL); }
"""


def test_an_allocator_that_has_been_preloaded(tmp_path: Path) -> None:
    """In the place of libc's: what it maps for small objects is the kernel's, and arrays are ours."""
    library = c_library(ALLOCATOR, tmp_path)
    code = """
import ctypes, numpy
words = [bytes([n % 256]) * (1000 + n % 100) for n in range(20_000)]
arrays = [numpy.arange(n, n + 2_000_000) for n in range(4)]
assert all(word == bytes([n % 256]) * (1000 + n % 100) for n, word in enumerate(words))
assert all(array[-1] == n + 1_999_999 for n, array in enumerate(arrays))
del words[::2], arrays
print(sum(map(len, words)))
"""
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = run(
        "run", "--memory", "24M", "--summary", "json", "-c", code, env={**os.environ, "LD_PRELOAD": str(library)}
    )
    assert (ours.returncode, ours.stdout) == (0, plain.stdout), ours.stderr
    found = json.loads(ours.stderr.splitlines()[-1])["frontswap"]
    assert found["registered"]
    assert found["evicted_dirty"] > 0
