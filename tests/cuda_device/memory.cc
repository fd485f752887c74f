/* Memory of the test device: every allocation lies between pages that nobody may touch, its end as near to the next one
 * as its alignment lets it, and begins as 0xff bytes. What the machine is, too. */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "host.h"

namespace cuda_device {

enum { PAGE = 4096, ALIGNMENT = 256, MOST_ALLOCATIONS = 65536 };

struct allocation {
    uintptr_t begin, room; /* room: of the mapping */
    size_t bytes, room_bytes;
    bool device;
};
static allocation allocations[MOST_ALLOCATIONS];
static unsigned allocation_count;
static size_t used;

static size_t memory_bytes() {
    const char *text = getenv("XLSTM_CUDA_TEST_MEMORY");
    return text != nullptr ? strtoull(text, nullptr, 10) : (size_t)16 << 30;
}

static allocation *find(const void *p) {
    for (unsigned i = 0; i < allocation_count; i++)
        if ((uintptr_t)p >= allocations[i].begin &&
            (uintptr_t)p < allocations[i].begin + allocations[i].bytes)
            return &allocations[i];
    return nullptr;
}

static cudaError_t allocate(void **p, size_t bytes, bool device) {
    *p = nullptr;
    if (!is_present())
        return result(cudaErrorNoDevice);
    if (bytes == 0)
        return cudaSuccess;
    if (device && (bytes > memory_bytes() || used > memory_bytes() - bytes))
        return result(cudaErrorMemoryAllocation);
    size_t whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t room = (whole + PAGE - 1) / PAGE * PAGE + 2 * PAGE;
    void *map = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || allocation_count == MOST_ALLOCATIONS)
        return result(cudaErrorMemoryAllocation);
    mprotect((char *)map + PAGE, room - 2 * PAGE, PROT_READ | PROT_WRITE);
    char *begin = (char *)map + room - PAGE - whole;
    memset(begin, 0xff, whole);
    allocations[allocation_count++] = {(uintptr_t)begin, (uintptr_t)map, bytes, room, device};
    used += device ? bytes : 0;
    *p = begin;
    return cudaSuccess;
}

static cudaError_t release(void *p, bool device) {
    if (p == nullptr)
        return cudaSuccess;
    drain_all();
    allocation *a = find(p);
    if (a == nullptr || a->begin != (uintptr_t)p || a->device != device)
        return result(cudaErrorInvalidValue);
    for (size_t i = a->bytes; i % ALIGNMENT != 0; i++)
        if (((unsigned char *)p)[i] != 0xff) {
            char message[200];
            snprintf(message, sizeof message,
                     "byte %zu behind the end of an allocation of %zu bytes was written",
                     i - a->bytes, a->bytes);
            report_end(message);
        }
    munmap((void *)a->room, a->room_bytes);
    used -= device ? a->bytes : 0;
    *a = allocations[--allocation_count];
    return cudaSuccess;
}

void describe_address(uintptr_t address, char *to, size_t size) {
    snprintf(to, size, "access to address %#lx, where no memory is", (unsigned long)address);
    for (unsigned i = 0; i < allocation_count; i++) {
        const allocation *a = &allocations[i];
        if (address >= a->begin + a->bytes && address < a->room + a->room_bytes)
            snprintf(to, size, "access %lu bytes behind the end of an allocation of %zu bytes",
                     (unsigned long)(address - a->begin - a->bytes), a->bytes);
        else if (address < a->begin && address >= a->room)
            snprintf(to, size, "access %lu bytes before an allocation of %zu bytes",
                     (unsigned long)(a->begin - address), a->bytes);
    }
}

bool is_accessible(const void *p, size_t bytes) {
    const allocation *a = find(p);
    return a == nullptr || bytes <= a->begin + a->bytes - (uintptr_t)p;
}
bool is_device_or_pinned(const void *p) {
    return find(p) != nullptr;
}
void copy_arguments(unsigned char *to, const void *from) {
    struct iovec local = {to, ARGUMENT_BYTES}, remote = {(void *)(uintptr_t)from, ARGUMENT_BYTES};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) <= 0)
        memcpy(to, from, 256); /* where that call is forbidden */
}

} // namespace cuda_device

using namespace cuda_device;

cudaError_t cudaMalloc(void **p, size_t bytes) {
    guard g;
    return allocate(p, bytes, true);
}
cudaError_t cudaFree(void *p) {
    guard g;
    return release(p, true);
}
cudaError_t cudaMallocHost(void **p, size_t bytes) {
    guard g;
    return allocate(p, bytes, false);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    guard g;
    return allocate(p, bytes, false);
}
cudaError_t cudaFreeHost(void *p) {
    guard g;
    return release(p, false);
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    guard g;
    if (!is_present())
        return result(cudaErrorNoDevice);
    *total = memory_bytes();
    *available = *total - used;
    return cudaSuccess;
}

/* ---- The machine ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    guard g;
    *count = is_present() ? 1 : 0;
    return is_present() ? cudaSuccess : result(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
    guard g;
    return is_present() && device == 0 ? cudaSuccess : result(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int *device) {
    guard g;
    *device = 0;
    return is_present() ? cudaSuccess : result(cudaErrorNoDevice);
}
namespace cuda_device {
unsigned shared_limit() {
    const char *set = getenv("XLSTM_CUDA_TEST_SHARED");
    return set != nullptr ? (unsigned)atoi(set) : MOST_SHARED;
}
unsigned processors() {
    const char *set = getenv("XLSTM_CUDA_TEST_PROCESSORS");
    return set != nullptr ? (unsigned)atoi(set) : PROCESSORS;
}
} // namespace cuda_device

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    guard g;
    if (!is_present() || device != 0)
        return result(cudaErrorInvalidDevice);
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "CUDA test device");
    properties->totalGlobalMem = memory_bytes();
    properties->sharedMemPerBlock = DEFAULT_SHARED;
    properties->sharedMemPerBlockOptin = shared_limit();
    properties->sharedMemPerMultiprocessor = 233472;
    properties->regsPerBlock = 65536;
    properties->warpSize = LANES;
    properties->maxThreadsPerBlock = MOST_THREADS;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->multiProcessorCount = (int)processors();
    properties->major = 9;
    if (const char *capability = getenv("XLSTM_CUDA_TEST_CAPABILITY"))
        sscanf(capability, "%d.%d", &properties->major, &properties->minor);
    properties->l2CacheSize = 64 << 10; /* limits are measured in memory far larger */
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error != cudaSuccess)
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrClusterLaunch:
        *value = 1;
        break;
    default:
        return result(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = is_present() ? CUDART_VERSION : 0;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
/* The driver's functions that the test device has, by name (driver.cc). */
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned,
                                             unsigned long long,
                                             enum cudaDriverEntryPointQueryResult *found) {
    guard g;
    *function = driver_function(name);
    *found =
        *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
