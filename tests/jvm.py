"""OpenJDK inside of this process: more of its heap in use than the limit, and collected. LIBJVM OPTION..."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from typing import Any

import frontswap

Pointer, Int = ctypes.c_void_p, ctypes.c_int32
MiB = 1 << 20


class Option(ctypes.Structure):
    """JavaVMOption of jni.h."""

    _fields_ = [("text", ctypes.c_char_p), ("extra", Pointer)]


class Arguments(ctypes.Structure):
    """JavaVMInitArgs."""

    _fields_ = [("version", Int), ("count", Int), ("options", ctypes.POINTER(Option)), ("ignore", ctypes.c_uint8)]


texts = [text.encode() for text in sys.argv[2:]]
options = (Option * len(texts))(*[Option(text, None) for text in texts])
arguments = Arguments(0x00010008, len(texts), options, 0)
vm, environment = Pointer(), Pointer()
library = ctypes.CDLL(sys.argv[1])
assert library.JNI_CreateJavaVM(ctypes.byref(vm), ctypes.byref(environment), ctypes.byref(arguments)) == 0
functions = ctypes.cast(environment, ctypes.POINTER(ctypes.POINTER(Pointer)))[0]


def function(number: int, result: type | None, *types: type) -> Any:
    """A function of the JNI by its number in the table."""
    return ctypes.CFUNCTYPE(result, Pointer, *types)(functions[number])


delete, new = function(23, None, Pointer), function(176, Pointer, Int)
get, put = function(200, None, Pointer, Int, Int, Pointer), function(208, None, Pointer, Int, Int, Pointer)
choose = random.Random(1)
kept: list[tuple[int, bytes]] = []
for _ in range(300):
    array = new(environment, MiB)
    assert array, "the heap is full"
    part = choose.randbytes(64)
    put(environment, array, 0, MiB, part * (MiB // 64))
    kept.append((array, part))
    if len(kept) > 180:
        delete(environment, kept.pop(choose.randrange(len(kept)))[0])
found = ctypes.create_string_buffer(MiB)
for array, part in kept:
    get(environment, array, 0, MiB, found)
    assert found.raw == part * (MiB // 64)
memory = frontswap.installed()
assert memory is not None
now = memory.statistics()
assert now.allocated_bytes > 180 * MiB, now
assert now.evicted_dirty > 0, now
assert now.poisoned == 0, now
print("right", flush=True)
os._exit(0)
