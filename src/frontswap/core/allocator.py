"""NumPy's allocator in front of the arena (NEP 49), so that arrays are plain arrays that own their data.

Called by NumPy with the GIL held; nothing here needs it. Requests below the threshold, and those that
cannot be served from a closed Memory, go to malloc; pointers are told apart by address.
"""

import cython
from cython.cimports.cpython.pycapsule import (
    PyCapsule_GetContext,
    PyCapsule_GetPointer,
    PyCapsule_New,
    PyCapsule_SetContext,
)
from cython.cimports.cpython.ref import Py_DECREF, Py_INCREF, PyObject
from cython.cimports.frontswap.core.arena import (
    SPARE,
    ZEROS,
    arena_allocate,
    arena_find,
    arena_free,
)
from cython.cimports.frontswap.core.uapi import uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc, realloc
from cython.cimports.libc.string import memcpy, strcpy

_import_array()

AUTO = cython.declare(cython.int, -1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def inside(face: cython.pointer(face_t), at: cython.p_void) -> cython.bint:
    """True if a pointer is of this arena."""
    return face.base <= cython.cast(uint64_t, at) < face.base + face.size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def usable(face: cython.pointer(face_t)) -> cython.bint:
    """False when the Memory is closed, or in a forked child, which has none of it."""
    return face.pg != cython.NULL and not face.pg.forked


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take(face: cython.pointer(face_t), size: uint64_t, zeroed: cython.bint, always: cython.bint) -> cython.p_void:
    """Memory for an array, from the arena or from malloc; NULL when it is refused."""
    global hint_error
    error: cython.int = 0
    address: uint64_t
    if not usable(face) or size == 0 or (not hint_wanted and not always and size < face.threshold):
        return calloc(1, size if size else 1) if zeroed else malloc(size if size else 1)
    address = arena_allocate(
        face.pg,
        size,
        hint_page if hint_wanted else face.pg.page,
        hint_typesize if hint_wanted else 0,
        hint_kind if hint_wanted else AUTO,
        0 if hint_wanted else SPARE | ZEROS if zeroed else SPARE,
        cython.address(error),
    )
    hint_error = error
    return cython.cast(cython.p_void, address)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def on_malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    """PyDataMemAllocator.malloc."""
    return take(cython.cast(cython.pointer(face_t), ctx), size, False, False)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def on_calloc(ctx: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    """PyDataMemAllocator.calloc: fresh pages of the arena read as zeros."""
    if size != 0 and count > cython.cast(cython.size_t, -1) // size:
        return cython.NULL
    return take(cython.cast(cython.pointer(face_t), ctx), count * size, True, False)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def on_free(ctx: cython.p_void, at: cython.p_void, size: cython.size_t) -> cython.void:
    """PyDataMemAllocator.free."""
    face: cython.pointer(face_t) = cython.cast(cython.pointer(face_t), ctx)
    if not inside(face, at):
        free(at)
    elif usable(face):
        arena_free(face.pg, cython.cast(uint64_t, at))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def on_realloc(ctx: cython.p_void, at: cython.p_void, size: cython.size_t) -> cython.p_void:
    """PyDataMemAllocator.realloc. NumPy does not tell the old size; the arena and malloc know it."""
    face: cython.pointer(face_t) = cython.cast(cython.pointer(face_t), ctx)
    new: cython.p_void
    old: uint64_t
    if not inside(face, at) and (not usable(face) or size < face.threshold):
        return realloc(at, size if size else 1)
    if inside(face, at):
        if not usable(face):
            return cython.NULL
        old = face.pg.blocks[arena_find(face.pg, cython.cast(uint64_t, at))].bytes
    else:
        old = malloc_usable_size(at)
    new = take(face, size, False, inside(face, at))  # what is here stays here, however small it becomes
    if new != cython.NULL:
        memcpy(new, at, old if old < size else size)
        on_free(ctx, at, old)
    return new


@cython.cfunc
@cython.exceptval(check=False)
def drop(capsule: object) -> cython.void:
    """The last array and the last user of the handler are gone."""
    face = cython.cast(cython.pointer(face_t), PyCapsule_GetPointer(capsule, "mem_handler"))
    plane = cython.cast(object, cython.cast(cython.pointer(PyObject), PyCapsule_GetContext(capsule)))
    free(face)
    Py_DECREF(plane)


@cython.cclass
class Allocator:
    """NumPy's face of one plane. Requests of `threshold` bytes and more go to the arena."""

    def __cinit__(self, plane: Plane, threshold: int):
        face: cython.pointer(face_t) = cython.cast(cython.pointer(face_t), calloc(1, cython.sizeof(face_t)))
        if face == cython.NULL:
            raise MemoryError("frontswap: no memory for an allocator")
        strcpy(face.handler.name, "frontswap")
        face.handler.version = 1
        face.handler.allocator.ctx = face
        face.handler.allocator.malloc = on_malloc
        face.handler.allocator.calloc = on_calloc
        face.handler.allocator.realloc = on_realloc
        face.handler.allocator.free = on_free
        face.pg = plane.pg
        face.base = plane.pg.base
        face.size = plane.pg.size
        face.threshold = threshold
        self.face = face
        self.plane = plane
        self.capsule = PyCapsule_New(face, "mem_handler", drop)
        # Arrays hold the capsule, the capsule holds the plane.
        PyCapsule_SetContext(self.capsule, cython.cast(cython.p_void, plane))
        Py_INCREF(plane)

    def enter(self) -> object:
        """Make it NumPy's allocator in this context; returns the one before, for leave()."""
        return PyDataMem_SetHandler(self.capsule)

    def leave(self, before: object) -> None:
        """Put an allocator back."""
        PyDataMem_SetHandler(before)

    def hint(self, page: int, typesize: int, kind: int) -> None:
        """Announce the array that this thread makes next; unhint() ends it."""
        global hint_page, hint_typesize, hint_kind, hint_error, hint_wanted
        hint_page = page
        hint_typesize = typesize
        hint_kind = kind
        hint_error = 0
        hint_wanted = 1

    def unhint(self) -> int:
        """End of hint(): 0, or why the arena refused (an errno or Plane.REFUSED_*)."""
        global hint_wanted
        hint_wanted = 0
        return hint_error

    def close(self) -> None:
        """The plane goes; arrays that live on can still be freed."""
        self.face.pg = cython.NULL
