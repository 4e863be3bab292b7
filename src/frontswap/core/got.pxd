# Types of ELF are `void` here: elf.pxd is for got.py alone, and every module that cimports this one would get it.
from frontswap.core.uapi cimport int32_t, int64_t, lock_t, uint32_t, uint64_t

cdef enum:
    MOST_SYMBOLS = 256
    NAME_SLOTS = 1024         # a power of two, several times MOST_SYMBOLS
    MOST_OBJECTS = 4096       # that are remembered; others are looked at again each time

ctypedef struct entry_t:      # a function that is interposed
    const char *name
    void *replacement
    void *original

ctypedef entry_t *entry_p

ctypedef struct object_t:     # a loaded object, while it is patched
    uint64_t base
    uint64_t low              # its image: [low, high)
    uint64_t high
    uint64_t relro            # read-only since it was loaded: [relro, relro_end)
    uint64_t relro_end
    const void *headers       # Elf64_Phdr
    int header_count
    const char *strings
    const void *symbols       # Elf64_Sym
    bint open                 # relro is writable at this moment
    bint sealed               # it cannot be made so
    bint again                # look at it again in the next walk

ctypedef object_t *object_p

cdef extern from * nogil:
    """
    static __thread int fs_forking_here;
    #define FS_FORKING_HERE (&fs_forking_here)
    """
    int *forking_here "FS_FORKING_HERE"       # this thread forks

ctypedef struct image_t:      # where a loaded object lies, and what it was looked for by
    uint64_t low
    uint64_t high
    const void *function

ctypedef image_t *image_p

ctypedef struct seen_t:
    uint64_t base
    const void *headers

ctypedef struct tally_t:
    int64_t objects           # looked at
    int64_t slots             # patched, each time counted
    int64_t others            # of the name, but bound to somebody else's function
    int64_t refused           # that could not be written
    int64_t walks

cdef entry_t entries[MOST_SYMBOLS]
cdef int32_t entry_count
cdef int32_t names[NAME_SLOTS]            # number of the entry + 1
cdef unsigned char firsts[256]            # first and second letters of the names: most symbols end here
cdef unsigned char seconds[256]
cdef seen_t seen[MOST_OBJECTS]
cdef int64_t seen_adds                    # what the dynamic linker had loaded and unloaded at the last walk
cdef int64_t seen_subs
cdef int32_t seen_entries
cdef int32_t position                     # of the object in the walk
cdef lock_t walk_lock
cdef int32_t iterating                    # 1: a thread is in iterate(), or forks
cdef int32_t started
cdef void *self_handle
cdef void *its_malloc                     # the process': libc's, or that of an allocator that has been preloaded
cdef void *its_mmap
cdef const char *folder
cdef size_t folder_length
cdef tally_t tally

cdef int got_add(const char *name, void *replacement, void **original) noexcept nogil
cdef void got_patch_all() noexcept nogil
cdef void image_of(const char *name, image_t *image) noexcept nogil
cdef void bounds(const void *info, uint64_t *low, uint64_t *high) noexcept nogil
cdef int is_its(void *info, size_t size, void *data) noexcept nogil

cdef void patch_new() noexcept nogil
cdef void *wrapped(void *original) noexcept nogil
cdef void *wrapped_name(const char *name) noexcept nogil
cdef void on_fork() noexcept nogil
cdef void on_fork_parent() noexcept nogil
cdef void on_fork_child() noexcept nogil
cdef void iterate(int (*callback)(void *, size_t, void *) noexcept nogil, void *data) noexcept nogil
cdef uint32_t hash_name(const char *name) noexcept nogil
cdef entry_t *find_entry(const char *name) noexcept nogil
cdef int is_news(void *info, size_t size, void *data) noexcept nogil
cdef void walk() noexcept nogil
cdef int visit(void *info, size_t size, void *data) noexcept nogil
cdef void patch_object(const void *info, object_t *o) noexcept nogil
cdef bint holds(const object_t *o, const void *function) noexcept nogil
cdef void patch_relocations(object_t *o, const void *first, uint64_t bytes) noexcept nogil
cdef void patch_slot(object_t *o, const entry_t *entry, uint64_t address, uint32_t type) noexcept nogil
cdef bint writable(object_t *o, uint64_t address) noexcept nogil
