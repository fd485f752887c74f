# The test device's Foundation and Metal, for clang with gcc's Objective-C runtime, and its tests. Hosts link
# $(DEVICE_OBJC_OBJECTS), gpu.c and -lobjc. Where a tool is missing each test says so and counts as skipped.

DEVICE_OBJC ?= clang-19
DEVICE_OBJC_FOLDER := $(METAL_DEVICE)/objc
# The runtime's headers lie with gcc's (package libobjc-12-dev).
DEVICE_OBJC_HEADERS := $(patsubst %/objc/runtime.h,%,$(lastword $(sort $(wildcard /usr/lib/gcc/*/*/include/objc/runtime.h))))
DEVICE_OBJC_MISSING := $(strip $(if $(filter Linux,$(OS)),$(if $(shell command -v $(DEVICE_OBJC)),,$(DEVICE_OBJC) is not installed) $(if \
                       $(DEVICE_OBJC_HEADERS),,the Objective-C runtime (libobjc-12-dev) is not installed),the test device runs on Linux))

DEVICE_OBJC_COMPILE = $(DEVICE_OBJC) -std=c11 -D_GNU_SOURCE -fPIC -pthread -O1 -g $(WARNINGS) -fblocks -fno-objc-arc -fobjc-runtime=gcc \
                      -fconstant-string-class=NSConstantString -DMETAL_DEVICE_KERNELS='"$(METAL)"' -I$(METAL_DEVICE) \
                      -I$(DEVICE_OBJC_FOLDER) -I$(DEVICE_OBJC_FOLDER)/tests -idirafter $(DEVICE_OBJC_HEADERS)

device_objc = $(patsubst $(METAL_DEVICE)/%,$(METAL)/%.o,$(basename $(1)))
DEVICE_OBJC_OBJECTS := $(call device_objc,$(wildcard $(DEVICE_OBJC_FOLDER)/*.[cm]))
DEVICE_OBJC_FIXTURE := $(call device_objc,$(wildcard $(DEVICE_OBJC_FOLDER)/tests/*.[cm]))
DEVICE_OBJC_TESTS := $(patsubst %.m,$(BUILD)/%,$(wildcard $(METAL_DEVICE)/test_objc_*.m))

$(METAL)/objc/%.o: $(DEVICE_OBJC_FOLDER)/%.m $(DEVICE_OBJC_FOLDER)/rules.mk
	@mkdir -p $(@D)
	$(call quiet,OBJC,$<)$(DEVICE_OBJC_COMPILE) $(CMOCKA_CFLAGS) -MMD -MP -c $< -o $@

$(METAL)/objc/%.o: $(DEVICE_OBJC_FOLDER)/%.c $(DEVICE_OBJC_FOLDER)/rules.mk
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(DEVICE_OBJC_COMPILE) -MMD -MP -c $< -o $@

$(METAL)/test_objc_%.o: $(METAL_DEVICE)/test_objc_%.m $(DEVICE_OBJC_FOLDER)/rules.mk
	@mkdir -p $(@D)
	$(call quiet,OBJC,$<)$(DEVICE_OBJC_COMPILE) $(CMOCKA_CFLAGS) -MMD -MP -c $< -o $@

ifeq ($(DEVICE_OBJC_MISSING),)
$(DEVICE_OBJC_TESTS): $(BUILD)/$(METAL_DEVICE)/%: $(METAL)/%.o $(DEVICE_OBJC_OBJECTS) $(DEVICE_OBJC_FIXTURE)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(DEVICE_OBJC) -pthread -o $@ $^ $(CMOCKA_LIBS) -lobjc
else
$(DEVICE_OBJC_TESTS): $(DEVICE_OBJC_FOLDER)/rules.mk
	@mkdir -p $(@D)
	@{ echo '#!/bin/sh' && echo 'echo "1..1"' && \
	  echo 'echo "ok 1 - $(@F) # SKIP $(DEVICE_OBJC_MISSING)"'; } > $@ && chmod +x $@
endif

-include $(wildcard $(METAL)/*.d $(METAL)/objc/*.d $(METAL)/objc/tests/*.d)
