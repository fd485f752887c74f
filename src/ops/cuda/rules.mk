# CUDA in the library: after `make cuda`, which leaves $(BUILD)/cuda.mk, every build has the device until `make clean`.
# The runtime is linked statically, so that the command starts where neither driver nor CUDA is.

-include $(BUILD)/cuda.mk

NVCC ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc))
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
# What the kernels are compiled for: H100 and H200, and for others, from 8.0 on, by their driver when they start.
CUDA_ARCHS ?= 90a 80

CUDA_SOURCES := $(sort $(wildcard src/ops/cuda/*.cu))
CUDA_HOST_SOURCES := $(sort $(wildcard src/ops/cuda/*.c))
CUDA_OBJECTS := $(CUDA_SOURCES:%.cu=$(BUILD)/%.cu.o) $(CUDA_HOST_SOURCES:%.c=$(BUILD)/%.o)

CUDA_CODE = $(foreach arch,$(CUDA_ARCHS),-gencode=arch=compute_$(arch),code=$(if $(filter %a,$(arch)),sm_$(arch),[sm_$(arch)$(comma)compute_$(arch)]))
NVCC_COMPILE = $(NVCC) -std=c++17 -O3 -lineinfo $(CUDA_CODE) $(if $(RACECHECK),-DCUDA_RACECHECK=1) -Werror all-warnings -Isrc -Iinclude \
               -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-Wall,-Wextra

# In front of `make cuda`: what is missing, and where to get it.
define CUDA_CHECK
if [ -z '$(NVCC)' ]; then \
  echo 'make cuda needs nvcc 12.4 or later, in PATH or in /usr/local/cuda: https://developer.nvidia.com/cuda-downloads' >&2; exit 1; \
elif [ "$$($(NVCC) --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p' | awk '{print $$1 * 100 + $$2}')" -lt 1204 ]; then \
  echo 'make cuda needs nvcc 12.4 or later; $(NVCC) is older' >&2; exit 1; \
fi
endef

ifneq ($(CUDA),)
LIBRARY_OBJECTS += $(CUDA_OBJECTS)
DEVICES += cuda
SYSTEM_LIBS += $(firstword $(wildcard $(CUDA_HOME)/lib64/libcudart_static.a $(CUDA_HOME)/lib/libcudart_static.a) -lcudart_static) \
               -ldl -lrt

$(BUILD)/src/ops/ops.o: CPPFLAGS += -DXLSTM_CUDA
$(BUILD)/src/ops/ops.o $(BUILD)/src/ops/kernel_list.o: $(BUILD)/version
$(BUILD)/src/ops/kernel_list.o: CPPFLAGS += -DXLSTM_CUDA

$(BUILD)/src/ops/cuda/%.o: src/ops/cuda/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) -isystem $(CUDA_HOME)/include -MMD -MP -c $< -o $@

$(BUILD)/src/ops/cuda/%.cu.o: src/ops/cuda/%.cu src/ops/cuda/rules.mk
	@mkdir -p $(@D)
	$(call quiet,NVCC,$<)$(NVCC_COMPILE) -MMD -MP -MF $(@:.o=.d) -c $< -o $@
endif

# ---- On a machine with a GPU ----

CUDA_TESTS := conformance/test_conformance conformance/test_fp8 golden/test_golden golden/test_neurips engine/test_ahead engine/test_session \
              engine/test_state engine/test_deferred model/test_weights kernels/test_small kernels/test_slstm kernels/test_slstm_halves \
              kernels/test_mlstm_halves

run-cuda-test: all $(CUDA_TESTS:%=$(BUILD)/tests/%) $(DEMO)
	@if reason=$$($(COMMAND) generate -m $(DEMO) --device cuda -p a -n 1 2>&1 | grep 'no CUDA device'); then echo "skipped: no CUDA device$${reason##*no CUDA device}"; \
	else XLSTM_TEST_DEVICES=cuda $(RUN_FILES) $(CUDA_TESTS:%=$(BUILD)/tests/%) tests/e2e/cuda.sh; fi

run-cuda-bench: $(COMMAND) $(BUILD)/bench/cuda_kernels
	@XLSTM='$(COMMAND)' BUILD='$(BUILD)' scripts/cuda-bench

$(BUILD)/bench/cuda_kernels: bench/cuda_kernels.c $(INTERNAL_LIBRARY)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(COMPILE) -isystem $(CUDA_HOME)/include $(LINK_FLAGS) -o $@ $< $(INTERNAL_LIBRARY) $(PACKAGE_LIBS) $(SYSTEM_LIBS)
