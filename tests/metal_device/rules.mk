# The kernels of src/ops/metal as shared libraries for this machine: checked, fast, and with fast math.
# Needs clang++-19 on Linux and x86-64; elsewhere nothing is built, and the tests of it say why they are skipped.

METAL_CXX ?= clang++-19
METAL_DEVICE := tests/metal_device
METAL_LOOKALIKE := $(wildcard $(METAL_DEVICE)/include/* $(METAL_DEVICE)/include/metal_device/*.h)
METAL_GENERATOR := $(METAL_DEVICE)/generate.py $(METAL_DEVICE)/tokens.py $(METAL_DEVICE)/lints.py
ifeq ($(OS)-$(filter x86_64 amd64,$(ARCH)),Linux-$(ARCH))
METAL_MISSING := $(if $(shell command -v $(METAL_CXX)),,$(METAL_CXX) is not installed)$(if \
                 $(shell command -v python3),, python3 is not installed)
else
METAL_MISSING := the test device runs on Linux on x86-64
endif
METAL_MODES := checked fast fastmath
METAL_MODULES := $(if $(strip $(METAL_MISSING)),,$(METAL_MODES:%=$(METAL)/kernels-%.so))

METAL_PREPROCESS = $(METAL_CXX) -E -x c++ -std=c++17 -nostdinc -D__METAL_VERSION__=310 -D__METAL__ \
                   -D__HAVE_BFLOAT__ -DMETAL_DEVICE_TEXT -isystem $(METAL_DEVICE)/include
METAL_WARNINGS := -Wall -Wextra -Wvla -Wc++17-extensions -Werror -Wno-unused-function -Wno-unknown-pragmas \
                  -Wno-unused-but-set-variable -Wno-unused-parameter -flax-vector-conversions=none
METAL_COMPILE = $(METAL_CXX) -x c++ -std=c++14 -nostdinc -D__METAL_VERSION__=310 -D__METAL__ \
                -isystem $(METAL_DEVICE)/include $(METAL_WARNINGS) -Wno-user-defined-literals \
                -Wno-reserved-user-defined-literal -fno-exceptions -fno-rtti -fPIC -fvisibility=hidden \
                -ffreestanding -fno-math-errno -gline-tables-only -gdwarf-4 -fdebug-compilation-dir=. $(METAL_MACHINE)
METAL_MACHINE := $(if $(shell grep -q ' avx2 .* bmi2 ' /proc/cpuinfo 2>/dev/null && echo 1),-march=x86-64-v3)
METAL_FLAGS_checked := -O1 -fsanitize=thread -mllvm -tsan-instrument-func-entry-exit=0 \
                       -mllvm -tsan-instrument-read-before-write=1 -fno-vectorize \
                       -fno-slp-vectorize -ffp-contract=off -ftrivial-auto-var-init=pattern
METAL_FLAGS_fast := -O2 -ffp-contract=off
METAL_FLAGS_fastmath := -O2 -ffast-math -ffp-contract=fast -Wno-nan-infinity-disabled
METAL_RUNTIME = $(METAL_CXX) -std=c++17 -O2 -g1 -gdwarf-4 -Wall -Wextra -Wshadow -Wconversion -Werror -fPIC \
                -fno-exceptions -fno-rtti -fvisibility=hidden -fno-math-errno
METAL_PARTS_checked := runtime shadow
METAL_PARTS_fast := runtime shadow_none
METAL_PARTS_fastmath := runtime shadow_none

# The text that ships (src/ops/metal/rules.mk), file by file.
$(METAL)/text/%.metal: src/ops/metal/%.metal $(METAL_HEADERS) scripts/inline-metal
	@mkdir -p $(@D)
	@scripts/inline-metal $< > $@

$(METAL)/text/%.cc: $(METAL)/text/%.metal $(METAL_GENERATOR)
	@$(METAL_PREPROCESS) $< | python3 $(METAL_DEVICE)/generate.py > $@

# Address spaces are types here.
$(METAL)/types.ok: $(METAL)/kernels.metal $(METAL_GENERATOR) $(METAL_LOOKALIKE)
	$(call quiet,TYPES,$<)$(METAL_PREPROCESS) $< | python3 $(METAL_DEVICE)/generate.py > $(METAL)/kernels.cc && \
	  $(METAL_COMPILE) -DMETAL_DEVICE_TYPES -fsyntax-only $(METAL)/kernels.cc && touch $@

define metal_mode
$(METAL)/$(1)/%.o: $(METAL)/text/%.cc $(METAL_LOOKALIKE) $(METAL_DEVICE)/rules.mk
	@mkdir -p $$(@D)
	$$(call quiet,METAL,$$* ($(1)))$$(METAL_COMPILE) $(METAL_FLAGS_$(1)) -c $$< -o $$@

$(METAL)/$(1)/device_%.o: $(METAL_DEVICE)/%.cc $(METAL_DEVICE)/runtime.h $(METAL_DEVICE)/module.h $(METAL_DEVICE)/gpu.h \
    $(METAL_DEVICE)/include/metal_device/abi.h $(METAL)/kernels.metal
	@mkdir -p $$(@D)
	$$(call quiet,CXX,$$< ($(1)))$(METAL_RUNTIME) -DMETAL_DEVICE_HASH=$$$$(python3 $(METAL_DEVICE)/hash.py $(METAL)/kernels.metal) \
	  -c $$< -o $$@

$(METAL)/kernels-$(1).so: $(METAL_SOURCES:src/ops/metal/%.metal=$(METAL)/$(1)/%.o) \
    $(METAL_PARTS_$(1):%=$(METAL)/$(1)/device_%.o) $(METAL)/types.ok
	$$(call quiet,LINK,$$@)$(METAL_CXX) -shared -nostdlib++ -Wl,-Bsymbolic -Wl,-z,defs -o $$@ $$(filter %.o,$$^) -lm
endef
$(foreach mode,$(METAL_MODES),$(eval $(call metal_mode,$(mode))))

.PHONY: metal-kernels
metal-kernels: $(METAL_MODULES)

# ---- Planted mistakes: kernels with and without them, and what must not compile; kernels of the device's own tests ----

METAL_PLANTED := $(METAL_DEVICE)/planted

# NAME, FILE, MODE, FLAGS: one file as the library $(METAL)/planted-NAME.
define metal_planted
$(METAL)/planted-$(1)/$(3).cc: $(METAL_PLANTED)/$(2).metal $(METAL_GENERATOR)
	@mkdir -p $$(@D)
	@$$(METAL_PREPROCESS) $(4) $$< | python3 $(METAL_DEVICE)/generate.py > $$@

$(METAL)/planted-$(1)/kernels-$(3).so: $(METAL)/planted-$(1)/$(3).cc $(METAL_LOOKALIKE) $(METAL_DEVICE)/rules.mk \
    $(METAL_PARTS_$(3):%=$(METAL)/$(3)/device_%.o)
	$$(call quiet,METAL,$(METAL_PLANTED)/$(2).metal ($(1) $(3)))$$(METAL_COMPILE) $(METAL_FLAGS_$(3)) -c $$< -o $$(@D)/$(3).o && \
	  $(METAL_CXX) -shared -nostdlib++ -Wl,-Bsymbolic -Wl,-z,defs -o $$@ $$(@D)/$(3).o $$(filter %.o,$$^) -lm
endef
$(eval $(call metal_planted,wrong,running,checked,-DBUG))
$(eval $(call metal_planted,right,running,checked,))
$(foreach mode,$(METAL_MODES),$(eval $(call metal_planted,functions,functions,$(mode),)))

$(METAL)/refused.txt: $(METAL_PLANTED)/refused.metal $(METAL_DEVICE)/refuse.py $(METAL_GENERATOR) $(METAL_LOOKALIKE)
	@mkdir -p $(@D)
	$(call quiet,REFUSE,$<)python3 $(METAL_DEVICE)/refuse.py $< '$(METAL_PREPROCESS)' 'python3 $(METAL_DEVICE)/generate.py' \
	  '$(METAL_COMPILE) -DMETAL_DEVICE_TYPES -fsyntax-only -' > $@

METAL_PLANTS := $(if $(METAL_MODULES),$(foreach which,wrong right functions,$(METAL)/planted-$(which)/kernels-checked.so) \
                $(METAL)/planted-functions/kernels-fast.so $(METAL)/planted-functions/kernels-fastmath.so $(METAL)/refused.txt)
