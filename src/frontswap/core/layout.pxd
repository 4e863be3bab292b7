# What the data plane keeps in memory: one page_t a page, one block_t an array or a swap area, one segment_t a
# stretch of the record log, one backend_t a backend or filter, one pager_t a Memory or a Frontswap. All of it
# lies in mappings of its own, never in the arena: a fault must not fault.
#
# THE PAGE PROTOCOL (DESIGN.md 5.2). page_t.state is one word:
#
#   bits 0-3    NONE    never written, or freed: reads as zeros, has no record
#               CLEAN   resident and write-protected, its record is valid
#               DIRTY   resident and writable, has no record
#               OUT     not resident, its record is valid
#               BUSY    one thread owns the page and is changing it
#               POISON  not resident, its record is lost; every access ends in SIGBUS or EIO
#               GONE    swap areas: an exclusive load took it, its reader has the only copy
#               SPLIT   no unit any more: its parts are pages of their own, of 4 KiB, and it has neither record nor frame
#   bit  4      REF     came back soon after it left: one more round in the queue. In an area with shares: loaded from
#                       the pool since the hand came by (shed.py). Who clears it does not own the page: CAS
#   bit  5      SLOT    the slot has the page. In an area that is beside what bits 6-7 say (writethrough); behind
#                       the memory door the record itself is the slot's, and no backend has the page
#   bits 6-7    what `where` is: RECORD_NONE, RECORD_SAME (the fill word), RECORD_LOG (a place),
#               RECORD_BACKEND (the number of the stack that has the page)
#   bit  8      HOLES   of a DIRTY page: parts of it are absent, and read as zeros. Pages that were there when the arena
#                       was registered can be so; the next fault or eviction fills them. Pinned ones never are
#   bit  9      UNTOLD  in no page's word: of one that is handed to the hooks. The pool's policy is not told of what
#                       happens, the caller has done so
#   bit  10     UNSURE  of a CLEAN page that came in a huge page: it may have been written to, or be in use by a device, since
#               before it was protected (bring.py). Its frame and `sums` say so when it leaves
#   bits 16-31  resident: number of pins; OUT: the reclaim epoch in which it left
#
# * Whoever changes a page first swaps its word to BUSY, and decides by the word it replaced, not by
#   what the fault said. Only the owner writes `where` and `check`; its last act is to store the new word.
# * A write to a CLEAN page: BUSY, un-protect, drop the record, DIRTY. (Without BUSY another thread writes, the
#   evictor sees CLEAN and drops the page: the write is lost.)
# * Eviction of a CLEAN page: BUSY, MADV_DONTNEED, OUT. Writers fault on the protection and find BUSY.
# * Eviction of a DIRTY page: BUSY, UFFDIO_MOVE into a frame of our own, store, OUT. Writers after the
#   move fault and find BUSY. Without MOVE: BUSY, write-protect, store, MADV_DONTNEED, OUT.
# * Freeing takes BUSY too: an eviction in flight would bring freed data back.
# * A page becomes SPLIT, and whole again, by its owner, who owns all that it is made of: see split.py. Who owns a part
#   looks then whether its page is SPLIT (part_holds()), and lets go of it if not; who makes a page whole owns that first
#   and looks at its parts then. So either he waits for the part or gives up, or its owner sees him.
# * Nobody who owns a page waits for another page. Cleaners skip what is BUSY. (A batch does, upwards only,
#   and after it has its context: those it waits for never wait for it.)
#
# LOCKS (futex locks, leaves: none is taken while another is held; nothing is compressed under one):
#   queue_lock   the reclaim queue        log_lock   segments, slots, free lists
#   policy_lock  the pool's policy
#   arena_lock   extents and blocks; taken by allocation and free, and by a fault that has the swap file grow
#
# BACKENDS COME AND GO while pages are stored: a store counts itself in stack_users first and looks at
# stack_state then; unregistering clears the state first and waits for the users then. So no store reaches a
# backend that is being drained. (The other way round: the store finds it active, the drain finds nothing and
# ends, the store succeeds: its page is lost with the backend.) Loads and invalidations need no count: they own a
# page that the drain has not come to.

from frontswap.core.choice cimport codec_choice
from frontswap.core.uapi cimport (
    clock_ns, int32_t, int64_t, load32, load64, loadi, lock_t, or32, and32, add64, pthread_t, uint8_t, uint16_t, uint32_t, uint64_t)

cdef enum:
    NONE = 0
    CLEAN = 1
    DIRTY = 2
    OUT = 3
    BUSY = 4
    POISON = 5
    GONE = 6
    SPLIT = 7
    STATE = 15
    REF = 16
    SLOT = 32
    HOLES = 256
    UNTOLD = 512
    UNSURE = 1024
    RECORD_NONE = 0
    RECORD_SAME = 64
    RECORD_LOG = 128
    RECORD_BACKEND = 192
    KIND = 192                # which of these it is
    RECORD = 224              # what a page keeps when it comes and goes clean: KIND and SLOT
    HIGH_SHIFT = 16
    STREAMS_SEEN = 4
    FAULTS_SEEN = 16          # of those that no stream has
    ALONE_SEEN = 32           # of them, to tell who walks along beside many others from who reads at random
    MOST_PARTS = 16           # of a page: what is made "by its size" has 64 KiB at most

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
    PAGE_TABLE = 2 << 20      # bytes that one page table maps
    HUGE_TOUCHES = 8          # refusals in a row after which nothing comes as a huge page any more
    WHOLE_PAGES = 64          # of a huge page that comes back whole, at most
    MIN_PAGE = 4096
    MOST_MAP_PAGE = 128 << 10 # of what a program maps: the pieces of a page are bits of one word, see maps.py
    QUEUE_END = 0xFFFFFFFF

