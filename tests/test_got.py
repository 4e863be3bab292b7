"""Interposition: which slots are patched, and that the dynamic linker still answers as before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import run_child

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

PROBE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
void *const table[] = {(void *)dlsym, (void *)"other"};
void *direct(void) { return (void *)dlsym; }
void *by_table(void) { return table[0]; }
void *ask(void *handle, const char *name) { return dlsym(handle, name); }
void *next(const char *name) { return dlsym(RTLD_NEXT, name); }
void *anywhere(const char *name) { return dlsym(RTLD_DEFAULT, name); }
void *open_it(const char *name) { return dlopen(name, RTLD_NOW); }
int mine(void) { return 1; }
"""

BELOW = "int mine(void) { return 2; } int deep(void) { return 3; }\n"

SETUP = """
def load(path):
    lib = ctypes.CDLL(path)
    for name in ("direct", "by_table", "ask", "next", "anywhere", "open_it"):
        getattr(lib, name).restype = ctypes.c_void_p
    return lib

def protection(address):
    for line in open("/proc/self/maps"):
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        if low <= address < high:
            return line.split()[1]

def call(address):
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()

from frontswap.core import got
os.chdir({folder!r})
before = load("./libbefore.so")
real = before.direct()
memory = frontswap.Memory(limit="16M")
ours = before.direct()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries with full RELRO and with lazy binding, and one that only their RUNPATH finds."""
    made = tmp_path_factory.mktemp("got")
    made.chmod(0o755)
    (made / "deep").mkdir()
    (made / "probe.c").write_text(PROBE)
    (made / "below.c").write_text(BELOW)
    for command in (
        "cc -shared -fPIC -o deep/libbelow.so below.c",
        "cc -shared -fPIC -o deep/libonlyhere.so below.c",
        *(
            f"cc -shared -fPIC {how} -o lib{name}.so probe.c -Wl,--no-as-needed "
            "deep/libbelow.so -Wl,-rpath,$ORIGIN/deep -Wl,--enable-new-dtags -ldl"
            for name, how in (
                ("before", "-Wl,-z,relro,-z,now"),
                ("after", "-Wl,-z,relro,-z,now"),
                ("lazy", "-Wl,-z,lazy"),
                ("plain", "-Wl,-z,norelro,-z,lazy"),
            )
        ),
    ):
        subprocess.run(command.split(), cwd=made, check=True)
    return made


def run(folder: Path, code: str) -> object:
    return run_child(SETUP.format(folder=str(folder)) + code).check().result


@pytest.mark.parametrize("name", ["before", "after", "lazy", "plain"])
def test_every_kind_of_slot_is_patched(folder: Path, name: str) -> None:
    """The slots of calls, of addresses, and constant tables; loaded before the first Memory and after."""
    found = run(
        folder,
        f"""
lib = load("./lib{name}.so")
itself = ctypes.cast(lib.by_table, ctypes.c_void_p).value
print(json.dumps({{
    "changed": real != ours,
    "address": lib.direct() == ours,
    "table": lib.by_table() == ours,
    "call": lib.ask(ctypes.c_void_p(lib.open_it(None)), b"dlsym") == ours,
    "protection": protection(ctypes.addressof(ctypes.c_void_p.in_dll(lib, "table"))),
    "refused": got.counters()["refused"],
}}))
""",
    )
    assert isinstance(found, dict)
    expected = "rw-p" if name == "plain" else "r--p"
    assert found == {
        "changed": True, "address": True, "table": True, "call": True, "protection": expected, "refused": 0,
    }  # fmt: skip


def test_the_linker_still_sees_the_caller(folder: Path) -> None:
    """RTLD_NEXT, RTLD_DEFAULT in a local scope, a name that only the caller's RUNPATH finds."""
    found = run(
        folder,
        """
print(json.dumps({
    "next": call(before.next(b"mine")),
    "local": call(before.anywhere(b"deep")),
    "first": call(before.anywhere(b"mine")),
    "runpath": before.open_it(b"libonlyhere.so") is not None,
    "missing": before.anywhere(b"frontswap_has_no_such_thing"),
    "next_is_real": before.next(b"dlsym") == real,
    "default_is_ours": before.anywhere(b"dlsym") == ours,
}))
""",
    )
    assert found == {
        "next": 2, "local": 3, "first": 1, "runpath": True, "missing": None, "next_is_real": True,
        "default_is_ours": True,
    }  # fmt: skip


def test_a_later_walk_patches_nothing(folder: Path) -> None:
    """The second looks once more at objects with slots that the linker had not filled; the third at none."""
    found = run(
        folder,
        """
second = frontswap.Memory(limit="16M")
before = got.counters()
again = frontswap.Memory(limit="16M")
after = got.counters()
print(json.dumps([after["slots"] - before["slots"], after["objects"] - before["objects"]]))
""",
    )
    assert found == [0, 0]


def test_loading_and_unloading_in_threads(folder: Path) -> None:
    """Objects come and go while other threads ask for symbols: nothing crashes, and what stays is patched."""
    found = run(
        folder,
        """
import _ctypes
def churn(name):
    for _ in range(200):
        handle = _ctypes.dlopen(f"./lib{name}.so", os.RTLD_NOW)
        _ctypes.dlsym(handle, "mine")
        _ctypes.dlclose(handle)
threads = [threading.Thread(target=churn, args=(name,)) for name in ("after", "lazy", "plain", "after")]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([load(f"./lib{name}.so").direct() == ours for name in ("after", "lazy", "plain")]))
""",
    )
    assert found == [True, True, True]
