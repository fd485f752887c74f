/* What went wrong, in words: names of functions and lines of the program's own file, accesses where no memory is. */
#include "machine.h"

#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char cuda_dynamic_shared[];
}

namespace cuda_device {

void report_end(const char *message) {
    fflush(stdout);
    fprintf(stderr, "cuda test device: %s\n", message);
    fflush(stderr);
    _exit(3);
}

/* ---- Names ---- */

static const char *symbol_at(uint64_t address) {
    static const char *file;
    static size_t size;
    if (file == nullptr) {
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct stat info;
        if (fd < 0 || fstat(fd, &info) != 0)
            return nullptr;
        size = (size_t)info.st_size;
        void *p = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
        close(fd);
        if (p == MAP_FAILED)
            return nullptr;
        file = (const char *)p;
    }
    auto *header = (const Elf64_Ehdr *)file;
    auto *sections = (const Elf64_Shdr *)(file + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB)
            continue;
        auto *symbols = (const Elf64_Sym *)(file + sections[i].sh_offset);
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof *symbols; k++)
            if (ELF64_ST_TYPE(symbols[k].st_info) == STT_FUNC && address >= symbols[k].st_value &&
                address < symbols[k].st_value + (symbols[k].st_size ? symbols[k].st_size : 1))
                return names + symbols[k].st_name;
    }
    return nullptr;
}

/* "_ZL5helloI...": the first name of a mangled one. */
const char *report_function(const void *address) {
    static char text[256];
    const char *name = symbol_at((uint64_t)((const char *)address - __ehdr_start));
    if (name == nullptr)
        return "a kernel";
    const char *digits = name;
    if (strncmp(name, "_Z", 2) == 0)
        digits += strcspn(name, "0123456789");
    int length = atoi(digits);
    if (length == 0)
        return name;
    snprintf(text, sizeof text, "%.*s", length, digits + strspn(digits, "0123456789"));
    return text;
}

const char *report_line(const void *address) {
    static char text[512];
    char command[200];
    snprintf(command, sizeof command, "addr2line -e /proc/%d/exe %#lx 2>&1", (int)getpid(),
             (unsigned long)((const char *)address - __ehdr_start));
    FILE *p = popen(command, "r");
    text[0] = 0;
    if (p != nullptr) {
        if (fgets(text, sizeof text, p) != nullptr)
            text[strcspn(text, "\n")] = 0;
        pclose(p);
    }
    return text;
}

/* ---- Signals ---- */

static struct sigaction others[65]; /* handlers that were there before */

static void handle(int signal_number, siginfo_t *info, void *context) {
    if (cuda_device_now == nullptr) {
        sigaction(signal_number, &others[signal_number], nullptr); /* of the host: comes again */
        return;
    }
    auto at = (uintptr_t)info->si_addr, shared = (uintptr_t)cuda_dynamic_shared;
    auto *place = (const void *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    char what[300];
    if (signal_number == SIGFPE)
        snprintf(what, sizeof what, "division by zero, or its overflow");
    else if (at >= shared && at < shared + MOST_SHARED + 8192)
        snprintf(what, sizeof what, "access to byte %lu of shared memory, behind its end",
                 (unsigned long)(at - shared));
    else
        describe_address(at, what, sizeof what);
    cuda_device_fail("%s, at %s", what, report_line(place));
}

static void take_signal(int number) {
    struct sigaction action = {}, before;
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    if (sigaction(number, &action, &before) == 0 && before.sa_sigaction != handle)
        others[number] = before;
}

void report_prepare() {
    static __thread char *stack;
    const size_t size = 65536;
    if (stack == nullptr) {
        void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return;
        stack = (char *)p;
        stack_t alternative = {};
        alternative.ss_sp = stack;
        alternative.ss_size = size;
        sigaltstack(&alternative, nullptr);
    }
    take_signal(SIGSEGV);
    take_signal(SIGBUS);
    take_signal(SIGFPE);
}

} // namespace cuda_device
