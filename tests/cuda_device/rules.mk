# The CUDA device of the library on the CUDA test device (device.h): programs of their own in $(CUDA_DEVICE), the command
# and tests, which link all else of a plain build. Needs clang++ on Linux and x86-64.

CUDA_TEST := tests/cuda_device
CUDA_DEVICE := $(BUILD)/cuda_device
CUDA_DEVICE_CXX ?= clang++-19
CUDA_DEVICE_MISSING := $(strip $(if $(filter Linux-x86_64 Linux-amd64,$(OS)-$(ARCH)),,the test device runs on Linux on x86-64) \
                       $(if $(shell command -v $(CUDA_DEVICE_CXX)),,$(CUDA_DEVICE_CXX) is not installed) \
                       $(if $(SANITIZE),the test device is not sanitized) $(if $(CUDA),this build has CUDA itself) \
                       $(if $(filter build/%,$(BUILD)),the test device belongs to another build))

CUDA_DEVICE_MACHINE := $(if $(shell grep -q ' avx2 .* bmi2 ' /proc/cpuinfo 2>/dev/null && echo 1),-march=x86-64-v3)
# Warnings are nvcc's business, but for what it does not see.
CUDA_DEVICE_COMPILE = $(CUDA_DEVICE_CXX) -x c++ -std=c++17 -O2 -g1 -Wall -Wno-unused-function -Wno-unknown-pragmas -Werror \
                      -fno-exceptions -fno-rtti -fno-threadsafe-statics -fno-math-errno -ffp-contract=off -fPIC \
                      -ftrivial-auto-var-init=pattern $(CUDA_DEVICE_MACHINE)
CUDA_DEVICE_KERNELS = $(CUDA_DEVICE_COMPILE) -D__CUDA_ARCH__=900 -include cuda_runtime.h -I$(CUDA_TEST)/include -Isrc -Iinclude
CUDA_DEVICE_RUNTIME = $(CUDA_DEVICE_CXX) -std=c++17 -O2 -g1 -Wall -Wextra -Wshadow -Wconversion -Werror -fno-exceptions -fno-rtti \
                      -fno-threadsafe-statics -fPIC

define cuda_device_kernels
$(CUDA_DEVICE)/$(1)/%.o: $(2)/%.cu $(CUDA_TEST)/shared.sed $(CUDA_TEST)/rules.mk
	@mkdir -p $$(@D)
	@$$(CUDA_DEVICE_KERNELS) -E -MMD -MP -MF $$(@:.o=.d) -MT $$@ $$< -o $$(@:.o=.in) && \
	  sed -f $(CUDA_TEST)/shared.sed $$(@:.o=.in) > $$(@:.o=.ii) && rm $$(@:.o=.in)
	$$(call quiet,CUDA,$$<)$$(CUDA_DEVICE_COMPILE) -c $$(@:.o=.ii) -o $$@
endef
$(eval $(call cuda_device_kernels,kernels,src/ops/cuda))
$(eval $(call cuda_device_kernels,planted,$(CUDA_TEST)/planted))

$(CUDA_DEVICE)/runtime/%.o: $(CUDA_TEST)/%.cc $(CUDA_TEST)/rules.mk
	@mkdir -p $(@D)
	$(call quiet,CXX,$<)$(CUDA_DEVICE_RUNTIME) -MMD -MP -c $< -o $@

$(CUDA_DEVICE)/host/%.o: src/ops/cuda/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$< (test device))$(COMPILE) -I$(CUDA_TEST)/include -MMD -MP -c $< -o $@

$(CUDA_DEVICE)/host/ops.o $(CUDA_DEVICE)/host/kernel_list.o: $(CUDA_DEVICE)/host/%.o: src/ops/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$< (test device))$(COMPILE) -DXLSTM_CUDA -I$(CUDA_TEST)/include -MMD -MP -c $< -o $@

$(CUDA_DEVICE)/host/version.o: src/base/version.c $(BUILD)/flags $(BUILD)/version
	@mkdir -p $(@D)
	$(call quiet,CC,$< (test device))$(COMPILE) -DXLSTM_VERSION='"$(VERSION)"' -DXLSTM_COMMIT='"$(COMMIT)"' \
	  -DXLSTM_DEVICES='"$(DEVICES) cuda"' -DXLSTM_KERNELS='"$(ISAS_TEXT)"' -MMD -MP -c $< -o $@

