/* Which instruction set runs: the widest that this processor and this build have, or the one that
 * XLSTM_CPU_ISA names. Some sets differ from another in one part, products of bytes or tiles: their
 * tables are copies of the other's with that part replaced. */
#include "ops/cpu/kernels.h"

#include "base/error.h"

#include <pthread.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(HAS_avx2)
extern const cpu_kernels cpu_kernels_avx2;
extern const cpu_dot cpu_dot_avx2vnni;
static cpu_kernels avx2vnni;
#endif
#if defined(HAS_avx512)
extern const cpu_kernels cpu_kernels_avx512;
extern const cpu_dot cpu_dot_avx512vnni;
extern const cpu_tiles cpu_tiles_amx;
extern const cpu_dot cpu_dot_amx;
static cpu_kernels avx512vnni, amx;
#endif

#if defined(HAS_avx2)
/* Conversions of f16; not every compiler lets __builtin_cpu_supports ask for it. */
static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static bool has_avx_vnni(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4);
}
#endif

#if defined(HAS_avx512)
/* Tiles of bf16 and of bytes, and the processor's own rounding to bf16. Linux lets a process use the
 * tiles only after it has asked; it refuses where a thread's stack for signals would not hold them. */
static bool has_amx(void) {
#if defined(__linux__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25;
    const unsigned avx512_bf16 = 1u << 5;
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & amx_bf16) &&
           (edx & amx_tile) && (edx & amx_int8) &&
           __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & avx512_bf16) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

/* Products of bytes, permutations of bytes, and matrices of bits: Ice Lake and Zen 4 have all three. */
static bool has_avx512_bytes(void) {
    const unsigned vbmi = 1u << 1, gfni = 1u << 8, vnni = 1u << 11;
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ecx & vbmi) && (ecx & gfni) &&
           (ecx & vnni);
}
#endif

#if defined(__aarch64__)
extern const cpu_kernels cpu_kernels_neon;
extern const cpu_dot cpu_dot_neon_dotprod, cpu_dot_neon_i8mm;
static cpu_kernels neon_dotprod, neon_i8mm;

#if defined(__APPLE__)
static bool has_feature(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}
#endif

static bool has_dotprod(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & 1u << 20;
#elif defined(__APPLE__)
    return has_feature("hw.optional.arm.FEAT_DotProd");
#else
    return false;
#endif
}

static bool has_i8mm(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP2) & 1u << 13;
#elif defined(__APPLE__)
    return has_feature("hw.optional.arm.FEAT_I8MM");
#else
    return false;
#endif
}
#else
extern const cpu_kernels cpu_kernels_generic;
#endif

typedef struct choice {
    const cpu_kernels *kernels;
    bool runs; /* on this processor */
} choice;

static choice choices[8];
static int choice_count;

static void add_choice(const cpu_kernels *kernels, bool runs) {
    choices[choice_count++] = (choice){kernels, runs};
}

/* Best first. */
static void list_choices(void) {
#if defined(HAS_avx2)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
#if defined(HAS_avx512)
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    bool has_vnni = avx512 && has_avx512_bytes();
    avx512vnni = cpu_kernels_avx512;
    avx512vnni.name = "avx512vnni";
    avx512vnni.dot = &cpu_dot_avx512vnni;
    amx = avx512vnni; /* no processor has AMX without it */
    amx.name = "amx";
    amx.tiles = &cpu_tiles_amx;
    amx.dot_tiles = &cpu_dot_amx;
    add_choice(&amx, has_vnni && has_amx());
    add_choice(&avx512vnni, has_vnni);
    add_choice(&cpu_kernels_avx512, avx512);
#endif
#if defined(HAS_avx2)
    avx2vnni = cpu_kernels_avx2;
    avx2vnni.name = "avx2vnni";
    avx2vnni.dot = &cpu_dot_avx2vnni;
    add_choice(&avx2vnni, avx2 && has_avx_vnni());
    add_choice(&cpu_kernels_avx2, avx2);
#endif
#if defined(__aarch64__)
    neon_dotprod = cpu_kernels_neon;
    neon_dotprod.name = "neon_dotprod";
    neon_dotprod.dot = &cpu_dot_neon_dotprod;
    neon_i8mm = cpu_kernels_neon;
    neon_i8mm.name = "neon_i8mm";
    neon_i8mm.dot = &cpu_dot_neon_i8mm;
    add_choice(&neon_i8mm, has_dotprod() && has_i8mm());
    add_choice(&neon_dotprod, has_dotprod());
    add_choice(&cpu_kernels_neon, true);
#else
    add_choice(&cpu_kernels_generic, true);
#endif
}

const cpu_kernels *cpu_kernels_at(int index, bool *runs) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, list_choices);
    if (index >= choice_count)
        return NULL;
    *runs = choices[index].runs;
    return choices[index].kernels;
}

const cpu_kernels *cpu_kernels_choose(void) {
    const char *wanted = getenv("XLSTM_CPU_ISA");
    char available[128] = "";
    const cpu_kernels *kernels;
    bool runs;
    for (int i = 0; (kernels = cpu_kernels_at(i, &runs)); i++) {
        if (!runs)
            continue;
        if (!wanted || !*wanted || strcmp(wanted, kernels->name) == 0)
            return kernels;
        strcat(strcat(available, *available ? ", " : ""), kernels->name);
    }
    error_set(XLSTM_UNSUPPORTED, "XLSTM_CPU_ISA=%.40s cannot run on this processor: it has %s",
              wanted, available);
    return NULL;
}
