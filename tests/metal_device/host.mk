# The Metal device of the library on Linux: over the test device's Foundation and Metal its files make programs of their
# own in $(METAL), the command and tests, which link all else of a plain build. What is common with macOS is in
# src/ops/metal/rules.mk.

ifneq ($(OS),Darwin)

METAL_HOST_MISSING := $(strip $(METAL_MISSING) $(DEVICE_OBJC_MISSING) $(if $(SANITIZE),the test device is not sanitized) \
                      $(if $(filter-out $(BUILD)/metal,$(METAL)),$(METAL) belongs to another build))

# Once for the test device and once for Apple's ABI, against the same headers.
$(METAL)/host/host.o: src/ops/metal/host.m tests/metal_device/host.mk
	@mkdir -p $(@D)
	$(call quiet,OBJC,$<)$(DEVICE_OBJC_COMPILE) -Isrc -Iinclude -MMD -MP -c $< -o $@
	$(call quiet,OBJC,$< (arm64-apple-macos))$(DEVICE_OBJC) -target arm64-apple-macosx14.0 -std=c11 -D_GNU_SOURCE $(WARNINGS) \
	  -Wunguarded-availability -D__x86_64__ -U__nonnull -fblocks -fno-objc-arc -Isrc -Iinclude -I$(METAL_DEVICE) \
	  -idirafter /usr/include/$(ARCH)-linux-gnu -c $< -o $(METAL)/host/host-macos.o
	$(call quiet,OBJC,$< (headers of macOS 14))$(DEVICE_OBJC_COMPILE) -Isrc -Iinclude -D__MAC_OS_X_VERSION_MAX_ALLOWED=140000 \
	  -fsyntax-only $<

$(METAL)/host/gpu.o: $(METAL_DEVICE)/gpu.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) -I$(METAL_DEVICE) -MMD -MP -c $< -o $@

$(METAL)/host/ops.o: src/ops/ops.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$< (metal))$(COMPILE) -DXLSTM_METAL -MMD -MP -c $< -o $@

$(METAL)/host/version.o: src/base/version.c $(BUILD)/flags $(BUILD)/version
	@mkdir -p $(@D)
	$(call quiet,CC,$< (metal))$(COMPILE) -DXLSTM_VERSION='"$(VERSION)"' -DXLSTM_COMMIT='"$(COMMIT)"' \
	  -DXLSTM_DEVICES='"$(DEVICES) metal"' -DXLSTM_KERNELS='"$(ISAS_TEXT)"' -MMD -MP -c $< -o $@

$(METAL)/none.metallib:
	@mkdir -p $(@D)
	@: > $@ && echo 'none: this program is to compile the text' > $@.note

# These stand in front of the library, and so in the place of what it has of the same names.
METAL_LINKED := $(METAL_HOST) $(METAL)/host/ops.o $(METAL)/host/version.o $(METAL)/host/gpu.o $(DEVICE_OBJC_OBJECTS)
METAL_COUNTED := $(METAL)/tests/metal_device/host/test_steady
METAL_TESTS := conformance/test_conformance engine/test_ahead golden/test_golden golden/test_neurips model/test_faults \
               metal_device/host/test_traffic
