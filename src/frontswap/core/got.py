"""Interposition while the program runs: the slots through which objects call a function get our function's address.

An object (the program, a shared library, an extension module) calls a function of another one through a slot of its
own, its global offset table (GOT), which the dynamic linker fills. Each slot is named by a relocation. got_add() names
a function, got_patch_all() walks over all objects and puts the replacement where the original is. Nothing has to be
set before the program starts (as LD_PRELOAD must), and what is loaded later is patched when it is loaded: dlopen() and
dlsym() are interposed in the same way, and dlsym() answers with the replacement too (ctypes and cffi call what it
says). It is never undone: somebody may have copied the address.

What is left as it is: a slot that holds neither the original nor a way to find it (another tool's function is there:
it was asked for on purpose), our own modules, objects in another namespace (dlmopen), and calls within one object or
libc itself, which use no slot. And an allocator that has been preloaded in the place of libc's (jemalloc, tcmalloc):
what it maps is for small objects, and it is called where a fault could not be waited for. Nothing here can fail the
program: what cannot be patched is counted.

Everything is idempotent and safe in several threads. Locks: the walk holds the dynamic linker's (see elf.pxd), then
`walk_lock` for one object at a time; inside it nothing is called but mprotect().
"""

import cython
from cython.cimports.frontswap.core.elf import (
    DT_JMPREL,
    DT_NULL,
    DT_PLTRELSZ,
    DT_RELA,
    DT_RELASZ,
    DT_STRTAB,
    DT_SYMTAB,
    PF_W,
    PT_DYNAMIC,
    PT_GNU_RELRO,
    PT_LOAD,
    R_ABSOLUTE,
    R_GLOB_DAT,
    R_JUMP_SLOT,
    Elf64_Rela,
    dl_iterate_phdr,
    dynamic_p,
    find_function,
    headers_p,
    info_p,
    is_undefined,
    locked_walk,
    our_dlopen,
    our_dlsym,
    own_folder,
    own_handle,
    page_size,
    real_dlopen,
    real_dlsym,
    reloc_symbol,
    reloc_type,
    relocations_p,
    set_hooks,
    symbols_p,
)
from cython.cimports.frontswap.core.uapi import (
    ENOENT,
    ENOSPC,
    PROT_READ,
    PROT_WRITE,
    backoff,
    block_signals,
    casi,
    clock_ns,
    int64_t,
    load64,
    loadi,
    lock,
    lock_t,
    mprotect,
    pthread_atfork,
    restore_signals,
    sigset_t,
    store64,
    storei,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.libc.string import memset, strcmp, strncmp

# --- what is interposed ----------------------------------------------------------------------------


def hash_name(name):
    """FNV-1a."""
    found: uint32_t = 2166136261
    i: cython.size_t = 0
    while name[i] != 0:
        found = (found ^ cython.cast(cython.uchar, name[i])) * 16777619
        i += 1
    return found


def find_entry(name):
    """The entry of this name, or NULL."""
    at: uint32_t
    if not firsts[cython.cast(cython.uchar, name[0])] or not seconds[cython.cast(cython.uchar, name[1])]:
        return cython.NULL
    at = hash_name(name) & (NAME_SLOTS - 1)
    while names[at] != 0:
        if strcmp(entries[names[at] - 1].name, name) == 0:
            return cython.address(entries[names[at] - 1])
        at = (at + 1) & (NAME_SLOTS - 1)
    return cython.NULL


def got_add(name, replacement, original):
    """Have calls of the function `name` go to `replacement` from the next got_patch_all() on; 0, or an errno.

    `*original` is what `replacement` calls: the address that the objects of this process are bound to. ENOENT: nothing
    here has such a function. `name` must stay. Before the first got_patch_all() or with the GIL held: not for two
    threads at once.
    """
    global entry_count
    entry: entry_p = find_entry(name)
    at: uint32_t
    if entry == cython.NULL:
        if entry_count == MOST_SYMBOLS:
            return ENOSPC
        entry = cython.address(entries[entry_count])
        entry.original = find_function(name)
        if entry.original == cython.NULL:
            return ENOENT
        entry.name = name
        entry.replacement = replacement
        original[0] = entry.original
        at = hash_name(name) & (NAME_SLOTS - 1)
        while names[at] != 0:
            at = (at + 1) & (NAME_SLOTS - 1)
        storei(cython.address(entry_count), entry_count + 1)
        # Who finds the name finds all of its entry: it is written last.
        storei(cython.address(names[at]), entry_count)
        firsts[cython.cast(cython.uchar, name[0])] = 1
        seconds[cython.cast(cython.uchar, name[1])] = 1
        return 0
    original[0] = entry.original
    return 0


def wrapped(original):
    """What dlsym() says: the replacement of an interposed function, any other address as it is."""
    i: cython.int
    if original != cython.NULL:
        for i in range(loadi(cython.address(entry_count))):
            if entries[i].original == original:
                return entries[i].replacement
    return original


def wrapped_name(name):
    """dlsym(RTLD_DEFAULT, name): the replacement; NULL: it is not interposed, the caller's own search must say."""
    entry: entry_p = find_entry(name)
    if entry == cython.NULL:
        return cython.NULL
    return entry.replacement


# --- the walk --------------------------------------------------------------------------------------


def got_patch_all():
    """Patch every object that is loaded now, and from here on those that will be."""
    global self_handle, folder_length, its_malloc, its_mmap
    if casi(cython.address(started), 0, 1):
        set_hooks(patch_new, wrapped, wrapped_name)
        self_handle = own_handle()
        its_malloc = find_function(cython.cast(cython.p_const_char, "malloc"))
        its_mmap = find_function(cython.cast(cython.p_const_char, "mmap"))
        folder_length = own_folder(cython.address(folder))
        pthread_atfork(on_fork, on_fork_parent, on_fork_child)
    locked_walk(self_handle, walk)


def on_fork():
    """Before a fork: nobody is in iterate() until it is over."""
    turn: cython.int = 0
    while not casi(cython.address(iterating), 0, 1):
        backoff(turn)
        turn += 1
    forking_here[0] = 1


def on_fork_parent():
    """After it."""
    forking_here[0] = 0
    storei(cython.address(iterating), 0)


def on_fork_child():
    """The child of a fork in the middle of another thread's walk; an object half patched is looked at again."""
    memset(cython.address(walk_lock), 0, cython.sizeof(lock_t))
    on_fork_parent()


def iterate(callback, data):
    """dl_iterate_phdr(), by nobody while a process forks: its lock, which glibc forgets in fork(), would stay taken in
    the child, and the next dlsym() or exception there wait for ever.

    A handler of pthread_atfork comes here in the middle of a fork, and one in another thread may have the fork wait for
    what this thread has: so it does not wait for ever.
    """
    signals: sigset_t
    turn: cython.int = 0
    ours: cython.bint
    until: int64_t = clock_ns() + 1000000000  # not so many turns: on some machines each is 4 ms long
    block_signals(cython.address(signals))  # a handler that forks would wait for its own thread
    ours = forking_here[0] == 0 and casi(cython.address(iterating), 0, 1)
    while not ours and forking_here[0] == 0 and clock_ns() < until:
        backoff(turn)
        turn += 1
        ours = casi(cython.address(iterating), 0, 1)
    dl_iterate_phdr(callback, data)
    if ours:
        storei(cython.address(iterating), 0)
    restore_signals(cython.address(signals))


def is_news(info, size, data):
    """Callback, for the first object only: has anything been loaded or unloaded since the last walk?"""
    news: cython.pointer(cython.bint) = cython.cast(cython.pointer(cython.bint), data)
    now: info_p = cython.cast(info_p, info)
    news[0] = load64(cython.address(seen_adds)) != cython.cast(int64_t, now.dlpi_adds) or load64(
        cython.address(seen_subs)
    ) != cython.cast(int64_t, now.dlpi_subs)
    return 1


def patch_new():
    """Walk if there is an object that has not been seen."""
    news: cython.bint = False
    iterate(is_news, cython.address(news))
    if news:
        locked_walk(self_handle, walk)


def walk():
    """Visit all objects. The dynamic linker holds its lock."""
    global position
    position = 0
    tally.walks += 1
    iterate(visit, cython.NULL)


def visit(info, size, data):
    """Callback: patch one object, unless it is known."""
    global position, seen_entries
    found: info_p = cython.cast(info_p, info)
    o: object_t
    signals: sigset_t
    at: cython.int
    block_signals(cython.address(signals))
    lock(cython.address(walk_lock))
    at = position
    position += 1
    if at == 0:
        # Something has been unloaded: another object may lie where it was. Or there are more functions.
        if load64(cython.address(seen_subs)) != cython.cast(int64_t, found.dlpi_subs) or seen_entries != entry_count:
            memset(seen, 0, cython.sizeof(seen))
            store64(cython.address(seen_subs), cython.cast(int64_t, found.dlpi_subs))
            seen_entries = entry_count
        store64(cython.address(seen_adds), cython.cast(int64_t, found.dlpi_adds))
    if at >= MOST_OBJECTS or seen[at].base != found.dlpi_addr or seen[at].headers != found.dlpi_phdr:
        memset(cython.address(o), 0, cython.sizeof(o))
        if folder_length == 0 or strncmp(found.dlpi_name, folder, folder_length) != 0:
            patch_object(info, cython.address(o))
        tally.objects += 1
        if at < MOST_OBJECTS and not o.again:
            seen[at].base = found.dlpi_addr
            seen[at].headers = found.dlpi_phdr
    unlock(cython.address(walk_lock))
    restore_signals(cython.address(signals))
    return 0


def bounds(info, low, high):
    """The addresses of a loaded object."""
    found: info_p = cython.cast(info_p, info)
    i: cython.int
    value: uint64_t
    low[0] = ~cython.cast(uint64_t, 0)
    high[0] = 0
    for i in range(found.dlpi_phnum):
        if found.dlpi_phdr[i].p_type == PT_LOAD:
            value = found.dlpi_addr + found.dlpi_phdr[i].p_vaddr
            low[0] = min(low[0], value)
            high[0] = max(high[0], value + found.dlpi_phdr[i].p_memsz)


def image_of(name, image):
    """Where the object lies that a function is of; nowhere, if there is none."""
    image.function = find_function(name)
    iterate(is_its, image)


def is_its(info, size, data):
    """Callback of image_of()."""
    image: image_p = cython.cast(image_p, data)
    low: uint64_t = 0
    high: uint64_t = 0
    bounds(info, cython.address(low), cython.address(high))
    if not low <= cython.cast(uint64_t, image.function) < high:
        return 0
    image.low = low
    image.high = high
    return 1


def patch_object(info, o):
    """Find the tables of an object and patch what they name."""
    found: info_p = cython.cast(info_p, info)
    i: cython.int
    header: headers_p
    dynamic: dynamic_p = cython.NULL
    value: uint64_t
    plt: uint64_t = 0
    plt_bytes: uint64_t = 0
    rela: uint64_t = 0
    rela_bytes: uint64_t = 0
    page: uint64_t = page_size()
    o.base = found.dlpi_addr
    o.headers = found.dlpi_phdr
    o.header_count = found.dlpi_phnum
    bounds(info, cython.address(o.low), cython.address(o.high))
    for i in range(found.dlpi_phnum):
        header = cython.address(found.dlpi_phdr[i])
        value = o.base + header.p_vaddr
        if header.p_type == PT_DYNAMIC:
            dynamic = cython.cast(dynamic_p, value)
        elif header.p_type == PT_GNU_RELRO:
            # As glibc rounds it (_dl_protect_relro): the last page is protected only if it is whole.
            o.relro = value // page * page
            o.relro_end = (value + header.p_memsz) // page * page
    if dynamic == cython.NULL or (holds(o, its_malloc) and not holds(o, its_mmap)):
        return
    while dynamic.d_tag != DT_NULL:
        value = dynamic.d_value
        if dynamic.d_tag == DT_PLTRELSZ:
            plt_bytes = value
        elif dynamic.d_tag == DT_RELASZ:
            rela_bytes = value
        else:
            # glibc has made them addresses in place, except where the table is read-only (the vdso).
            if value < o.base:
                value += o.base
            if dynamic.d_tag == DT_JMPREL:
                plt = value
            elif dynamic.d_tag == DT_RELA:
                rela = value
            elif dynamic.d_tag == DT_STRTAB:
                o.strings = cython.cast(cython.p_const_char, value)
            elif dynamic.d_tag == DT_SYMTAB:
                o.symbols = cython.cast(cython.p_void, value)
        dynamic = dynamic + 1
    if o.strings == cython.NULL or o.symbols == cython.NULL:
        return
    if plt != 0:
        patch_relocations(o, cython.cast(cython.p_void, plt), plt_bytes)
    if rela != 0:
        patch_relocations(o, cython.cast(cython.p_void, rela), rela_bytes)
    if o.open:
        mprotect(cython.cast(cython.p_void, o.relro), o.relro_end - o.relro, PROT_READ)


def holds(o, function):
    """True if this function is one of an object's."""
    return o.low <= cython.cast(uint64_t, function) < o.high


def patch_relocations(o, first, bytes):
    """One table."""
    table: relocations_p = cython.cast(relocations_p, first)
    symbols: symbols_p = cython.cast(symbols_p, o.symbols)
    i: uint64_t
    kind: uint32_t
    number: uint32_t
    entry: entry_p
    for i in range(bytes // cython.sizeof(Elf64_Rela)):
        kind = reloc_type(table[i].r_info)
        number = reloc_symbol(table[i].r_info)
        if number == 0 or (kind != R_JUMP_SLOT and kind != R_GLOB_DAT and kind != R_ABSOLUTE):
            continue
        # What an object defines itself is not ours; nor is "the function and so many bytes".
        if not is_undefined(cython.address(symbols[number])) or (kind == R_ABSOLUTE and table[i].r_addend != 0):
            continue
        entry = find_entry(o.strings + symbols[number].st_name)
        if entry != cython.NULL:
            patch_slot(o, entry, o.base + table[i].r_offset, kind)


def patch_slot(o, entry, address, type):
    """One slot: the original's address, or a function of the linker that will look for it at the first call."""
    slot: cython.pointer(int64_t) = cython.cast(cython.pointer(int64_t), address)
    value: uint64_t
    if address < o.low or address + 8 > o.high or address % 8 != 0:
        tally.refused += 1
        return
    value = cython.cast(uint64_t, load64(slot))
    if value == cython.cast(uint64_t, entry.replacement):
        return
    if value != cython.cast(uint64_t, entry.original):
        if type != R_JUMP_SLOT or not o.low <= value < o.high:
            tally.others += 1
            return
        # Another thread may be in the linker on its way to store the original here: look once more, next time.
        o.again = True
    if not writable(o, address):
        tally.refused += 1
        return
    store64(slot, cython.cast(int64_t, entry.replacement))
    tally.slots += 1


def writable(o, address):
    """True once a slot can be written: its page is so, or was until the object was loaded and is so again."""
    i: cython.int
    header: headers_p
    if o.relro <= address < o.relro_end:
        if not o.open and not o.sealed:
            o.open = mprotect(cython.cast(cython.p_void, o.relro), o.relro_end - o.relro, PROT_READ | PROT_WRITE) == 0
            o.sealed = not o.open
        return o.open
    for i in range(o.header_count):
        header = cython.cast(headers_p, o.headers) + i
        if header.p_type == PT_LOAD and o.base + header.p_vaddr <= address < o.base + header.p_vaddr + header.p_memsz:
            return (header.p_flags & PF_W) != 0
    return False


def counters() -> dict[str, int]:
    """What the walks have done: objects looked at, slots patched, those of others, those that could not be written."""
    return {
        "objects": tally.objects,
        "slots": tally.slots,
        "others": tally.others,
        "refused": tally.refused,
        "walks": tally.walks,
    }


got_add(b"dlopen", cython.cast(cython.p_void, our_dlopen), cython.address(real_dlopen))
got_add(b"dlsym", cython.cast(cython.p_void, our_dlsym), cython.address(real_dlsym))
