# What the data plane keeps in memory: one page_t a page, one block_t an array, one segment_t a
# stretch of the record log, one pager_t a Memory. All of it lies in mappings of its own, never in
# the arena: a fault must not fault.
#
# THE PAGE PROTOCOL (DESIGN.md 5.2). page_t.state is one word:
#
#   bits 0-3    NONE    never written, or freed: reads as zeros, has no record
#               CLEAN   resident and write-protected, its record is valid
#               DIRTY   resident and writable, has no record
#               OUT     not resident, its record is valid
#               BUSY    one thread owns the page and is changing it
#               POISON  not resident, its record is lost; every access ends in SIGBUS
#   bit  4      REF     came back soon after it left: one more round in the queue
#   bits 6-7    what `where` is: RECORD_NONE, RECORD_SAME (the fill word), RECORD_LOG (a place)
#   bits 16-31  resident: number of pins; OUT: the reclaim epoch in which it left
#
# * Whoever changes a page first swaps its word to BUSY, and decides by the word it replaced, not by
#   what the fault said. Only the owner writes `where` and `check`; its last act is to store the new word.
# * A write to a CLEAN page: BUSY, drop the record, un-protect, DIRTY. (Un-protecting first, another
#   thread writes, the evictor sees CLEAN and drops the page: the write is lost.)
# * Eviction of a CLEAN page: BUSY, MADV_DONTNEED, OUT. Writers fault on the protection and find BUSY.
# * Eviction of a DIRTY page: BUSY, UFFDIO_MOVE into a frame of our own, store, OUT. Writers after the
#   move fault and find BUSY. Without MOVE: BUSY, write-protect, store, MADV_DONTNEED, OUT.
# * Freeing takes BUSY too: an eviction in flight would bring freed data back.
# * Nobody who owns a page waits for another page. Cleaners skip what is BUSY.
#
# LOCKS (futex locks, leaves: none is taken while another is held):
#   queue_lock   the reclaim queue        log_lock   segments, slots, free lists
#   arena_lock   extents and blocks; taken by allocation and free only, never in a fault

from frontswap.core.codec cimport codec_choice
from frontswap.core.uapi cimport int32_t, int64_t, pthread_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    NONE = 0
    CLEAN = 1
    DIRTY = 2
    OUT = 3
    BUSY = 4
    POISON = 5
    STATE = 15
    REF = 16
    RECORD_NONE = 0
    RECORD_SAME = 64
    RECORD_LOG = 128
    RECORD = 192
    HIGH_SHIFT = 16
    STREAMS_SEEN = 4

cdef enum:
    CHUNK_SHIFT = 21          # address space is handed out in 2 MiB: an array starts a new one
    UNIT = 16                 # records lie at multiples of 16 bytes
    HEADER = 16
    IO_ALIGN = 4096           # O_DIRECT
    FRAME = 256 << 10         # bytes of neighbours that leave together (a larger page leaves alone)
    MAX_CONTEXTS = 10
    RECLAIM_CONTEXT = 9
    READAHEAD_CONTEXT = 8     # and downwards, one for each readahead thread
    READAHEAD_THREADS = 2     # one decompresses while the other waits for the disk
    READAHEAD_IO = 1 << 20    # bytes that readahead takes from the swap file at once, at most
    FAULT_IO = 128 << 10      # and a fault that continues a sequence, at most
    MAX_PAGE = 2 << 20
    MIN_PAGE = 4096
    QUEUE_END = 0xFFFFFFFF

cdef enum:                    # advice on a block, as madvise(2) means it
    ADVICE_NORMAL = 0
    ADVICE_RANDOM = 1
    ADVICE_SEQUENTIAL = 2

cdef enum:                    # segment_t.state
    SEG_FREE = 0
    SEG_OPEN = 1
    SEG_SEALED = 2            # full, in RAM, in the age list
    SEG_MOVING = 3            # being written out or cleaned by one thread
    SEG_DISK = 4

cdef enum:                    # streams of the log
    STREAM_POOL = 0           # zcache: charged to the limit, written back when it is coldest
    STREAM_SLOT = 1           # the slot writer: refused pages, written out as soon as full
    STREAM_CLEAN = 2          # records that the writeback thread, and nobody else, moves within the file
    STREAMS = 3

