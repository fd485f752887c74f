/* What tests control and read of the Metal test device: its configuration, counters, faults and violations; and the
 * processor behind it, which is opened once. */
#include "control.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef METAL_DEVICE_KERNELS
#define METAL_DEVICE_KERNELS "build/metal"
#endif

metal_device_config device_config;
metal_device_counts device_counts;
uint64_t device_live_bytes;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t gpu_lock = PTHREAD_MUTEX_INITIALIZER;
static bool configured, catching, caught, lost;
static char violation[1024], violation_read[1024];
static gpu *processor;
static char processor_error[512];

static const char *const fault_names[METAL_FAULTS] = {"buffer",  "queue",    "residency",
                                                      "library", "pipeline", "commandbuffer",
                                                      "encoder", "commands", "lost"};
static struct {
    unsigned left;
    long code;
} faults[METAL_FAULTS];

/* ---- Configuration ---------------------------------------------------------------------------- */

_Noreturn static void refuse(const char *name, const char *text, const char *right) {
    fprintf(stderr, "metal test device: %s=%s is not %s\n", name, text, right);
    exit(2);
}

static uint64_t number(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    if (text == NULL || *text == '\0') {
        return otherwise;
    }
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (*end != '\0') {
        refuse(name, text, "a number");
    }
    return value;
}

static bool is(const char *text, const char *word) {
    return text != NULL && strcmp(text, word) == 0;
}

static void read_mode(metal_device_config *config) {
    const char *mode = getenv("XLSTM_METAL_TEST_MODE");
    if (mode == NULL || is(mode, "checked")) {
        config->mode = GPU_CHECKED;
    } else if (is(mode, "fast")) {
        config->mode = GPU_FAST;
    } else if (is(mode, "fastmath")) {
        config->mode = GPU_FAST_MATH;
    } else {
        refuse("XLSTM_METAL_TEST_MODE", mode, "checked, fast or fastmath");
    }
    const char *schedule = getenv("XLSTM_METAL_TEST_SCHEDULE");
    if (schedule == NULL || is(schedule, "forward")) {
        config->schedule = GPU_FORWARD;
    } else if (is(schedule, "reverse")) {
        config->schedule = GPU_REVERSE;
    } else if (strncmp(schedule, "random", 6) == 0 && (schedule[6] == ':' || schedule[6] == '\0')) {
        config->schedule = GPU_RANDOM;
        config->seed = schedule[6] == ':' ? strtoull(schedule + 7, NULL, 10) : 1;
    } else {
        refuse("XLSTM_METAL_TEST_SCHEDULE", schedule, "forward, reverse or random:seed");
    }
}

metal_device_config metal_device_default(void) {
    metal_device_config config = {
        .present = !is(getenv("XLSTM_METAL_TEST_DEVICE"), "none"),
        .family = (int)number("XLSTM_METAL_TEST_FAMILY", 7),
        .macos = (int)number("XLSTM_METAL_TEST_MACOS", 15),
        .largest_buffer = number("XLSTM_METAL_TEST_BUFFER", (uint64_t)8 << 30),
        .memory = number("XLSTM_METAL_TEST_MEMORY", (uint64_t)12 << 30),
        .page = number("XLSTM_METAL_TEST_PAGE", (uint64_t)sysconf(_SC_PAGESIZE)),
        .most_threads = (uint32_t)number("XLSTM_METAL_TEST_THREADS", GPU_MOST_THREADS),
        .simd_width = GPU_SIMD,
        .patience = 2000,
        .kernels = getenv("XLSTM_METAL_TEST_KERNELS"),
        .trace = is(getenv("XLSTM_METAL_TEST_TRACE"), "1"),
    };
    config.working_set = config.memory / 3 * 2;
    if (config.kernels == NULL) {
        config.kernels = METAL_DEVICE_KERNELS;
    }
    read_mode(&config);
    return config;
}

/* fault[:n[:code]], separated by commas. */
static void read_faults(void) {
    const char *text = getenv("XLSTM_METAL_TEST_FAIL");
    while (text != NULL && *text != '\0') {
        size_t name = strcspn(text, ":,");
        int what = 0;
        while (what < METAL_FAULTS &&
               (strlen(fault_names[what]) != name || strncmp(fault_names[what], text, name) != 0)) {
            what++;
        }
        if (what == METAL_FAULTS) {
            refuse("XLSTM_METAL_TEST_FAIL", text, "a list of fault[:n[:code]]");
        }
        char *end = (char *)text + name;
        faults[what].left = *end == ':' ? (unsigned)strtoul(end + 1, &end, 10) : 1;
        faults[what].code = *end == ':' ? strtol(end + 1, &end, 10) : 0;
        text = end + (*end == ',');
    }
}

