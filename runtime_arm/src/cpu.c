/* Which ISAs this CPU has, and which kernel runs an op. */
#include <pthread.h>
#include <stdio.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
#include <sys/auxv.h>
#endif

#include "internal.h"

/* As /proc/cpuinfo spells it. */
#if defined(__arm__)
#define NEON_NAME "neon"
#else
#define NEON_NAME "asimd"
#endif

static bvt_cpu the_cpu;
static char features[128];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void detect(void) {
#if defined(__x86_64__)
    /* By hand, because __builtin_cpu_supports needs a part of libgcc that other toolchains (zig) do not have. */
    unsigned a, b, c, d, saved = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        the_cpu.popcnt = c >> 23 & 1;
        the_cpu.f16c = c >> 29 & 1;
        the_cpu.fma = c >> 12 & 1;
        /* OSXSAVE: the system may be asked which registers it saves. */
        if (c >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    }
    const bool ymm = (saved & 6) == 6;
    the_cpu.fma = the_cpu.fma && ymm;
    the_cpu.f16c = the_cpu.f16c && ymm;
    const bool leaf7 = __get_cpuid_count(7, 0, &a, &b, &c, &d);
    the_cpu.avx2 = ymm && leaf7 && b >> 5 & 1;
    /* F, DQ, BW, VL of ebx; VBMI, BITALG, VPOPCNTDQ of ecx; registers that the system saves. */
    const unsigned in_b = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, in_c = 1u << 1 | 1u << 12 | 1u << 14;
    the_cpu.avx512 = (saved & 0xE6) == 0xE6 && leaf7 && (b & in_b) == in_b && (c & in_c) == in_c;
#elif defined(__aarch64__)
    the_cpu.neon = true; /* part of the base architecture */
#if defined(__linux__)
    unsigned long caps = getauxval(AT_HWCAP);
    the_cpu.dotprod = caps >> 20 & 1; /* HWCAP_ASIMDDP */
    the_cpu.fp16 = caps >> 10 & 1;    /* HWCAP_ASIMDHP */
    if (caps >> 11 & 1) {             /* HWCAP_CPUID: the kernel answers for the register that names the core */
        uint64_t midr;
        __asm__("mrs %0, midr_el1" : "=r"(midr));
        const unsigned maker = midr >> 24 & 255, part = midr >> 4 & 4095;
        the_cpu.in_order = maker == 0x41 && (part == 0xD03 || part == 0xD04 || part == 0xD05); /* Cortex-A53, A35, A55 */
    }
#endif
#elif defined(__arm__) && defined(__linux__)
    const unsigned long caps = getauxval(AT_HWCAP);
    the_cpu.neon = caps >> 12 & 1;  /* HWCAP_ARM_NEON */
    the_cpu.vfpv4 = caps >> 16 & 1; /* HWCAP_ARM_VFPv4 */
#endif
    const struct {
        bool has;
        const char *name;
    } list[] = {{the_cpu.neon, NEON_NAME}, {the_cpu.vfpv4, "vfpv4"}, {the_cpu.dotprod, "asimddp"}, {the_cpu.fp16, "asimdhp"},
                {the_cpu.avx2, "avx2"},  {the_cpu.fma, "fma"},         {the_cpu.f16c, "f16c"},    {the_cpu.popcnt, "popcnt"},
                {the_cpu.avx512, "avx512"}};
    size_t at = 0;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].has) at += (size_t)snprintf(features + at, sizeof features - at, "%s%s", at ? " " : "", list[i].name);
}

const bvt_cpu *bvt_cpu_get(void) {
    pthread_once(&once, detect);
    return &the_cpu;
}

const char *bvt_cpu_features(void) {
    bvt_cpu_get();
    return features;
}

bool bvt_isa_available(int isa) {
    const bvt_cpu *cpu = bvt_cpu_get();
    (void)cpu;
    switch (isa) {
    case BVT_ISA_REF: return true;
#if defined(__aarch64__) || defined(__arm__)
    case BVT_ISA_NEON: return cpu->neon;
#elif defined(__x86_64__)
    case BVT_ISA_AVX2: return cpu->avx2 && cpu->fma && cpu->popcnt;
    case BVT_ISA_AVX512: return cpu->avx512 && cpu->avx2 && cpu->fma && cpu->popcnt;
#endif
    default: return false;
    }
}

static const char *const isa_names[] = {
#define X(name, NAME) #name,
    BVT_ISAS(X)
#undef X
};

uint32_t bvt_isa_count(void) {
    uint32_t n = 0;
    for (int isa = 0; isa < BVT_ISA_END; isa++) n += bvt_isa_available(isa);
    return n;
}

const char *bvt_isa_name(uint32_t index) {
    for (int isa = 0; isa < BVT_ISA_END; isa++)
        if (bvt_isa_available(isa) && index-- == 0) return isa_names[isa];
    return "";
}

const bvt_kernel_entry bvt_kernels[] = {
#define BVT_KERNEL(OP, ISA, fn, condition) {BVT_OP_##OP, BVT_ISA_##ISA, false, #fn, fn},
#define BVT_HALF_KERNEL(OP, ISA, fn, condition) {BVT_OP_##OP, BVT_ISA_##ISA, true, #fn, fn},
#include "kernels/kernels.inc"
#undef BVT_HALF_KERNEL
#undef BVT_KERNEL
};
const unsigned bvt_n_kernels = sizeof bvt_kernels / sizeof *bvt_kernels;

bool bvt_kernel_usable(unsigned index) {
    const bvt_cpu *cpu = bvt_cpu_get();
    (void)cpu;
    const bool usable[] = {
#define BVT_KERNEL(OP, ISA, fn, condition) (condition),
#define BVT_HALF_KERNEL BVT_KERNEL
#include "kernels/kernels.inc"
#undef BVT_HALF_KERNEL
#undef BVT_KERNEL
    };
    return usable[index];
}

bvt_kernel bvt_kernel_find(uint32_t opcode, bool half, int isa) {
    bvt_kernel found = NULL;
    for (unsigned i = 0; i < bvt_n_kernels; i++) {
        const bvt_kernel_entry *e = &bvt_kernels[i];
        /* The list is in rising order of ISAs: the last usable line wins. */
        if (e->opcode == (int)opcode && e->half == half && e->isa <= isa && bvt_kernel_usable(i)) found = e->fn;
    }
    return found;
}