cdef enum:
    SPARES = 32
    SPARE_ARRAY = 32 << 20    # bytes of one, at most, and of all: what glibc keeps
    SPARE_BYTES = 64 << 20

cdef enum:                    # who catches a fault: see seam.py
    SIDE_SIGBUS = 0           # userfaultfd, in the thread that has it
    SIDE_THREAD = 1           # userfaultfd, handler threads
    SIDE_PROTECTION = 2       # SIGSEGV of what is PROT_NONE, in the thread that has it: see protection.py

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
    STREAM_CLEAN = 2          # records that clean_disk(), and nobody else, moves within the file
    STREAM_DENSE = 3          # what recompress.py makes: segments of STREAM_POOL that begin as the coldest
    STREAMS = 4
    SLOT_STREAM_RAM = 2       # segments of refused pages that may be in RAM: one is filled while another is written
    MAX_WARM = SLOT_STREAM_RAM + 1

cdef enum:                    # zcache:recompress=
    RECOMPRESS_OFF = 0
    RECOMPRESS_IDLE = 1
    RECOMPRESS_EAGER = 2      # for tests: at once, everything, with the priority of the others
    DENSE_BATCH = 64          # records
    DENSE_IO = 64 << 10       # bytes of a batch, unless one record is larger
    STAGED_IO = 256 << 10     # the same in front of areas, where the buffers are in nobody's limit

cdef enum:                    # packs.py
    PACK_BYTES = 32 << 10     # of pages as they are that one record has, at most; a power of two
    PACK_PAGE = 8 << 10       # of one of them, at most
    PACK_PARTS = PACK_BYTES // 4096
    PACK_MEMBERS = DENSE_BATCH
    PACK_ROOM = PACK_BYTES + 4096  # of a context: a pack as it is, and its list

cdef enum:                    # segment_t.staged
    HASTY = 1                 # packed by the codec that was at hand
    PLAIN = 2                 # some are pages as they are

cdef enum:                    # pager_t.dense_turn: whose the batch is
    DENSE_EMPTY = 0           # the writeback thread's
    DENSE_FULL = 1            # the recompression thread's
    DENSE_DONE = 2            # the writeback thread's

cdef enum:                    # why a backend refused a page: frontswap.backends.Refusal
    ACCEPTED = 0
    REFUSED_OTHER = 1
    REFUSED_INCOMPRESSIBLE
    REFUSED_POOL_FULL
    REFUSED_LIMIT             # the filter `limit`
    REFUSED_INACTIVE          # the filter `active_only`
    REFUSED_SLOW              # the filter `latency`
    REFUSED_PRESSURE          # memory is short: pressure("critical")
    REFUSED_STOPPED           # area.stop()
    REFUSED_INJECTED          # the filter `inject`
    REFUSED_ERROR             # a backend in Python raised
    REFUSED_QUOTA             # its area's quota, or its share of a full pool
    REFUSALS

cdef enum:                    # pressure levels
    PRESSURE_NONE = 0
    PRESSURE_LOW = 1
    PRESSURE_MEDIUM = 2
    PRESSURE_CRITICAL = 3

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
    C_EVICTED_HUGE            # huge pages, each in one piece; their pages are among C_EVICTED_DIRTY or C_EVICTED_CLEAN
    C_DIRECT_RECLAIMS
    C_SAME_FILLED
    C_REJECT                  # and one for each reason, in the order of REFUSED_*
    C_SLOT_STORES = C_REJECT + REFUSALS
    C_SLOT_LOADS
    C_SLOT_ERRORS
    C_WRITTEN_BACK_BYTES
    C_CLEANED_BYTES
    C_RECOMPRESSED
    C_RECOMPRESSED_BYTES
    C_PACKED_LATER
    C_SHARING                 # a gauge: pages that share another one's bytes
    C_READAHEADS
    C_LOADED_HUGE             # huge pages that came back in one piece; their pages are among C_REFAULTS
    C_OVERSHOOTS
    C_BUSY_PAGES
    C_BRAKES
    C_SPLITS
    C_COLLAPSES
    COUNTERS

ctypedef struct page_t:       # 24 bytes: all that a page costs beside its record
    uint32_t state
    uint32_t next             # reclaim queue: 0 not queued, QUEUE_END the last. Of areas: a page like it, see dedup.py
    uint64_t where            # RECORD_LOG: sharing << 63 | segment << 36 | offset/UNIT << 18 | length/UNIT
    uint32_t check            # checksum of the record; here, so that an old record can never pass
    uint32_t block

ctypedef struct record_t:     # the header of a record in a segment
    uint32_t page
    uint32_t length
    uint8_t codec
    uint8_t shift
    uint16_t settled          # 1: recompress.py has made it, or could not make it smaller
    uint32_t check