cdef enum:                    # kernel names where the kernel has one; they count pages
    C_FAULTS = 0
    C_REFAULTS
    C_LOADS
    C_SUCC_STORES
    C_FAILED_STORES
    C_INVALIDATES
    C_POISONED
    C_FIRST_TOUCHES
    C_WRITE_UPGRADES
    C_EVICTED_CLEAN
    C_EVICTED_DIRTY
    C_DIRECT_RECLAIMS
    C_SAME_FILLED
    C_REJECT_INCOMPRESSIBLE
    C_REJECT_POOL_FULL
    C_SLOT_STORES
    C_SLOT_LOADS
    C_SLOT_ERRORS
    C_WRITTEN_BACK_BYTES
    C_CLEANED_BYTES
    C_READAHEADS
    C_OVERSHOOTS
    C_BUSY_PAGES
    COUNTERS

ctypedef struct page_t:       # 24 bytes: all that a page costs beside its record
    uint32_t state
    uint32_t next             # reclaim queue: 0 not queued, QUEUE_END the last
    uint64_t where            # RECORD_LOG: segment << 36 | offset/UNIT << 18 | length/UNIT
    uint32_t check            # checksum of the record; here, so that an old record can never pass
    uint32_t block

ctypedef struct record_t:     # the header of a record in a segment
    uint32_t page
    uint32_t length
    uint8_t codec
    uint8_t shift
    uint16_t unused
    uint32_t check

ctypedef struct stream_t:     # one sequence of faults in an array; written racily, only ever a hint
    uint32_t last             # index of the page of its last fault
    uint32_t ahead            # readahead is queued up to here
    int32_t direction         # 1, -1; 0: one fault only
    uint32_t streak

ctypedef struct block_t:      # an array
    uint64_t base
    uint64_t bytes            # as asked for
    uint32_t first            # id of its first page
    uint32_t pages
    uint32_t chunk
    uint32_t chunks
    uint32_t serial           # the number that messages name; of this life of the block alone
    uint32_t live             # 1 from the moment all else is set until its free begins
    uint8_t shift
    uint8_t advice
    stream_t streams[STREAMS_SEEN]
    uint32_t next_stream
    codec_choice choice

ctypedef struct segment_t:
    uint8_t *ram              # NULL: on disk only
    int64_t slot              # in the swap file, -1: none
    uint32_t ram_slot
    uint32_t fill
    int32_t live              # bytes of records that a page still points at
    int64_t raw               # the same pages uncompressed
    int32_t readers           # loads that copy out of `ram`: it stays until they are gone
    int32_t writers           # stores that still copy in
    uint32_t state
    uint32_t stream
    uint32_t serial           # changes with every reuse of the number
    uint32_t unreadable       # 1: reading it for cleaning failed; it is left alone
    uint32_t older            # age list of sealed segments (0 ends it)
    uint32_t newer

ctypedef struct context_t:    # what one fault or one batch of evictions works with
    int32_t taken
    uint8_t *frame            # registered, max_page (FRAME at least): MOVE brings evicted pages here
    uint8_t *plain            # a page, decompressed
    uint8_t *scratch          # a page, shuffled
    uint8_t *packed           # a record on its way out
    uint8_t *io               # records read from the swap file
    uint8_t *state            # LZ4
    uint64_t io_at            # file range that `io` holds: [io_at, io_end), of segment io_serial
    uint64_t io_end
    uint32_t io_segment
    uint32_t io_serial
    uint64_t io_size
    record_t header           # of what is in `packed`
    bint is_packed

ctypedef struct extents_t:    # free ranges, sorted, first fit
    uint64_t *start
    uint64_t *count
    uint32_t n
    uint32_t capacity

ctypedef struct request_t:    # readahead: `count` pages from `first`, upwards or downwards
    uint32_t first
    uint32_t count
    int32_t direction

cdef enum:
    MAX_BACKENDS = 4
    REQUESTS = 64

cdef struct pager_t