CUDA_DEVICE_OBJECTS := $(patsubst $(CUDA_TEST)/%.cc,$(CUDA_DEVICE)/runtime/%.o,$(wildcard $(CUDA_TEST)/*.cc))

CUDA_DEVICE_HOST := $(CUDA_HOST_SOURCES:src/ops/cuda/%.c=$(CUDA_DEVICE)/host/%.o) \
                    $(foreach name,ops kernel_list version,$(CUDA_DEVICE)/host/$(name).o)

# These stand in front of the library, and so in the place of what it has of the same names.
CUDA_DEVICE_LINKED := $(CUDA_SOURCES:src/ops/cuda/%.cu=$(CUDA_DEVICE)/kernels/%.o) \
                      $(CUDA_DEVICE_HOST) $(CUDA_DEVICE_OBJECTS)
CUDA_DEVICE_TESTS := conformance/test_conformance conformance/test_fp8 golden/test_golden golden/test_neurips model/test_weights \
                     engine/test_session engine/test_state \
                     kernels/test_small kernels/test_slstm kernels/test_slstm_halves kernels/test_mlstm_fixtures kernels/test_mlstm_halves
CUDA_DEVICE_PROGRAMS = $(if $(CUDA_DEVICE_MISSING),,$(CUDA_DEVICE)/xlstm $(CUDA_DEVICE_PLANTED) \
                        $(CUDA_DEVICE_TESTS:%=$(CUDA_DEVICE)/tests/%))

CUDA_DEVICE_PLANTED := $(CUDA_DEVICE)/tests/cuda_device/planted/test_planted

.PHONY: cuda-device
cuda-device: $(CUDA_DEVICE_PROGRAMS)

CUDA_DEVICE_LINK = $(CC) $(LINK_FLAGS) $(CUDA_DEVICE_LINK_FLAGS) -o $@ $^ $(PACKAGE_LIBS) $(EDIT_LIBS)

$(CUDA_DEVICE)/xlstm: $(MAIN_OBJECT) $(CUDA_DEVICE_LINKED) $(INTERNAL_LIBRARY)
	$(call quiet,LINK,$@)$(CUDA_DEVICE_LINK) -lm

$(CUDA_DEVICE_PLANTED): $(CUDA_DEVICE)/tests/%: $(BUILD)/tests/%.o $(CUDA_DEVICE)/planted/planted.o $(CUDA_DEVICE_OBJECTS)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(CUDA_DEVICE_LINK) $(CMOCKA_LIBS) -lm

.SECONDEXPANSION:
$(CUDA_DEVICE_TESTS:%=$(CUDA_DEVICE)/tests/%): $(CUDA_DEVICE)/tests/%: $(BUILD)/tests/%.o \
    $$(call helpers_of,$(BUILD)/tests/$$*) $(SUPPORT_OBJECTS) $(CUDA_DEVICE_LINKED) $(INTERNAL_LIBRARY)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(CUDA_DEVICE_LINK) $(CMOCKA_LIBS) -lm

# ---- Runs of these tests, in orders of threads ----

# NAME, SETTINGS, PROGRAM AND ARGUMENTS: a script that counts as the tests of the program. `make test-large` runs whole what
# TEST_... would make smaller.
define cuda_device_run
CUDA_DEVICE_RUNS += $(CUDA_DEVICE)/tests/$(1)
$(CUDA_DEVICE)/tests/$(1): $(CUDA_TEST)/rules.mk $(if $(CUDA_DEVICE_MISSING),,$(CUDA_DEVICE)/tests/$(firstword $(3)))
	@mkdir -p $$(@D)
	@{ echo '#!/bin/sh' && $(if $(CUDA_DEVICE_MISSING),echo 'echo "1..1"' && echo 'echo "ok 1 - $(1) # SKIP $(CUDA_DEVICE_MISSING)"', \
	  echo '[ -n "$$$${XLSTM_TEST_LARGE:-}" ] || export XLSTM_TEST_DEVICES=cuda $(foreach set,$(filter TEST_%,$(2)),XLSTM_$(set))' && \
	  echo 'XLSTM_TEST_DEVICES=cuda $(foreach set,$(filter CUDA_%,$(2)),XLSTM_$(set)) exec $(CUDA_DEVICE)/tests/$(3)'); } > $$@ && chmod +x $$@
endef
CUDA_DEVICE_OTHERS := $(patsubst %,test_%,memory order row_ids chunk_sizes splits threads_and_batches gate_extremes padding \
  poisoned_gates nothing_stored kept_weights state_rounding deferral wrong_batches projection_counts recurrent_batches \
  recurrent_limits recurrent_wrong_calls sample_errors sample_reads sample_sums caps prompts layers beside failed_launch)
# Every op in three orders of threads, half of the shapes in each.
$(eval $(call cuda_device_run,forward,TEST_VARIANTS=odd,conformance/test_conformance test_table))
$(eval $(call cuda_device_run,reverse,CUDA_TEST_SCHEDULE=reverse CUDA_TEST_PROCESSORS=2 TEST_BRIEF=1 TEST_VARIANTS=even,conformance/test_conformance test_table))
$(eval $(call cuda_device_run,random,CUDA_TEST_SCHEDULE=random:7 CUDA_TEST_LATE=1 TEST_QUICK=1,conformance/test_conformance test_table))
$(eval $(call cuda_device_run,others,CUDA_TEST_SCHEDULE=random:3 CUDA_TEST_LATE=1 TEST_QUICK=1 TEST_BRIEF=1,conformance/test_conformance \
  $(CUDA_DEVICE_OTHERS)))
$(eval $(call cuda_device_run,fp8-random,CUDA_TEST_SCHEDULE=random:5 CUDA_TEST_LATE=1,conformance/test_fp8))
# A GPU of compute capability 8.6, with less shared memory.
$(eval $(call cuda_device_run,quick-86,CUDA_TEST_CAPABILITY=8.6 CUDA_TEST_SHARED=101376 TEST_QUICK=1,conformance/test_conformance test_table))
$(eval $(call cuda_device_run,golden-86,CUDA_TEST_CAPABILITY=8.6 CUDA_TEST_SHARED=101376 TEST_QUICK=1,golden/test_golden test_cuda*))
$(eval $(call cuda_device_run,golden-quick,CUDA_TEST_PROCESSORS=2 TEST_QUICK=1,golden/test_golden test_cuda*))
$(eval $(call cuda_device_run,neurips-random,CUDA_TEST_SCHEDULE=random:3 CUDA_TEST_LATE=1,golden/test_neurips test_cuda))
$(eval $(call cuda_device_run,weights,,model/test_weights))
$(eval $(call cuda_device_run,sessions,TEST_QUICK=1,engine/test_session test_cuda_batch*))
$(eval $(call cuda_device_run,states,TEST_QUICK=1,engine/test_state test_cuda*))
$(eval $(call cuda_device_run,kernels-small,CUDA_TEST_SCHEDULE=reverse,kernels/test_small))
$(eval $(call cuda_device_run,kernels-slstm,CUDA_TEST_SCHEDULE=random:5 TEST_QUICK=1,kernels/test_slstm))
$(eval $(call cuda_device_run,kernels-slstm-halves,CUDA_TEST_SCHEDULE=random:5 TEST_QUICK=1,kernels/test_slstm_halves))
$(eval $(call cuda_device_run,kernels-mlstm,CUDA_TEST_SCHEDULE=random:3 CUDA_TEST_LATE=1,kernels/test_mlstm_fixtures))
$(eval $(call cuda_device_run,kernels-mlstm-halves,CUDA_TEST_SCHEDULE=random:5 CUDA_TEST_PROCESSORS=132,kernels/test_mlstm_halves))
$(eval $(call cuda_device_run,planted,,cuda_device/planted/test_planted))

-include $(wildcard $(CUDA_DEVICE)/kernels/*.d $(CUDA_DEVICE)/host/*.d $(CUDA_DEVICE)/runtime/*.d $(CUDA_DEVICE)/planted/*.d)