ctypedef struct group_t:      # a pack: behind the header of its record, before its members and its frame
    uint32_t check            # checksum of the bytes of `parts` pages as they are, and of zeros up to 1 << `whole`
    uint32_t length           # of the frame
    uint16_t count            # members
    uint8_t parts             # pages as they are
    uint8_t shift             # of one of them
    uint32_t whole            # log2 of the bytes that the frame becomes

ctypedef struct member_t:     # a page that a pack has been made for; it may have gone since
    uint32_t page
    uint16_t units            # what the record costs it, in UNIT
    uint8_t part              # which of the pages it is
    uint8_t sharing           # 1: a member before it is that page, too

ctypedef struct stream_t:     # one sequence of faults in an array; written racily, only ever a hint
    uint32_t last             # neighbours: index of the page of its last fault,
    uint32_t ahead            # readahead is queued up to here
    int32_t direction         # 1, -1; 0: one fault only; JUMPS: by `step`
    uint32_t streak
    int64_t step              # bytes from one to the next
    int64_t at                # of its last fault, in the array
    int64_t queued            # steps from there that readahead is queued for
    int64_t origin            # of its first fault
    int64_t taken             # steps since then

ctypedef struct block_t:      # an array
    uint64_t base
    uint64_t bytes            # as asked for
    uint32_t first            # id of its first page
    uint32_t pages
    uint32_t room             # pages that it has ids and addresses for: it may grow to so many
    uint32_t chunk
    uint32_t chunks
    uint32_t serial           # the number that messages name; of this life of the block alone
    uint32_t live             # 1 from the moment all else is set until its free begins
    uint8_t shift
    uint8_t advice
    uint8_t growing           # it was asked for with room for more
    uint8_t spare             # it may be kept for the next one when it is freed
    uint8_t mapped            # it is a mapping of the program's (core/maps.py), and may be unmapped piece by piece
    uint8_t loose             # mapped without a reservation: its pages count in `allocated` when they are touched
    uint8_t marked            # some bits of `gone` or `fixed` are of its pages
    uint8_t reserved          # mapped without access, 4 KiB a page: what of it counts says core/pieces.py
    uint8_t follows           # its pages are as large as its size wants, nobody has said how large
    uint8_t small             # its pages leave in parts: see split.py. This and what follows is a hint, written racily
    uint8_t turns             # how often it has gone back to whole pages
    uint8_t rewritten         # so many more huge pages come back as if they were written to: bring.py
    int32_t alone             # faults that were alone, less those that were not
    uint32_t parts            # the block of its parts, 0: it has none. That one has no life of its own: `live` is 0
    uint32_t whole            # of a block of parts: the array's block
    uint32_t foreign          # 4 KiB pieces of it that something else is mapped over: see core/foreign.py
    uint32_t dropped          # pages all of which has been unmapped
    uint32_t dropping         # threads that unmap a part of it
    stream_t streams[STREAMS_SEEN]
    uint32_t next_stream
    int64_t seen[FAULTS_SEEN]  # where the last faults were that no stream has
    uint32_t next_seen
    uint32_t lately[ALONE_SEEN]  # their pages, by index, plus 1
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
    uint32_t holders          # who walks through its records without owning their pages: it is not freed. Under log_lock
    uint32_t state
    uint32_t stream
    uint32_t serial           # changes with every reuse of the number
    uint32_t unreadable       # 1: reading it for cleaning failed; it is left alone
    uint32_t stays            # pager_t.seals + 1 of when the cleaner could not empty it; 0: it could, or has not tried
    int64_t hits              # bytes of pages loaded from it lately: see balance.py
    uint32_t dense            # 1: recompressed, or found not to be worth it
    uint32_t staged           # areas: PLAIN, HASTY, or 0: there are records as their store has left them. Else looked at
    uint32_t sealed           # pager_t.seals of then: its age
    int64_t sealed_at         # hooks_clock() of then
    uint32_t older            # age list of sealed segments (0 ends it)
    uint32_t newer

ctypedef struct context_t:    # what one fault or one batch of evictions works with
    int32_t taken
    bint retired              # by limit_apply(): there are too many
    uint8_t *frame            # registered, max_page (FRAME at least): MOVE brings evicted pages here
    uint8_t *whole            # registered: and huge pages here, for where small ones have been is a page table
    uint8_t *fresh            # where a huge page begins, before MOVE brings it to its place: whole.py
    uint8_t *plain            # a page, decompressed
    uint8_t *into             # where a load puts it: `plain`, or the buffer of who reads a swap area
    uint8_t *scratch          # a page, shuffled
    uint8_t *packed           # a record on its way out
    uint8_t *io               # records read from the swap file
    uint8_t *state            # of the codec
    bint decodes              # its zstd's part is in use, and charged
    uint64_t io_at            # file range that `io` holds: [io_at, io_end), of segment io_serial
    uint64_t io_end
    uint32_t io_segment
    uint32_t io_serial
    uint64_t io_size
    uint8_t *pack             # PACK_ROOM: the last pack that was decompressed, pages as they are and its list
    uint32_t pack_segment     # which one that is: its segment, 0: none; in which life; where there; and its checksum
    uint32_t pack_serial
    uint32_t pack_at
    uint32_t pack_check
    uint32_t pack_member      # which of its members was loaded last
    bint unpacked             # the last load has decompressed a pack
    record_t header           # of what is in `packed`
    bint is_packed
    bint was_tried            # it has been tried to pack the page at hand, with or without success
    bint through              # the filter `latency` wants this page in its slot too
    bint from_slot            # the last load was answered by the slot
    int source                # where it found the record: FROM_*, see balance.py