ctypedef struct backend_t:    # a native backend: what stands behind the hooks; every function nogil
    # 1: accepted, *kind and page_t.where/check are set; 0: refused, and no older copy is left
    int (*store)(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil

cdef struct pager_t:
    # arena
    uint64_t base
    uint64_t size
    uint32_t *chunks          # chunk -> block, 0: free
    page_t *pages
    uint32_t max_pages
    block_t *blocks
    uint32_t max_blocks
    uint32_t used_blocks
    uint32_t serial
    uint32_t free_block       # stack through block_t.first
    extents_t space           # in chunks
    extents_t ids
    int32_t arena_lock
    int64_t allocated
    int64_t reserved_for      # allocated bytes that the swap file is reserved for
    # the seam
    int fd
    int closing
    int forked                # this is a child's copy: neither threads nor tables are here
    int stop_fd
    bint sigbus
    bint use_move
    bint use_poison
    int32_t inflight
    # the limit: used = resident + pool; budget = limit - what contexts and the log keep in reserve
    int64_t limit
    int64_t budget
    int64_t used
    int64_t resident
    int64_t pinned
    int64_t low               # reclaim in the background starts below `low` free and ends at `high`
    int64_t high
    int64_t allocate_most     # without a swap file: what may be allocated
    bint overcommit
    # contexts: the first fault_contexts for faults, the last three for reclaim and readahead
    context_t contexts[MAX_CONTEXTS]
    uint8_t *buffers
    int fault_contexts
    uint32_t context_page     # largest page in use: what their buffers are backed for
    uint32_t max_page         # largest page they have room for
    uint8_t *zeros
    # reclaim
    int32_t queue_lock
    uint32_t head
    uint32_t tail
    uint32_t queued
    int64_t evicted           # bytes ever, for the refault distance
    int64_t epoch_bytes
    int32_t reclaim_event
    # readahead
    request_t requests[REQUESTS]
    uint32_t requests_in
    uint32_t requests_out
    int32_t request_lock
    int32_t readahead_threads
    int32_t readahead_event
    # hooks
    backend_t backends[MAX_BACKENDS]
    int backend_count
    # the record log
    int32_t log_lock
    uint32_t segment_bytes
    segment_t *segments
    uint32_t max_segments
    uint32_t next_segment
    uint32_t free_segment     # stack through segment_t.newer
    uint32_t open_segment[STREAMS]
    uint32_t oldest
    uint32_t newest
    uint8_t *pool
    uint32_t ram_slots
    uint32_t *free_ram        # stack
    uint32_t free_ram_n
    uint32_t warm             # one more free RAM slot, backed still: its number + 1, 0: none
    int32_t slot_ram          # segments of STREAM_SLOT in RAM
    uint32_t full_slots[2]    # those of them that are full and wait to be written, 0: none
    int64_t pool_bytes
    int64_t pool_soft         # writeback starts above
    int64_t pool_hard         # stores wait for it above
    int32_t writeback_event
    int32_t no_slots          # 1: the cleaner has found nothing to free since the last slot was freed
    int32_t disk_error        # errno of the last failed write, 0 when the last one was good
    int64_t disk_retry        # while it is not 0: no write before this moment (fs_clock)
    uint8_t *clean_buffer
    # the swap file
    int file
    bint direct
    uint32_t *free_slots      # stack
    uint32_t free_slots_n
    uint32_t slots
    uint32_t max_slots
    # threads
    pthread_t threads[8]
    int thread_count
    int64_t counters[COUNTERS]
    char message[512]

ctypedef pager_t *pager_p
ctypedef page_t *page_p
ctypedef block_t *block_p
ctypedef stream_t *stream_p
ctypedef segment_t *segment_p
ctypedef context_t *context_p
ctypedef record_t *record_p
ctypedef const record_t *const_record_p
ctypedef uint8_t *bytes_p
ctypedef const uint8_t *const_bytes_p

cdef inline uint64_t page_address(pager_t *pg, uint32_t page) noexcept nogil:
    cdef block_t *block = &pg.blocks[pg.pages[page].block]
    return block.base + (<uint64_t>(page - block.first) << block.shift)

cdef inline uint32_t page_bytes(pager_t *pg, uint32_t page) noexcept nogil:
    return <uint32_t>1 << pg.blocks[pg.pages[page].block].shift

cdef inline uint64_t pack(uint32_t segment, uint32_t offset, uint32_t length) noexcept nogil:
    return (<uint64_t>segment << 36) | (<uint64_t>(offset // UNIT) << 18) | (length // UNIT)

cdef inline uint32_t segment_of(uint64_t where) noexcept nogil:
    return <uint32_t>(where >> 36)

cdef inline uint32_t offset_of(uint64_t where) noexcept nogil:
    return <uint32_t>((where >> 18) & 0x3FFFF) * UNIT

cdef inline uint32_t length_of(uint64_t where) noexcept nogil:
    return <uint32_t>(where & 0x3FFFF) * UNIT
