# Shared memory, in preprocessed text. `extern __shared__ type name[];` is the device's dynamic shared memory (fibers.cc);
# other variables lie in a section of their own.
s/extern __shared__ \(.*\)\[\];/extern \1[] __asm__("cuda_dynamic_shared");/
s/\(static \)\{0,1\}__shared__ /static __attribute__((section("cuda_shared"))) /