ctypedef struct sight_t:      # dedup.py: a page that has been seen
    uint32_t hash             # of its bytes
    uint32_t page             # 0: none

ctypedef struct dense_t:      # a record of a batch that is recompressed
    uint64_t where
    uint32_t page             # whose it is
    uint32_t serial           # in which life of its segment
    uint32_t at               # in dense_io
    uint32_t check            # as it was
    uint32_t length           # of the new one, in the log; 0: it stays as it is
    uint32_t block            # of its page, for what its area has learnt of its codecs
    uint32_t group            # the pack that it is a member of: where in dense_packs, + 1; 0: none
    uint32_t hash             # zcache:dedup=on: of the page as it is, 0: it is not known
    uint32_t head             # which record of the batch it seems to be like
    bint later                # it is left as it is

ctypedef struct walk_t:       # through the records of a segment: see packs.py
    uint32_t number
    uint8_t *data
    uint32_t fill
    uint32_t at               # of the next record
    record_t *header          # this record: its header,
    group_t *group            # its group, NULL: a page's own,
    uint32_t start            # where it lies,
    uint32_t length           # what it takes,
    uint32_t member           # and which of its members is next
    uint32_t page             # the page that has been claimed, the word that it had, and its place
    uint32_t state
    uint64_t where

ctypedef struct extents_t:    # free ranges, sorted, first fit
    uint64_t *start
    uint64_t *count
    uint32_t n
    uint32_t capacity

ctypedef struct request_t:    # readahead of `count` pages
    uint32_t first            # the first one; JUMPS: the first one of the array
    uint32_t count
    int32_t direction         # 1, -1: of a sequence of neighbours; 0: all of them, upwards; or JUMPS
    uint32_t shift            # JUMPS: of its pages,
    int64_t at                # where in the array the first one is,
    int64_t step              # and bytes from one to the next
    bint whole                # they are a chunk, and may come as one huge page

cdef enum:
    MAX_STACKS = 8            # backends behind one set of hooks, each with its filters
    MAX_AREAS = 64
    REQUESTS = 64

cdef enum:                    # counters of one backend or filter
    B_SUCC_STORES = 0
    B_FAILED_STORES
    B_LOADS
    B_FAILED_LOADS
    B_INVALIDATES
    B_REJECT                  # one for each reason
    B_COUNTERS = B_REJECT + REFUSALS

cdef enum:                    # counters of one area
    A_LOADS = 0
    A_SUCC_STORES
    A_FAILED_STORES
    A_INVALIDATES
    A_SLOT_STORES
    A_SLOT_LOADS
    A_POISONED
    A_WRITTEN_BACK            # pages that have left zcache for their slots
    A_CURR_PAGES              # gauges: bits of the map,
    A_POOL_BYTES              # and bytes of the records that its pages have in the pool: see shares.py
    A_COUNTERS

cdef enum:                    # stack_state
    STACK_FREE = 0
    STACK_ACTIVE = 1
    STACK_LEAVING = 2         # loads and invalidations only: it is being drained

cdef enum:
    MAX_FILES = 16            # swap files that records of one process are in: its own and its ancestors'
    MAX_LEASES = 1024         # forked children that may read our slots
    MAX_MAPPINGS = 30
    MAX_THREADS = 8

ctypedef struct lease_t:
    uint32_t fork             # the number of the fork
    int fd                    # hung up when the child and all of its children have ended

cdef enum:
    MAX_SOURCES = 6
    SOURCE_NAME = 512
    BRAKE_FDS = 3 * MAX_SOURCES + 2

ctypedef struct source_t:     # what may run short: a memory cgroup, or the machine. Free: most - used + what `free` says
    char bound[SOURCE_NAME]   # a file with a limit, if it is less than `most` by then; "": none
    char used[SOURCE_NAME]    # a file with the number of what is used, "": none
    char free[SOURCE_NAME]    # a file with lines "name number", of which those of `names` count
    char names[128]           # a blank behind each
    int64_t unit              # of these numbers, in bytes
    int64_t most
    int64_t spare             # what is to be left

ctypedef struct brake_t:      # see brake.py
    source_t wanted[MAX_SOURCES]
    int32_t wanted_count
    char psi[2][SOURCE_NAME]  # the first that takes the trigger
    char trigger[64]
    char level_file[SOURCE_NAME]
    char control_file[SOURCE_NAME]
    int64_t least             # of a limit
    int64_t growth            # bytes that are news
    uint32_t serial           # of all that is above
    int64_t others            # bytes that other processes of the run use: they have brakes, too
    int64_t begin             # allocated bytes at which its thread begins, 0: it does not
    # the thread's own
    uint32_t opened           # serial
    bint is_open
    source_t sources[MAX_SOURCES]
    int32_t count
    int fds[BRAKE_FDS]        # three of each source, the PSI trigger, the eventfd of a pressure level
    int32_t called_by         # CALLED_BY_*
    int64_t calls             # how often the kernel has called
    bint called               # and Python does not know yet
    int64_t quiet             # until then it need not, unless memory is short
    int64_t free[MAX_SOURCES] # at the last look
    int64_t seen[MAX_SOURCES] # at most, since somebody was told
    int64_t again             # no limit is tried before
    bint lost                 # some source could not be read
    int64_t reopen            # then all are opened anew, not before
    bint pulled               # what is above the limit has not left yet
    void *(*thread)(void *argument) noexcept nogil
    pthread_t id
    int32_t running
    int32_t ended
    int32_t event             # wakes the thread
    int32_t news              # wakes who waits for it in Python
    int64_t notes             # how often there was some