# Tests of the library on this device alone; what they share lies beside them.
METAL_PRODUCT := $(METAL_DEVICE)/product
METAL_PRODUCT_TESTS := $(if $(METAL_HOST_MISSING),,$(patsubst tests/%.c,$(METAL)/tests/%,$(wildcard $(METAL_PRODUCT)/test_*.c)))
METAL_PRODUCT_OBJECTS := $(call object,$(filter-out $(METAL_PRODUCT)/test_%,$(wildcard $(METAL_PRODUCT)/*.c)))
METAL_PROGRAMS := $(if $(METAL_HOST_MISSING),,$(METAL)/xlstm $(METAL)/xlstm-metallib $(METAL_TESTS:%=$(METAL)/tests/%) \
                  $(METAL_COUNTED)) $(METAL_PRODUCT_TESTS)

.PHONY: metal
metal: $(METAL_PROGRAMS) $(METAL_MODULES)

$(METAL)/xlstm: $(MAIN_OBJECT) $(METAL_LINKED) $(INTERNAL_LIBRARY)
	$(call quiet,LINK,$@)$(CC) $(LINK_FLAGS) -o $@ $^ $(PACKAGE_LIBS) $(EDIT_LIBS) -lobjc -ldl -lm

# The same with a library that was compiled beforehand.
$(METAL)/metallib/kernels.metallib: $(METAL)/kernels.metal scripts/make-metallib $(METAL_DEVICE)/xcrun
	@mkdir -p $(@D)
	@XCRUN=$(METAL_DEVICE)/xcrun scripts/make-metallib $< $@

$(METAL)/metallib/source.c: $(METAL)/kernels.metal $(METAL)/metallib/kernels.metallib scripts/embed-metal
	@scripts/embed-metal $(METAL)/kernels.metal $(METAL)/metallib/kernels.metallib > $@

$(METAL)/metallib/source.o: $(METAL)/metallib/source.c $(BUILD)/flags
	$(call quiet,CC,$<)$(COMPILE) -c $< -o $@

METAL_WITH_LIBRARY := $(METAL_LINKED:$(METAL)/host/source.o=$(METAL)/metallib/source.o)
$(METAL)/xlstm-metallib: $(MAIN_OBJECT) $(METAL_WITH_LIBRARY) $(INTERNAL_LIBRARY)
	$(call quiet,LINK,$@)$(CC) $(LINK_FLAGS) -o $@ $^ $(PACKAGE_LIBS) $(EDIT_LIBS) -lobjc -ldl -lm

.SECONDEXPANSION:
$(METAL_TESTS:%=$(METAL)/tests/%): $(METAL)/tests/%: $(BUILD)/tests/%.o $$(call helpers_of,$(BUILD)/tests/$$*) $(SUPPORT_OBJECTS) \
    $(METAL_LINKED) $(INTERNAL_LIBRARY)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(CC) $(LINK_FLAGS) -o $@ $^ $(PACKAGE_LIBS) $(EDIT_LIBS) $(CMOCKA_LIBS) -lobjc -ldl -lm

$(METAL_PRODUCT_TESTS): $(METAL)/tests/%: $(BUILD)/tests/%.o $(METAL_PRODUCT_OBJECTS) $(SUPPORT_OBJECTS) $(METAL_LINKED) \
    $(INTERNAL_LIBRARY) | $(METAL_MODULES)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(CC) $(LINK_FLAGS) -o $@ $^ $(PACKAGE_LIBS) $(EDIT_LIBS) $(CMOCKA_LIBS) -lobjc -ldl -lm

# Tests of the host itself, which choose their own mode.
METAL_RUNS += $(if $(METAL_HOST_MISSING),,$(METAL)/tests/metal_device/host/test_traffic $(METAL_COUNTED))

# What the library takes of memory is counted: its calls, and those of its Metal device, go to functions of the test.
METAL_ALLOCATORS := malloc calloc realloc aligned_alloc posix_memalign strdup strndup fopen
METAL_COUNT := $(foreach name,$(METAL_ALLOCATORS),--redefine-sym $(name)=counted_$(name))

$(METAL)/counted/library.a: $(INTERNAL_LIBRARY)
	@mkdir -p $(@D)
	$(call quiet,COUNT,$<)$(OBJCOPY) $(METAL_COUNT) $< $@

$(METAL)/counted/host.a: $(METAL_HOST) $(METAL)/host/ops.o $(METAL)/host/version.o
	@mkdir -p $(@D)
	$(call quiet,COUNT,$@)rm -f $@ && $(AR) rcs $@ $^ && $(OBJCOPY) $(METAL_COUNT) $@

$(METAL_COUNTED): $(METAL)/tests/%: $(BUILD)/tests/%.o $(SUPPORT_OBJECTS) $(METAL)/counted/host.a $(METAL)/host/gpu.o \
    $(DEVICE_OBJC_OBJECTS) $(METAL)/counted/library.a
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(CC) $(LINK_FLAGS) -o $@ $< $(SUPPORT_OBJECTS) -Wl,--whole-archive $(METAL)/counted/host.a \
	  -Wl,--no-whole-archive $(METAL)/host/gpu.o $(DEVICE_OBJC_OBJECTS) $(METAL)/counted/library.a $(PACKAGE_LIBS) $(EDIT_LIBS) \
	  $(CMOCKA_LIBS) -lobjc -ldl -lm

# ---- Runs of these tests, each in a mode of the test device ----

# NAME, SETTINGS, PROGRAM AND ARGUMENTS: a script that counts as the tests of the program. `make test-large` runs whole what
# TEST_… would make smaller.
define metal_run
METAL_RUNS += $(METAL)/tests/$(1)
$(METAL)/tests/$(1): tests/metal_device/host.mk $(if $(METAL_HOST_MISSING),,$(METAL)/tests/$(firstword $(3)) $(METAL_MODULES))
	@mkdir -p $$(@D)
	@{ echo '#!/bin/sh' && $(if $(METAL_HOST_MISSING),echo 'echo "1..1"' && echo 'echo "ok 1 - $(1) # SKIP $(METAL_HOST_MISSING)"', \
	  echo '[ -n "$$$${XLSTM_TEST_LARGE:-}" ] || export $(foreach set,$(filter TEST_%,$(2)),XLSTM_$(set)) XLSTM_TEST_DEVICES=metal' && \
	  echo 'XLSTM_TEST_DEVICES=metal $(foreach set,$(filter METAL_%,$(2)),XLSTM_$(set)) exec $(METAL)/tests/$(3)'); } > $$@ && chmod +x $$@
endef

# Every access is looked at in every op in three orders of threads, in each of them in half of the shapes (nine or more) of
# ops that have more than twelve (test_conformance.c); the mLSTM's other properties in a few of many cases. Then values and bits
# without looking. All shapes in all orders: make test-large.
METAL_MLSTM := chunk_sizes splits threads_and_batches gate_extremes padding poisoned_gates nothing_stored state_rounding
$(eval $(call metal_run,checked-forward,METAL_TEST_MODE=checked TEST_VARIANTS=odd,conformance/test_conformance test_table))
$(eval $(call metal_run,checked-reverse,METAL_TEST_MODE=checked METAL_TEST_SCHEDULE=reverse TEST_VARIANTS=even,conformance/test_conformance test_table))
$(eval $(call metal_run,checked-random,METAL_TEST_MODE=checked METAL_TEST_SCHEDULE=random:7 TEST_VARIANTS=odd,conformance/test_conformance test_table))
$(eval $(call metal_run,checked-mlstm,METAL_TEST_MODE=checked METAL_TEST_SCHEDULE=random:5 TEST_QUICK=1 TEST_BRIEF=1,conformance/test_conformance \
  $(METAL_MLSTM:%=test_%) test_recurrent_batches))
$(eval $(call metal_run,fast,METAL_TEST_MODE=fast TEST_BRIEF=1 TEST_VARIANTS=even,conformance/test_conformance))
$(eval $(call metal_run,fastmath,METAL_TEST_MODE=fastmath TEST_BRIEF=1 TEST_VARIANTS=odd,conformance/test_conformance))
$(eval $(call metal_run,golden-fast,METAL_TEST_MODE=fast TEST_QUICK=1,golden/test_golden test_metal_*))
$(eval $(call metal_run,golden-fastmath,METAL_TEST_MODE=fastmath TEST_QUICK=1,golden/test_golden test_metal_fast))
$(eval $(call metal_run,neurips-checked,METAL_TEST_MODE=checked,golden/test_neurips test_metal))
$(eval $(call metal_run,ahead,METAL_TEST_MODE=fast,engine/test_ahead))
$(eval $(call metal_run,missing,METAL_TEST_MODE=fast,model/test_faults))

endif

-include $(wildcard $(METAL)/host/*.d $(BUILD)/$(METAL_DEVICE)/product/*.d)
