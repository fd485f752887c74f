/* The CUDA test device: kernels of .cu files run on the processor, for machines without a GPU.
 *
 * `make cuda-device` makes build/cuda_device/xlstm and build/cuda_device/tests/...: the library with the device cuda;
 *   XLSTM_TEST_DEVICES=cuda build/cuda_device/tests/conformance/test_conformance [test_NAME ...]
 * Sources are compiled by clang++-19 (rules.mk), with include/ in place of NVIDIA's headers:
 * - cuda_runtime_api.h: the runtime's functions (runtime.cc). Work runs in the order of its stream, when it is
 *   enqueued, or, where XLSTM_CUDA_TEST_LATE=1, when somebody waits for it. Memory of the device begins as 0xff bytes
 *   and ends at a page that nobody may touch; so does dynamic shared memory.
 * - cuda_device/language.h: the language (fibers.cc). __CUDACC__ is not defined and __CUDA_ARCH__ is 900: assembly
 *   stands in wrapper headers under `#if defined(__CUDACC__)`, with `#else #include "NAME_functions.h"`, the same
 *   functions in C++, in include/ (async_functions.h is an example).
 *   What lanes do together: cuda_device/meet.h.
 * - A kernel that may begin early does: its first block runs as far as cuda_wait before the kernel in front runs, and
 *   what it reads before that is old. A thread that returns without cuda_wait is an error.
 * - Bulk copies arrive when nobody can go on without them; until then their destination is 0xff bytes.
 * - After an arrival at a barrier others go on first: what a thread still reads of what it gave away is theirs.
 * - Blocks run one after another; those of a cluster, and all of a cooperative launch, in turns (cluster_functions.h,
 *   grid_functions.h).
 * - Errors of kernels (accesses behind the end, divergence, deadlocks, barriers used wrongly) are printed with the
 *   kernel, block, thread and place, and end the process with status 3.
 *
 * From the environment:
 *   XLSTM_CUDA_TEST_DEVICE=none     a machine without a GPU
 *   XLSTM_CUDA_TEST_SHARED=bytes    that a block may have at most
 *   XLSTM_CUDA_TEST_CAPABILITY=8.0  another compute capability than 9.0
 *   XLSTM_CUDA_TEST_SCHEDULE=forward|reverse|random[:seed]   of lanes, warps and blocks
 *   XLSTM_CUDA_TEST_LATE=1          work runs when it is waited for
 *   XLSTM_CUDA_TEST_MEMORY=bytes    of the device
 *   XLSTM_CUDA_TEST_PROCESSORS=number   that it says it has (8), by which work is divided
 *   XLSTM_CUDA_TEST_FAIL=name       launches of kernels with this in their names say that they failed, though the kernels run
 *   XLSTM_CUDA_TEST_TRACE=1         every launch on standard error
 * What is not seen: races that no order of threads shows, missing fences, the time anything takes.
 */