ctypedef brake_t *brake_p
ctypedef source_t *source_p

cdef struct pager_t
cdef struct backend_t

# THE CONTRACT OF A NATIVE BACKEND (frontswap.backends.Backend is the same one in Python). The caller owns `page`:
# nobody else stores, loads or invalidates it meanwhile. Nothing here may take the GIL, allocate, or wait for
# another page, because all of it may run inside a page fault; the one exception (core/adapter.py) is refused behind
# the memory door. A filter calls the same function of `lower` through offer(), fetch() and forget(), which count.
#
# store   ACCEPTED: the backend has made its own copy of `data` and guarantees that it comes back; `*kind` is set, and
#         page_t.where as the kind wants it. Or REFUSED_*, at any time: page_t is as it was.
# load    0: ctx.plain has the bytes, all of them verified. Else LOAD_* or an errno: the copy is lost.
# forget  the copy is of no use any more; cannot fail.
# NULL is allowed for all below. init and forget_area: a swap area comes and goes. pressure: shed, refuse; lasts
# until the next call. refault: a page that no backend has came back from its slot. held: bytes of RAM it takes.
ctypedef int (*store_function)(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil
ctypedef int (*load_function)(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
ctypedef void (*forget_function)(backend_t *b, pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
ctypedef void (*area_function)(backend_t *b, pager_t *pg, uint32_t type) noexcept nogil
ctypedef void (*pressure_function)(backend_t *b, pager_t *pg, int level) noexcept nogil
ctypedef int64_t (*held_function)(backend_t *b, pager_t *pg) noexcept nogil

cdef struct backend_t:
    store_function store
    load_function load
    forget_function forget
    area_function init
    area_function forget_area
    pressure_function pressure
    forget_function refault
    held_function held
    backend_t *lower          # NULL: a backend, else a filter
    uint32_t number           # of its stack
    void *own                 # what the functions need
    uint32_t *table           # a word for each page, if the filter needs one
    int64_t counters[B_COUNTERS]

ctypedef struct policy_t:     # the methods of a Policy, by which the core does without its type: that needs NumPy
    void *of                  # which the hooks keep; NULL: there is none, and the oldest segment leaves
    bint (*holds)(void *of, uint32_t page) noexcept nogil
    void (*hit)(void *of, uint32_t page) noexcept nogil
    void (*insert)(void *of, uint32_t page) noexcept nogil
    uint32_t (*victim)(void *of, uint32_t coming) noexcept nogil
    void (*remove)(void *of, uint32_t page) noexcept nogil
    void (*resize)(void *of, uint32_t capacity) noexcept nogil
    uint32_t (*count)(void *of) noexcept nogil

ctypedef struct area_t:       # a swap area: pages without addresses, each with a slot of its own
    int fd                    # of the slots, -1: none
    bint direct               # it is open with O_DIRECT
    int zeroing               # mode of fallocate(2) that makes zeros of a slot that no page needs; 0: nobody cares
    int32_t stopped           # stop(): nothing is sent to the backends
    int32_t users             # operations on their way; swapoff waits for them
    int32_t closed            # 1: area_enter() waits: it loses pages
    uint32_t most             # pages that it had at most: what tables of pages may know of
    int32_t weight            # of its share in the pool; 0: it has none, and gives way last. See shares.py
    bint weighted             # it has been given one, which may be 1, as is that of the others
    int64_t quota             # bytes that it may have in the pool; -1: no quota
    uint32_t misses           # staged pages in a row that did not get smaller, 0: a store did since. A hint
    uint32_t hand             # offset of the page that is asked next whether it leaves: see shed.py
    int64_t counters[A_COUNTERS]

cdef struct pager_t:
    # arena
    uint64_t base
    uint64_t size
    uint32_t *chunks          # chunk -> block, 0: free
    uint32_t *huge            # a bit for each chunk: it has been one huge page (a hint)
    int64_t huge_from         # until then, arrays from so many bytes on ask for huge pages; 0: none
    int32_t huge_most         # so many may leave in one piece at the same time
    int32_t huge_leaving
    int32_t huge_touches      # huge pages are made, as long as so many have not been refused in a row
    uint64_t *sums            # two for each page: of one that is UNSURE, as it was loaded
    page_t *pages
    uint32_t max_pages
    block_t *blocks
    uint32_t max_blocks
    uint32_t used_blocks
    uint32_t serial
    uint32_t free_block       # stack through block_t.first
    extents_t space           # in chunks
    extents_t ids
    lock_t arena_lock
    int64_t allocated         # what must be backed. Atomic: added to first, see backed()
    int64_t loose             # bytes of mappings without a reservation. Before the registration, see core/loose.py:
    int64_t loose_there       # so many of them were in RAM at the last look
    int64_t loose_looked      # which began then (clock_ns()); 0: all of them count
    int64_t touch_rate        # bytes per nanosecond that may be touched
    int64_t loose_due         # when the thread that looks will do so, at the latest
    pthread_t loose_id
    int32_t loose_asking      # 1: that thread is there
    int32_t loose_event
    int32_t loose_end
    brake_t brake
    int64_t watch_from        # allocated bytes at which somebody is called, 0: nobody (core/watch.py)
    uint32_t *gone            # a bit for each 4 KiB of the arena: unmapped, while the rest of its array is not
    uint32_t *fixed           # and: the program has protected it. Its page is pinned
    uint32_t *opened          # and: of a reserved mapping, it has been committed. See core/pieces.py
    int64_t reserved          # bytes of reserved mappings
    int64_t foreign           # 4 KiB pieces that are not ours at the moment
    uint32_t spares[SPARES]   # blocks of arrays that were freed before the registration, for the next ones: see arena
    int spare_count
    int64_t spare_bytes
    int64_t reserved_for      # allocated bytes that the swap file has been reserved for, at most
    # the seam
    int fd                    # userfaultfd, or /proc/self/mem
    int32_t registered        # 1: faults of the arena come to us. 0 to 1 under the closed gate, never back. Who reads
                              # 0 outside of the gate knows only that pages were not evicted yet: a system call that
                              # is on its way while it becomes 1 may meet EFAULT at a page that was never touched
    int closing
    int forked                # this is a child's copy: neither threads nor tables are here
    int stop_fd
    int side                  # SIDE_*
    bint use_move
    bint use_poison
    bint splits_any           # for tests: pages are split, and made whole again, whatever the faults were
    uint32_t least_page       # bytes of the smallest page that an array may have
    uint32_t page             # bytes of a page of whatever does not say; 0: by its size, see page_by_size()
    int64_t mappings_share    # SIDE_PROTECTION: that all arenas of this process may come to be split into
    int64_t mappings_most     # and this one: its claim
    int32_t inflight          # operations on pages that are on their way: see gate.py
    int32_t gate              # 1: closed
    lock_t gate_lock          # who has closed it
    # the limit: used = resident + pool + beside; budget = limit - what contexts and the log keep in reserve
    # Changed under arena_lock, inside the gate; read without: whoever reads an old one decides as a moment before
    int64_t limit
    int64_t budget
    int64_t used
    int64_t beside            # what zstd has taken since: decoder_begin(), recompress.py. For people it is reserve
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
    int most_contexts         # of those for faults: what there are buffers for
    uint32_t context_page     # largest page in use: what their buffers are backed for
    uint32_t max_page         # largest page they have room for
    uint32_t page_most        # largest page that an array may have, by the limit
    uint8_t *zeros
    # reclaim
    lock_t queue_lock
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
    lock_t request_lock
    int32_t readahead_threads
    int32_t readahead_event
    # hooks
    backend_t *stacks[MAX_STACKS]       # the topmost filter of each
    int32_t stack_state[MAX_STACKS]
    int32_t stack_users[MAX_STACKS]     # stores on their way
    int64_t stack_pages[MAX_STACKS]     # pages that it has
    int64_t stack_bytes[MAX_STACKS]     # the same, uncompressed
    int64_t order             # numbers + 1 of the active stacks, a byte each, the first lowest; 0: not used
    int32_t zcache_number     # of the stack above zcache: the holder of records that are SAME or LOG; -1: none
    int32_t writethrough
    int32_t exclusive
    int32_t refaults_wanted   # some filter has a `refault`
    int32_t through           # `latency` of some stack wants writethrough
    int32_t pressure          # the level, for zcache, as somebody has said it
    int32_t brake_level       # and as the brake sees it: the higher one holds
    int codec_kind            # zcache:codec=, -1: chosen by sampling
    int64_t write_budget      # zcache:write_budget=, bytes a period; 0: none. See budget.py
    int64_t write_period      # nanoseconds
    int64_t write_since       # when this one began
    int64_t write_left        # bytes of it; less than 0: written all the same
    int32_t write_spent       # 1: the pool may take all that it may without a swap file
    int64_t pool_most         # zcache:size=, 0: three quarters of the limit
    int64_t clock_skew        # added to hooks_clock(): for drills that do not sleep
    area_t *areas             # by type + 1; NULL behind the memory door
    uint32_t *map             # areas: the frontswap map, a bit for each page; an area starts a word of it
    int pool_closing
    # the record log
    lock_t log_lock
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
    uint32_t fresh_ram        # slots from here on have never been used
    uint32_t warm[MAX_WARM]   # free RAM slots that are backed, a stack
    uint32_t warm_n
    int32_t slot_ram          # segments of STREAM_SLOT in RAM
    uint32_t full_slots[2]    # those of them that are full and wait to be written, 0: none
    int64_t pool_bytes
    int64_t pool_soft         # writeback starts above
    int64_t pool_hard         # stores wait for it above
    # balance.py: what its pool is kept to, and the evidence
    int64_t pool_target       # writeback starts above this, too
    int64_t hits_usual        # of its segments at the last look: bytes loaded per KiB of pages
    int64_t hits_few          # of the coldest quarter of them, at most
    int64_t back              # bytes of pages that have come back since then
    int64_t back_soon         # those of them that had not been away for long, by their cost
    int64_t back_disk         # those that came from the disk, and have been in the pool
    int64_t pool_grows        # looks for which it grows, whatever they see
    # policy.py
    policy_t policy
    lock_t policy_lock
    int64_t policy_fit        # pages that it thinks that there is room for
    # shares.py: areas that have been given one; 0, 0: nobody asks
    int quotas
    int weights
    # recompress.py
    int recompress            # zcache:recompress=, RECOMPRESS_*
    uint32_t seals            # segments of the pool that have been sealed, ever
    uint32_t dense_end        # youngest of the coldest that are all dense, 0: none. Under log_lock
    int32_t dense_turn        # DENSE_EMPTY, DENSE_FULL, DENSE_DONE
    int32_t dense_event
    uint32_t dense_segment    # from which batches are taken, 0: none; with its serial,
    uint32_t dense_serial
    uint32_t dense_at         # where the next one begins, and what has left it for smaller records
    uint32_t dense_left
    uint32_t dense_page       # largest page for which there are buffers, 0: none yet
    int32_t dense_staged      # 1: the segment is gone through for its staged records only
    int32_t dense_runs        # 1: the thread that packs is there
    int64_t staging           # zcache:staging=, bytes of staged records at most; 0: none
    int64_t staged            # bytes of them now, with what did not get smaller
    int64_t dense_charged     # bytes of these
    dense_t dense_batch[DENSE_BATCH]
    int dense_count
    int32_t dense_alike       # 1: the batch is one of dedup.py's
    uint8_t *dense_io         # records of the batch, as in a segment
    uint8_t *dense_tmp
    uint8_t *dense_out
    uint8_t *dense_encoder
    uint8_t *dense_state      # of the codec, in front of areas
    uint8_t *dense_plain      # a page, there, or a pack
    uint8_t *dense_packs      # the packs of a batch
    context_t dense_context   # zcache:dedup=on: what packs are decompressed with,
    uint32_t dense_opened     # and which of the batch has been: where in dense_io, + 1; 0: none
    # dedup.py
    int32_t dedup             # zcache:dedup=, in front of areas
    sight_t *sights           # by hash
    uint32_t sights_mask
    uint32_t due[DENSE_BATCH] # pages like which there are others
    uint32_t due_n
    int64_t dense_again       # when to look again for what is cold (clock_ns()), 0: not before somebody calls
    int64_t dense_faded       # when hits were halved, or looked at
    int64_t dense_loads       # C_LOADS of then
    codec_choice dense_choice # what the last page has shown, and how long its record was; 0: none
    uint32_t dense_length
    int32_t writeback_event
    int32_t writers_back      # writeback threads: 1, or 0: who evicts does their work (a child without threads)
    int32_t cleaning          # 1: somebody is at clean_disk(), with clean_buffer and STREAM_CLEAN
    int32_t no_slots          # 1: the cleaner has found nothing to free since the last slot was freed
    int32_t disk_error        # errno of the last failed write, 0 when the last one was good
    int64_t disk_retry        # while it is not 0: no write before this moment (fs_clock)
    uint8_t *clean_buffer
    # the swap file
    int file                  # -1: none
    bint direct
    uint32_t *free_slots      # stack
    uint32_t free_slots_n
    uint32_t slots
    uint32_t max_slots
    char *directory           # where a forked child's file is made
    int files[MAX_FILES]      # descriptors, -1: none; files[0] belongs to the control plane
    int held[MAX_FILES]       # our leases on the slots of the others
    int own_file              # which of them `file` is
    # forks: see leases.py
    uint32_t forks
    lease_t leases[MAX_LEASES]
    int lease_count
    uint32_t leased_slots     # at most so many are kept for children
    uint32_t *slot_taken      # slot -> `forks` when it was taken
    uint32_t *slot_freed      # and when it was freed
    uint32_t *deferred        # freed slots that children may read
    uint32_t deferred_slots
    bint inheriting           # this fork takes the Memory along
    int fork_error
    int child_own             # its own_file
    int child_file
    uint32_t child_slots
    int lease_read
    int lease_write
    # mappings of its own, the arena among them
    uint64_t mapped[MAX_MAPPINGS]
    uint64_t lengths[MAX_MAPPINGS]
    int mappings
    # threads
    pthread_t threads[MAX_THREADS]
    int thread_count
    int32_t handlers          # handler threads that have their own descriptors
    int32_t handlers_event
    int32_t threads_due       # 1: a forked child that has not started them yet
    # trace.py
    uint8_t *trace            # NULL: nobody records
    int64_t trace_most        # records that there is room for
    int64_t trace_n
    int64_t trace_begun       # clock_ns()
    int64_t counters[COUNTERS]
    char message[512]

ctypedef pager_t *pager_p
ctypedef backend_t *backend_p
ctypedef area_t *area_p
ctypedef page_t *page_p
ctypedef block_t *block_p
ctypedef stream_t *stream_p
ctypedef segment_t *segment_p
ctypedef dense_t *dense_p
ctypedef sight_t *sight_p
ctypedef group_t *group_p
ctypedef member_t *member_p
ctypedef walk_t *walk_p
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

cdef inline uint32_t parts_of(pager_t *pg, uint32_t page) noexcept nogil:
    """How many parts a page has that is SPLIT; of a page that may be another array's by now as many as one can have."""
    cdef uint32_t count = page_bytes(pg, page) // MIN_PAGE
    return count if count < MOST_PARTS else MOST_PARTS

cdef inline uint32_t first_part(pager_t *pg, uint32_t page) noexcept nogil:
    """The first part of a page, 0: its array has none. Who does not own the page has a hint, of an array that may be gone;
    what it leads to is in the table."""
    cdef block_t *block = &pg.blocks[pg.pages[page].block]
    cdef block_t *parts = &pg.blocks[block.parts]
    cdef uint64_t first = parts.first + ((<uint64_t>(page - block.first) << block.shift) // MIN_PAGE)
    return <uint32_t>first if block.parts and first + MOST_PARTS <= pg.max_pages else 0

cdef inline bint is_let_in(pager_t *pg, uint64_t address) noexcept nogil:
    """True if somebody may be let in to these 4 KiB of a reserved mapping: OPEN or GUARDED, see core/pieces.py."""
    cdef uint64_t piece = (address - pg.base) // 4096
    return ((load32(&pg.opened[piece // 32]) & ~load32(&pg.gone[piece // 32])) >> (piece % 32)) & 1

cdef inline bint is_kept_out(pager_t *pg, uint32_t page) noexcept nogil:
    """True for an owned page that has been touched once, and that nobody is let in to now: from there it could not leave
    if it became dirty."""
    return pg.blocks[pg.pages[page].block].reserved and not is_let_in(pg, page_address(pg, page))

cdef inline uint64_t pack(uint32_t segment, uint32_t offset, uint32_t length) noexcept nogil:
    return (<uint64_t>segment << 36) | (<uint64_t>(offset // UNIT) << 18) | (length // UNIT)

cdef inline uint64_t log_bytes(uint64_t length) noexcept nogil:
    """What a record with so many bytes behind its header takes of a segment."""
    return (HEADER + length + UNIT - 1) // UNIT * UNIT

cdef inline uint64_t member_place(uint64_t place, const member_t *member) noexcept nogil:
    """What a member of the pack at `place` has."""
    return (
        pack(segment_of(place), offset_of(place), <uint32_t>member.units * UNIT) | (<uint64_t>(member.sharing & 1) << 63))

cdef inline int64_t is_sharing(uint64_t where) noexcept nogil:
    return <int64_t>(where >> 63)

cdef inline uint32_t segment_of(uint64_t where) noexcept nogil:
    return <uint32_t>(where >> 36) & 0x7FFFFFF

cdef inline uint32_t offset_of(uint64_t where) noexcept nogil:
    return <uint32_t>((where >> 18) & 0x3FFFF) * UNIT

cdef inline uint32_t length_of(uint64_t where) noexcept nogil:
    return <uint32_t>(where & 0x3FFFF) * UNIT

cdef inline bint is_plain(uint64_t where, uint32_t page_bytes) noexcept nogil:
    """True for the record of a page as it is: what is packed is shorter by a sixteenth at least."""
    return length_of(where) == HEADER + page_bytes

cdef inline bint has_record(uint32_t state) noexcept nogil:
    """True for the word of a page that has a record in the log, be it resident or not, and that nobody owns."""
    return (state & KIND) == RECORD_LOG and ((state & STATE) == OUT or (state & STATE) == CLEAN)

cdef inline int64_t hooks_clock(pager_t *pg) noexcept nogil:
    """The clock that filters and the write budget see, in ns."""
    return clock_ns() + load64(&pg.clock_skew)

cdef inline int pressure_of(pager_t *pg) noexcept nogil:
    """How short memory is: as somebody has said, and as the brake sees it."""
    cdef int said = loadi(&pg.pressure)
    cdef int seen = loadi(&pg.brake_level)
    return said if said > seen else seen

# --- who has a page ----------------------------------------------------------------------------------------------

cdef inline int holder(pager_t *pg, uint32_t page, uint32_t state) noexcept nogil:
    """The number of the stack that has a page's copy, by the state word that its owner replaced; -1: none."""
    cdef uint32_t kind = state & KIND
    if kind == RECORD_NONE:
        return -1
    if kind == RECORD_BACKEND:
        return <int>(pg.pages[page].where >> 56)
    if pg.areas == NULL and (state & SLOT) != 0:
        return -1
    return pg.zcache_number

cdef inline void holder_change(pager_t *pg, uint32_t page, int old, int new) noexcept nogil:
    """Account for a page that goes from one stack to another (-1: none), in the map too. The caller owns it."""
    cdef area_t *area
    cdef int64_t size
    if old == new:
        return
    size = page_bytes(pg, page)
    if old >= 0:
        add64(&pg.stack_pages[old], -1)
        add64(&pg.stack_bytes[old], -size)
    if new >= 0:
        add64(&pg.stack_pages[new], 1)
        add64(&pg.stack_bytes[new], size)
    if pg.areas != NULL and (old < 0 or new < 0):
        area = &pg.areas[pg.pages[page].block]
        if new >= 0:
            or32(&pg.map[page // 32], <uint32_t>1 << (page % 32))
            add64(&area.counters[A_CURR_PAGES], 1)
        else:
            and32(&pg.map[page // 32], ~(<uint32_t>1 << (page % 32)))
            add64(&area.counters[A_CURR_PAGES], -1)
