/* Which instruction set runs: the widest that this processor has, or the one that XLSTM_CPU_ISA
 * names. */
#include "ops/cpu/kernels.h"

#include "base/error.h"

#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__aarch64__)
extern const cpu_kernels cpu_kernels_neon;
#else
extern const cpu_kernels cpu_kernels_generic;
#endif
#if defined(__x86_64__)
extern const cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_amx;

/* Conversions of f16; not every compiler lets __builtin_cpu_supports ask for it. */
static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

/* Tiles of bf16, and the processor's own rounding to bf16. Linux lets a process use the tiles only
 * after it has asked; it refuses where a thread's stack for signals would not hold them. */
static bool has_amx(void) {
#if defined(__linux__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5;
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & amx_bf16) &&
           (edx & amx_tile) && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) &&
           (eax & avx512_bf16) && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}
#endif

typedef struct choice {
    const cpu_kernels *kernels;
    bool runs; /* on this processor */
} choice;

enum { MOST_CHOICES = 4 };

/* Best first. */
static int list_choices(choice *choices) {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    choices[count++] = (choice){&cpu_kernels_amx, avx512 && has_amx()};
    choices[count++] = (choice){&cpu_kernels_avx512, avx512};
    choices[count++] = (choice){&cpu_kernels_avx2, avx2};
#endif
#if defined(__aarch64__)
    choices[count++] = (choice){&cpu_kernels_neon, true};
#else
    choices[count++] = (choice){&cpu_kernels_generic, true};
#endif
    return count;
}

const cpu_kernels *cpu_kernels_choose(void) {
    choice choices[MOST_CHOICES];
    int count = list_choices(choices);
    const char *wanted = getenv("XLSTM_CPU_ISA");
    char available[64] = "";
    for (int i = 0; i < count; i++) {
        if (!choices[i].runs)
            continue;
        if (!wanted || !*wanted || strcmp(wanted, choices[i].kernels->name) == 0)
            return choices[i].kernels;
        strcat(strcat(available, *available ? ", " : ""), choices[i].kernels->name);
    }
    error_set(XLSTM_UNSUPPORTED, "XLSTM_CPU_ISA=%.40s cannot run on this processor: it has %s",
              wanted, available);
    return NULL;
}