void device_configured(void) {
    pthread_mutex_lock(&lock);
    if (!configured) {
        device_config = metal_device_default();
        read_faults();
        configured = true;
    }
    pthread_mutex_unlock(&lock);
}

void metal_device_configure(const metal_device_config *config) {
    if (metal_device_live_objects() > 0) {
        device_violation("the test device is configured anew while %llu objects live",
                         (unsigned long long)metal_device_live_objects());
        return;
    }
    device_gpu_lock();
    pthread_mutex_lock(&lock);
    gpu_close(processor);
    processor = NULL;
    device_config = *config;
    configured = true;
    lost = false;
    memset(faults, 0, sizeof faults);
    pthread_mutex_unlock(&lock);
    device_gpu_unlock();
}

/* ---- The processor ---------------------------------------------------------------------------- */

void device_gpu_lock(void) {
    pthread_mutex_lock(&gpu_lock);
}

void device_gpu_unlock(void) {
    pthread_mutex_unlock(&gpu_lock);
}

gpu *device_gpu(const char **error) {
    device_configured();
    if (processor == NULL) {
        processor = gpu_open(device_config.kernels, device_config.mode, processor_error,
                             sizeof processor_error);
        if (processor != NULL) {
            gpu_set_schedule(processor, device_config.schedule, device_config.seed);
        }
    }
    if (processor == NULL && error != NULL) {
        *error = processor_error;
    }
    return processor;
}

/* ---- Counters --------------------------------------------------------------------------------- */

metal_device_counts metal_device_counted(void) {
    return device_counts;
}

metal_device_counts metal_device_since(const metal_device_counts *mark) {
    metal_device_counts since = device_counts;
    uint64_t *now = (uint64_t *)&since;
    const uint64_t *then = (const uint64_t *)mark;
    for (size_t i = 0; i < sizeof since / sizeof *now; i++) {
        now[i] -= then[i];
    }
    return since;
}

static metal_device_watcher *watcher;
static void *watcher_context;

void metal_device_watch(metal_device_watcher *to, void *context) {
    device_gpu_lock();
    watcher = to;
    watcher_context = context;
    device_gpu_unlock();
}

void device_tell(const char *kernel, uint64_t read, uint64_t written) {
    device_gpu_lock();
    if (watcher != NULL) {
        watcher(watcher_context, kernel, read, written);
    }
    device_gpu_unlock();
}

uint64_t metal_device_live_bytes(void) {
    return __atomic_load_n(&device_live_bytes, __ATOMIC_RELAXED);
}

/* ---- Faults ----------------------------------------------------------------------------------- */

void metal_device_fail(enum metal_device_fault what, unsigned nth, long code) {
    device_configured();
    pthread_mutex_lock(&lock);
    faults[what].left = nth;
    faults[what].code = code;
    if (what == METAL_FAULT_LOST && nth == 0) {
        lost = false;
    }
    pthread_mutex_unlock(&lock);
}

bool metal_device_fails(enum metal_device_fault what) {
    pthread_mutex_lock(&lock);
    bool fails = faults[what].left > 0;
    pthread_mutex_unlock(&lock);
    return fails;
}

bool device_fails(enum metal_device_fault what, long *code) {
    pthread_mutex_lock(&lock);
    bool fails = faults[what].left > 0 && --faults[what].left == 0;
    if (code != NULL) {
        *code = faults[what].code;
    }
    if (what == METAL_FAULT_LOST) {
        lost = lost || fails;
        fails = lost;
    }
    pthread_mutex_unlock(&lock);
    return fails;
}

bool device_lost(void) {
    pthread_mutex_lock(&lock);
    bool is_lost = lost;
    pthread_mutex_unlock(&lock);
    return is_lost;
}

/* ---- Violations ------------------------------------------------------------------------------- */

void metal_device_catch(bool catch_violations) {
    pthread_mutex_lock(&lock);
    catching = catch_violations;
    pthread_mutex_unlock(&lock);
}

const char *metal_device_violation(void) {
    pthread_mutex_lock(&lock);
    bool any = caught;
    memcpy(violation_read, violation, sizeof violation_read);
    caught = false;
    pthread_mutex_unlock(&lock);
    return any ? violation_read : NULL;
}

void device_violation(const char *format, ...) {
    char text[sizeof violation];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    device_count(&device_counts.violations, 1);
    pthread_mutex_lock(&lock);
    bool ends = !catching;
    if (!caught) {
        memcpy(violation, text, sizeof violation);
        caught = true;
    }
    pthread_mutex_unlock(&lock);
    if (ends) {
        fprintf(stderr, "metal test device: violation: %s\n", text);
        abort();
    }
}
