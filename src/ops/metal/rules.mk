# Metal in the library: the text of all kernels and, where Apple's compiler is at hand, the same compiled, both embedded
# in the binary. On macOS all of src/ops/metal is part of every build; on Linux it is of the test device's programs alone
# (tests/metal_device/host.mk), and the library has no Metal.

METAL_SOURCES := $(sort $(wildcard src/ops/metal/*.metal))
METAL_HEADERS := $(wildcard src/ops/metal/*.h src/base/two_float.h src/ops/*.h)

# Where there is none, a library is not made, and programs compile the text when they start.
XCRUN ?= xcrun

ifeq ($(OS),Darwin)
METAL := $(BUILD)/metal
# macOS 14 is the first whose Metal has version 3.1 of the language.
DARWIN := $(shell uname -r 2>/dev/null | cut -d. -f1)
METAL_BUILT := $(if $(filter-out 1% 20 21 22,$(DARWIN)),yes)
METAL_LIBRARY := $(METAL)/kernels.metallib
else
# Test kernels are the same for every build of the library.
METAL := $(if $(filter build build/%,$(BUILD)),build,$(BUILD))/metal
METAL_BUILT :=
METAL_LIBRARY := $(METAL)/none.metallib
endif
METAL_HOST := $(patsubst src/ops/metal/%.c,$(METAL)/host/%.o,$(wildcard src/ops/metal/*.c)) $(METAL)/host/host.o \
              $(METAL)/host/source.o

# The text that ships.
$(METAL)/kernels.metal: $(METAL_SOURCES) $(METAL_HEADERS) scripts/inline-metal $(METAL)/sources
	@mkdir -p $(@D)
	@scripts/inline-metal $(METAL_SOURCES) > $@

# Changes when a file comes or goes.
ifneq ($(BUILDING),)
$(shell mkdir -p $(METAL) && { echo '$(METAL_SOURCES)' | cmp -s - $(METAL)/sources || echo '$(METAL_SOURCES)' > $(METAL)/sources; })
endif
$(METAL)/sources:
	@mkdir -p $(@D) && echo '$(METAL_SOURCES)' > $@

# The same compiled by Apple's compiler; where there is none, or it fails, an empty file. NAME.note says how or why.
$(METAL)/kernels.metallib: $(METAL)/kernels.metal scripts/make-metallib
	$(call quiet,METAL,$@)XCRUN='$(XCRUN)' scripts/make-metallib $< $@

# Both, as bytes in C.
$(METAL)/host/source.c: $(METAL)/kernels.metal $(METAL_LIBRARY) scripts/embed-metal
	@mkdir -p $(@D)
	@scripts/embed-metal $(METAL)/kernels.metal $(METAL_LIBRARY) > $@

$(METAL)/host/source.o: $(METAL)/host/source.c $(BUILD)/flags
	$(call quiet,CC,$<)$(COMPILE) -c $< -o $@

$(METAL)/host/%.o: src/ops/metal/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) -MMD -MP -c $< -o $@

SYSTEM_LIBS := -lm
ifneq ($(METAL_BUILT),)
METAL_OBJC ?= clang
# Without CoreGraphics a program of the command line is given no GPU.
SYSTEM_LIBS += -framework Metal -framework Foundation -framework CoreGraphics
LIBRARY_OBJECTS += $(METAL_HOST)
DEVICES += metal

$(BUILD)/src/ops/ops.o: CPPFLAGS += -DXLSTM_METAL

$(METAL)/host/host.o: src/ops/metal/host.m $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,OBJC,$<)$(METAL_OBJC) $(COMPILE_FLAGS) -fblocks -fno-objc-arc -mmacosx-version-min=14.0 \
	  -Wunguarded-availability -MMD -MP -c $< -o $@

-include $(wildcard $(METAL)/host/*.d)
endif
