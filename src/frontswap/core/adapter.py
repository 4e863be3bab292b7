"""The adapter: a backend written in Python (frontswap.backends.Backend) behind the native contract.

It takes the GIL for each page. So it stands behind swap areas only: behind the memory door the thread that faults may
hold the GIL itself, and would wait for ever (refused where the stack is put together).

What a backend raises is a refusal at a store, and a lost page at a load; it is counted (reject_error, failed_loads)
and logged as ``frontswap.backends``, and a store that raised is followed by an invalidate: nobody knows what it left.
"""

import logging

import cython
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.cpython.exc import PyErr_SetInterrupt
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
STORE = cython.declare(cython.int, 0)
LOAD = cython.declare(cython.int, 1)
FORGET = cython.declare(cython.int, 2)


class PageBytes:
    """The bytes of one page, for the time of one call: it knows whether somebody still looks at them.

    A memoryview alone does not: slices of it and NumPy arrays over it keep the memory, and release() does not see them.
    """

    def __getbuffer__(self, view: cython.pointer(Py_buffer), flags: cython.int):
        if self.at == cython.NULL:
            raise BufferError("the call that this page was for is over")
        PyBuffer_FillInfo(view, self, self.at, self.size, self.is_readonly, flags)
        self.looking += 1

    def __releasebuffer__(self, view: cython.pointer(Py_buffer)):
        self.looking -= 1


def failed(backend, what, type, offset, error):
    """A call of a backend has raised: log it. Nothing may leave this function, or the caller's answer would be lost."""
    try:
        _log.warning("%r: %s of type %d, offset %d failed", backend, what, type, offset, exc_info=error)
    except KeyboardInterrupt:
        PyErr_SetInterrupt()  # comes again when this is over
    except BaseException:  # a broken handler of the program's
        pass


def call(b, what, type, offset, at, size):
    """Call store (0), load (1) or invalidate_page (2); what it returned, or None when it raised.

    An interrupt of the user's arrives in whatever Python code runs, so in the backend too. It must neither be swallowed
    nor cost a page: the call is made again, and the interrupt is raised when it is over.
    """
    backend: object = cython.cast(object, b.own)
    answer: object = None
    bytes: PageBytes
    tries: cython.int
    interrupted: cython.bint = False
    for tries in range(100):
        bytes = None
        try:
            bytes = PageBytes()
            bytes.at = at
            bytes.size = size
            bytes.is_readonly = what == STORE
            if what == FORGET:
                answer = backend.invalidate_page(type, offset)
            else:
                view = memoryview(bytes)
                try:
                    answer = backend.store(type, offset, view) if what == STORE else backend.load(type, offset, view)
                finally:
                    view.release()
                if bytes.looking:
                    raise BufferError("it keeps a view of the page, which will show other bytes later: copy them")
            break
        except KeyboardInterrupt:
            interrupted = True
            answer = None
        except BaseException as error:
            answer = None
            failed(backend, ("store", "load", "invalidate_page")[what], type, offset, error)
            break
        finally:
            if bytes is not None:
                bytes.at = cython.NULL  # whoever kept it (page.obj) gets no view of what is there next
    if interrupted:
        PyErr_SetInterrupt()
    return answer


def call_store(b, type, offset, data, size):
    """Backend.store; ACCEPTED or REFUSED_*. What is no answer, or raises when it is looked at, is a refusal."""
    code: cython.long = REFUSED_ERROR
    answer: object = None
    try:
        answer = call(b, STORE, type, offset, cython.cast(cython.p_void, data), size)
        if answer is True:
            return ACCEPTED
        if answer is False:
            return REFUSED_OTHER
        if isinstance(answer, int) and 0 < answer < REFUSALS:
            code = answer
            if code != REFUSED_ERROR:
                return cython.cast(cython.int, code)
        elif answer is not None:
            raise ValueError(f"store() returned a {answer.__class__.__name__}: must be True, False or a Refusal")
    except BaseException as error:
        failed(cython.cast(object, b.own), "store", type, offset, error)
    call_forget(b, type, offset)
    return REFUSED_ERROR


def call_load(b, type, offset, into, size):
    """Backend.load; 0 or LOAD_BACKEND."""
    try:
        if call(b, LOAD, type, offset, into, size) is True:
            return 0
    except BaseException as error:
        failed(cython.cast(object, b.own), "load", type, offset, error)
    return LOAD_BACKEND


def call_forget(b, type, offset):
    """Backend.invalidate_page."""
    try:
        call(b, FORGET, type, offset, cython.NULL, 0)
    except BaseException as error:
        failed(cython.cast(object, b.own), "invalidate_page", type, offset, error)


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
