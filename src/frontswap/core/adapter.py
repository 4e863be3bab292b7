"""The adapter: a backend written in Python (frontswap.backends.Backend) behind the native contract.

It takes the GIL for each page. So it stands behind swap areas only: behind the memory door the thread that faults may
hold the GIL itself, and would wait for ever (refused where the stack is put together).

What a backend raises is a refusal at a store, and a lost page at a load; it is counted (reject_error, failed_loads)
and logged as ``frontswap.backends``, and a store that raised is followed by an invalidate: nobody knows what it left.
"""

import logging

import cython
from cython.cimports.cpython.bool import PyBool_Check
from cython.cimports.cpython.buffer import PyBUF_READ, PyBUF_WRITE
from cython.cimports.cpython.exc import PyErr_SetInterrupt
from cython.cimports.cpython.memoryview import PyMemoryView_FromMemory
from cython.cimports.frontswap.core.layout import (
    ACCEPTED,
    RECORD_BACKEND,
    REFUSALS,
    REFUSED_ERROR,
    REFUSED_OTHER,
    page_bytes,
)
from cython.cimports.frontswap.core.record import LOAD_BACKEND
from cython.cimports.frontswap.core.uapi import uint64_t

_log = logging.getLogger("frontswap.backends")


def failed(backend, what, type, offset, error):
    """A call of a backend has raised. An interrupt of the user's is not swallowed with it."""
    if isinstance(error, KeyboardInterrupt):
        PyErr_SetInterrupt()
    try:
        _log.warning("%r: %s of type %d, offset %d failed", backend, what, type, offset, exc_info=error)
    except Exception:  # a broken handler of the program's must not break the page's path
        pass


def call_store(b, type, offset, data, size):
    """Backend.store; ACCEPTED or REFUSED_*."""
    backend: object = cython.cast(object, b.own)
    view: object = None
    code: cython.long
    try:
        view = PyMemoryView_FromMemory(cython.cast(cython.p_char, cython.cast(cython.p_void, data)), size, PyBUF_READ)
        answer = backend.store(type, offset, view)
        view.release()  # a view that is kept would show other bytes later: BufferError
        if PyBool_Check(answer):
            return ACCEPTED if answer else REFUSED_OTHER
        code = answer
        if not 0 < code < REFUSALS:
            raise ValueError(f"store() returned {answer!r}: must be True, False or a Refusal")
        return code
    except BaseException as error:
        failed(backend, "store", type, offset, error)
        call_forget(b, type, offset)
        return REFUSED_ERROR


def call_load(b, type, offset, into, size):
    """Backend.load; 0 or LOAD_BACKEND."""
    backend: object = cython.cast(object, b.own)
    view: object = None
    try:
        view = PyMemoryView_FromMemory(cython.cast(cython.p_char, cython.cast(cython.p_void, into)), size, PyBUF_WRITE)
        answer = backend.load(type, offset, view)
        view.release()
        if not PyBool_Check(answer):
            raise ValueError(f"load() returned {answer!r}: must be True or False")
        return 0 if answer else LOAD_BACKEND
    except BaseException as error:
        failed(backend, "load", type, offset, error)
        return LOAD_BACKEND


def call_forget(b, type, offset):
    """Backend.invalidate_page."""
    backend: object = cython.cast(object, b.own)
    try:
        backend.invalidate_page(type, offset)
    except BaseException as error:
        failed(backend, "invalidate_page", type, offset, error)


def python_store(b, pg, ctx, page, data, kind):
    """The contract's store."""
    code: cython.int
    number: uint32_t = pg.pages[page].block
    with cython.gil:
        code = call_store(b, number - 1, page - pg.blocks[number].first, data, page_bytes(pg, page))
    if code == ACCEPTED:
        pg.pages[page].where = cython.cast(uint64_t, b.number) << 56
        kind[0] = RECORD_BACKEND
    return code


def python_load(b, pg, ctx, page, state, more):
    """The contract's load."""
    code: cython.int
    number: uint32_t = pg.pages[page].block
    with cython.gil:
        code = call_load(b, number - 1, page - pg.blocks[number].first, ctx.into, page_bytes(pg, page))
    return code


def python_forget(b, pg, page, state):
    """The contract's invalidate."""
    number: uint32_t = pg.pages[page].block
    with cython.gil:
        call_forget(b, number - 1, page - pg.blocks[number].first)


class PythonBackend(Native):
    """A frontswap.backends.Backend as a native one; types are those that Python sees, from 0."""

    def __cinit__(self, name, backend, *_args, **_settings):
        self.backend = backend
        self.is_python = True
        self.b.own = cython.cast(cython.p_void, backend)
        self.b.store = python_store
        self.b.load = python_load
        self.b.forget = python_forget
