/* The functions of ops/cuda/streaming.h: plain reads and writes; a line that is fetched early is one that may be read. */
#ifndef CUDA_DEVICE_STREAMING_FUNCTIONS_H
#define CUDA_DEVICE_STREAMING_FUNCTIONS_H

static inline uint4 load_streaming(const void *p) {
    return *(const uint4 *)p;
}
static inline void store_streaming(void *p, uint4 x) {
    *(uint4 *)p = x;
}
static inline int load_early(const int *p) {
    return *p;
}
static inline void prefetch_line(const void *p) {
    (void)*(const volatile char *)p;
}

#endif
