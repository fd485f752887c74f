/* A machine with larger pages than this one: with XLSTM_METAL_TEST_PAGE=16384 a program sees pages of 16 KB, as Apple's
 * processors have them, in what it asks the system for. Programs that link the test device call these functions instead
 * of the C library's; without the variable they are the same. They are weak: a test may have its own. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WEAK __attribute__((weak))

/* A function of the C library. */
#define NEXT(name, type) ((type)(uintptr_t)dlsym(RTLD_NEXT, name))

typedef long (*sysconf_function)(int);
typedef void *(*mmap_function)(void *, size_t, int, int, int, off_t);
typedef int (*munmap_function)(void *, size_t);

static long page_of(long machine) {
    const char *text = getenv("XLSTM_METAL_TEST_PAGE");
    long page = text ? strtol(text, NULL, 10) : 0;
    return page > machine ? page : machine;
}

WEAK long sysconf(int name) {
    static sysconf_function next;
    if (!next)
        next = NEXT("sysconf", sysconf_function);
    return name == _SC_PAGESIZE ? page_of(next(name)) : next(name);
}

WEAK int getpagesize(void) {
    return (int)sysconf(_SC_PAGESIZE);
}

static size_t whole_pages(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

/* At a multiple of the page, with zeros to the end of the last one. */
static void *map_at_page(mmap_function map, munmap_function unmap, size_t size, int protection,
                         int flags, int file, off_t offset) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = whole_pages(size), all = whole + page;
    char *room =
        map(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    char *begin = (char *)(((uintptr_t)room + page - 1) / page * page);
    if (map(begin, size, protection, flags | MAP_FIXED, file, offset) == MAP_FAILED) {
        unmap(room, all);
        return MAP_FAILED;
    }
    if (begin > room)
        unmap(room, (size_t)(begin - room));
    unmap(begin + whole, (size_t)(room + all - (begin + whole)));
    return begin;
}

WEAK void *mmap(void *address, size_t size, int protection, int flags, int file, off_t offset) {
    mmap_function next = NEXT("mmap", mmap_function);
    munmap_function unmap = NEXT("munmap", munmap_function);
    if (address || size == 0 || !getenv("XLSTM_METAL_TEST_PAGE"))
        return next(address, size, protection, flags, file, offset);
    return map_at_page(next, unmap, size, protection, flags, file, offset);
}

WEAK int munmap(void *address, size_t size) {
    munmap_function next = NEXT("munmap", munmap_function);
    return next(address, getenv("XLSTM_METAL_TEST_PAGE") ? whole_pages(size) : size);
}
