# ELF and the dynamic linker, for core/got.py alone: a C name here that is a function exists once in each module that
# cimports it. Sources: elf(5), System V ABI (x86-64, AArch64), dl_iterate_phdr(3), glibc's elf/dl-sym.c and dl-open.c.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dlfcn.h>
    #include <elf.h>
    #include <link.h>
    #include <string.h>
    #include <unistd.h>

    #if defined(__aarch64__)
    #define FS_R_ABSOLUTE R_AARCH64_ABS64
    #define FS_R_GLOB_DAT R_AARCH64_GLOB_DAT
    #define FS_R_JUMP_SLOT R_AARCH64_JUMP_SLOT
    #else
    #define FS_R_ABSOLUTE R_X86_64_64
    #define FS_R_GLOB_DAT R_X86_64_GLOB_DAT
    #define FS_R_JUMP_SLOT R_X86_64_JUMP_SLOT
    #endif
    #define FS_R_SYM(info) ((uint32_t)ELF64_R_SYM(info))
    #define FS_R_TYPE(info) ((uint32_t)ELF64_R_TYPE(info))
    #define FS_ST_UNDEFINED(symbol) ((symbol)->st_shndx == SHN_UNDEF)

    typedef int (*fs_phdr_function)(void *, size_t, void *);
    static int fs_iterate(fs_phdr_function callback, void *data) {
        return dl_iterate_phdr((int (*)(struct dl_phdr_info *, size_t, void *))callback, data);
    }

    /* 1: the address is a stub of the main program for a function that lies elsewhere (a program that is not position
       independent gives its own stub as the function's address). The stub jumps by way of what we patch. */
    static int fs_is_stub(const void *address) {
        Dl_info info;
        const ElfW(Sym) *symbol = NULL;
        return dladdr1(address, &info, (void **)&symbol, RTLD_DL_SYMENT) != 0 && symbol != NULL
            && symbol->st_shndx == SHN_UNDEF;
    }
    /* The first definition of a function behind the main program, in the order in which the linker searches: an
       allocator that has been preloaded comes before libc. (RTLD_NEXT would begin behind this module, at libc.) */
    static void *fs_first(const char *name) {
        for (struct link_map *m = _r_debug.r_map->l_next; m != NULL; m = m->l_next) {
            void *handle = m->l_name[0] ? dlopen(m->l_name, RTLD_LAZY | RTLD_NOLOAD) : NULL;
            void *found = handle != NULL ? dlsym(handle, name) : NULL;
            Dl_info info;
            if (handle != NULL) dlclose(handle);
            if (found != NULL && dladdr(found, &info) && info.dli_fbase == (void *)m->l_addr) return found;
        }
        return NULL;
    }
    /* The function's real address, as the objects of this process are bound to it; NULL: there is none. */
    static void *fs_find_function(const char *name) {
        void *found = dlsym(RTLD_DEFAULT, name);
        return found != NULL && fs_is_stub(found) ? fs_first(name) : found;
    }

    /* A walk while the dynamic linker's own lock is held, so that no object is met half loaded: its slots not yet
       filled, or made read-only between our mprotect() and our store. dlsym() holds that lock while it asks an indirect
       function (STT_GNU_IFUNC) for its address, and asks each time: the resolver is our way in. */
    static void (*fs_walk)(void);
    static void fs_nothing(void) {}
    static __attribute__((used)) void (*fs_resolve(void))(void) {
        if (fs_walk != NULL) fs_walk();
        return fs_nothing;
    }
    extern __attribute__((visibility("default"))) void frontswap_walk(void);
    void frontswap_walk(void) __attribute__((ifunc("fs_resolve")));
    static void fs_locked_walk(void *self, void (*walk)(void)) {
        fs_walk = walk;
        if (self == NULL || dlsym(self, "frontswap_walk") == NULL) walk();
    }
    /* A handle of the object that this is in. */
    static void *fs_self(void) {
        Dl_info info;
        return dladdr((void *)fs_resolve, &info) != 0 ? dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    }
    /* Where our modules lie: "/.../frontswap/core/"; its length, 0 if that is not known. */
    static size_t fs_own_folder(const char **path) {
        Dl_info info;
        if (dladdr((void *)fs_resolve, &info) == 0 || strrchr(info.dli_fname, '/') == NULL) return 0;
        *path = info.dli_fname;
        return (size_t)(strrchr(info.dli_fname, '/') - info.dli_fname) + 1;
    }

    /* dlopen() and dlsym() look at who calls them: RTLD_NEXT and RTLD_DEFAULT search from the caller on, a name without
       a slash is searched in the caller's RUNPATH, $ORIGIN is the caller's folder. Where that matters they must be
       jumped to, not called, so that the caller's return address is on the stack: a call in last place, which gcc turns
       into a jump from -O2 on (tests/test_got.py sees that it does). */
    static void *(*fs_real_dlopen)(const char *, int);
    static void *(*fs_real_dlsym)(void *, const char *);
    static void (*fs_patch_new)(void);
    static void *(*fs_wrapped)(void *);
    static void *(*fs_wrapped_name)(const char *);

    static void fs_set_hooks(void (*patch_new)(void), void *(*wrapped)(void *), void *(*wrapped_name)(const char *)) {
        fs_patch_new = patch_new;
        fs_wrapped = wrapped;
        fs_wrapped_name = wrapped_name;
    }
    #define FS_JUMPS __attribute__((noinline, optimize("O2", "optimize-sibling-calls")))

    static __attribute__((noinline)) void *fs_open_and_patch(const char *name, int flags) {
        void *found = fs_real_dlopen(name, flags);
        if (found != NULL) fs_patch_new();
        return found;
    }
    /* What is opened by a jump is patched when somebody asks for its symbols. */
    static FS_JUMPS void *fs_dlopen(const char *name, int flags) {
        if (name != NULL && (strchr(name, '/') == NULL || strchr(name, '$') != NULL))
            return fs_real_dlopen(name, flags);
        return fs_open_and_patch(name, flags);
    }
    static __attribute__((noinline)) void *fs_wrapped_symbol(void *handle, const char *name) {
        if (handle == RTLD_DEFAULT) return fs_wrapped_name(name);
        return fs_wrapped(fs_real_dlsym(handle, name));
    }
    static FS_JUMPS void *fs_dlsym(void *handle, const char *name) {
        void *found;
        fs_patch_new();
        if (handle == RTLD_NEXT) return fs_real_dlsym(handle, name);
        found = fs_wrapped_symbol(handle, name);
        if (handle != RTLD_DEFAULT || found != NULL) return found;
        return fs_real_dlsym(handle, name);
    }
    """
    const uint32_t R_ABSOLUTE "FS_R_ABSOLUTE"
    const uint32_t R_GLOB_DAT "FS_R_GLOB_DAT"
    const uint32_t R_JUMP_SLOT "FS_R_JUMP_SLOT"
    uint32_t reloc_symbol "FS_R_SYM"(uint64_t info)
    uint32_t reloc_type "FS_R_TYPE"(uint64_t info)
    const uint32_t PT_DYNAMIC, PT_GNU_RELRO, PT_LOAD, PF_W
    const int64_t DT_NULL, DT_STRTAB, DT_SYMTAB, DT_JMPREL, DT_PLTRELSZ, DT_RELA, DT_RELASZ
    ctypedef struct Elf64_Phdr:
        uint32_t p_type
        uint32_t p_flags
        uint64_t p_vaddr
        uint64_t p_memsz
    ctypedef struct Elf64_Dyn:
        int64_t d_tag
        uint64_t d_value "d_un.d_val"
    ctypedef struct Elf64_Rela:
        uint64_t r_offset
        uint64_t r_info
        int64_t r_addend
    ctypedef struct Elf64_Sym:
        uint32_t st_name
    bint is_undefined "FS_ST_UNDEFINED"(const Elf64_Sym *symbol)
    ctypedef struct phdr_info "struct dl_phdr_info":
        uint64_t dlpi_addr
        const char *dlpi_name
        const Elf64_Phdr *dlpi_phdr
        int dlpi_phnum
        unsigned long long dlpi_adds
        unsigned long long dlpi_subs
    int dl_iterate_phdr "fs_iterate"(int (*callback)(void *, size_t, void *) noexcept nogil, void *data)

    void *find_function "fs_find_function"(const char *name)
    void *own_handle "fs_self"()
    size_t own_folder "fs_own_folder"(const char **path)
    void locked_walk "fs_locked_walk"(void *self, void (*walk)() noexcept nogil)

    void *real_dlopen "*(void **)&fs_real_dlopen"
    void *real_dlsym "*(void **)&fs_real_dlsym"
    void set_hooks "fs_set_hooks"(
        void (*patch_new)() noexcept nogil, void *(*wrapped)(void *) noexcept nogil,
        void *(*wrapped_name)(const char *) noexcept nogil)
    void *our_dlopen "fs_dlopen"(const char *name, int flags)
    void *our_dlsym "fs_dlsym"(void *handle, const char *name)
    long page_size "getpagesize"()

ctypedef const Elf64_Phdr *headers_p
ctypedef const Elf64_Dyn *dynamic_p
ctypedef const Elf64_Rela *relocations_p
ctypedef const Elf64_Sym *symbols_p
ctypedef const phdr_info *info_p
