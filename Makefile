# xlstm. `make help` lists the targets. Works with GNU Make 3.81 (macOS) and later.
#
# Sources are found by wildcard: a new file in src/*/ or src/ops/*/, or a new tests/*/test_*.c, needs
# no change here. Everything that is built lies in $(BUILD).

VERSION := $(shell cat VERSION)
SOVERSION := 0
OS := $(shell uname -s)
ARCH := $(shell uname -m)
COMMIT := $(or $(if $(wildcard .git),$(shell git describe --always --dirty --abbrev=12 2>/dev/null)),unknown)

MAKEFLAGS += -r
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

# ---- What a user may set -------------------------------------------------------------------------

ifeq ($(origin CC),default)
CC := cc
endif
AR ?= ar
OBJCOPY ?= objcopy
PKG_CONFIG ?= pkg-config
CLANG_FORMAT ?= $(or $(shell command -v clang-format-14 2>/dev/null),clang-format)
SANITIZE ?=
# Reports of sanitizers need lines, and not the names and types of everything.
CFLAGS ?= $(if $(SANITIZE),-O1 -g1,-O2 -g)
# Instrumented code confuses the warnings that follow values; those of plain builds count.
WERROR ?= $(if $(SANITIZE),,-Werror)
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
BINDIR ?= $(PREFIX)/bin
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
BASHCOMPDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPDIR ?= $(PREFIX)/share/zsh/site-functions
MODEL ?= models/reference-17m
PROMPT ?= The capital of France is
FUZZ_SECONDS ?= 60
FUZZ_CC ?= clang

comma := ,
BUILD := build$(if $(SANITIZE),/sanitize-$(subst $(comma),-,$(SANITIZE)))

# ---- Flags ---------------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
            -Wconversion -Wvla $(WERROR)
# Constants of anonymous enums are numbers; newer clangs (19, Xcode's) would have them cast beside floating-point ones.
WARNINGS += $(if $(filter Darwin,$(OS))$(findstring clang,$(CC)),-Wno-enum-float-conversion)
# No contraction to fused multiply-add behind the source's back: results must not depend on the compiler.
LANGUAGE := -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -fno-math-errno -ffp-contract=off \
            -fstack-protector-strong -pthread
ifneq ($(SANITIZE),)
# What these two checks find stops the address sanitizer at the same place; they take a quarter of the compiler's time.
SANITIZE_FLAGS := -fsanitize=$(SANITIZE) -fno-sanitize=null,object-size -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
LINK_FLAGS = $(LDFLAGS) $(SANITIZE_FLAGS) -pthread

# The kernels of src/ops/cpu are compiled once for every instruction set; the best is chosen at start.
ifneq ($(filter x86_64 amd64,$(ARCH)),)
KERNEL_ISAS := generic avx2 avx512
DOT_ISAS := avx2vnni avx512vnni
TILE_ISAS := amx
else ifneq ($(filter aarch64 arm64,$(ARCH)),)
KERNEL_ISAS := neon
DOT_ISAS := neon_dotprod neon_i8mm
else
KERNEL_ISAS := generic
endif
# Threads share the same memory whatever the width of their vectors, and no parser is in these files.
ifneq ($(filter x86_64 amd64,$(ARCH)),)
ifneq ($(findstring fuzzer,$(SANITIZE)),)
KERNEL_ISAS := generic
DOT_ISAS :=
TILE_ISAS :=
else ifneq ($(findstring thread,$(SANITIZE)),)
KERNEL_ISAS := generic avx2
DOT_ISAS := avx2vnni
TILE_ISAS :=
endif
endif
KERNEL_FLAGS_generic :=
KERNEL_FLAGS_neon := # every arm64 processor has it
KERNEL_FLAGS_avx2 := -mavx2 -mfma -mf16c
KERNEL_FLAGS_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c \
                       -mprefer-vector-width=512
# Sets that differ from another in one part, products of bytes or tiles: only its file is compiled.
KERNEL_FLAGS_amx = $(KERNEL_FLAGS_avx512vnni) -mavx512bf16 -mamx-tile -mamx-bf16 -mamx-int8
KERNEL_FLAGS_avx2vnni := $(KERNEL_FLAGS_avx2) -mavxvnni
KERNEL_FLAGS_avx512vnni := $(KERNEL_FLAGS_avx512) -mavx512vnni -mavx512vbmi -mgfni
KERNEL_FLAGS_neon_dotprod := -march=armv8.2-a+dotprod
KERNEL_FLAGS_neon_i8mm := -march=armv8.2-a+dotprod+i8mm
# Instrumented vector code is slow to run without optimisation, takes gcc minutes beyond -O1 and clang at -O1. For fuzzing, where
# no parser is in these files, it is not optimised.
# To follow variables through them would take a third of their time: line numbers are enough.
OPTIMISE_OPS := $(if $(SANITIZE),$(if $(findstring fuzzer,$(SANITIZE)),-O0,-O1),-O3 -g1)

# ---- Files ---------------------------------------------------------------------------------------

# Compiled for every instruction set; real_*.c for every element type besides, f32 and f64.
REAL_SOURCES := $(wildcard src/ops/cpu/real_*.c)
AMX_SOURCES := $(wildcard src/ops/cpu/kernels_amx*.c)
KERNEL_SOURCES := $(filter-out $(AMX_SOURCES),$(wildcard src/ops/cpu/kernels*.c)) $(REAL_SOURCES)
LIBRARY_SOURCES := $(filter-out src/cli/% src/ops/metal/% src/ops/cuda/% $(AMX_SOURCES) $(KERNEL_SOURCES),$(wildcard src/*/*.c src/ops/*/*.c))
CLI_SOURCES := $(wildcard src/cli/*.c)
DEVICES := $(filter-out %.h %.c metal cuda,$(notdir $(patsubst %/,%,$(sort $(dir $(wildcard src/ops/*/*.c))))))

object = $(patsubst %.c,$(BUILD)/%.o,$(1))
KERNEL_OBJECTS := $(foreach isa,$(KERNEL_ISAS),$(KERNEL_SOURCES:%.c=$(BUILD)/%_$(isa).o) \
                  $(REAL_SOURCES:%.c=$(BUILD)/%_$(isa)_f64.o)) \
                  $(DOT_ISAS:%=$(BUILD)/src/ops/cpu/kernels_dot_%.o) \
                  $(foreach isa,$(TILE_ISAS),$(AMX_SOURCES:%.c=$(BUILD)/%_$(isa).o))
LIBRARY_OBJECTS := $(call object,$(LIBRARY_SOURCES)) $(KERNEL_OBJECTS)
MAIN_OBJECT := $(call object,$(filter src/cli/main.c,$(CLI_SOURCES)))
CLI_OBJECTS := $(call object,$(filter-out src/cli/main.c,$(CLI_SOURCES)))
VERSION_OBJECT := $(BUILD)/src/base/version.o

COMMAND := $(BUILD)/xlstm
STATIC_LIBRARY := $(BUILD)/libxlstm.a
INTERNAL_LIBRARY := $(BUILD)/internal.a
ifeq ($(OS),Darwin)
SHARED_NAME := libxlstm.dylib
SHARED_SONAME := libxlstm.$(SOVERSION).dylib
SHARED_FULL := libxlstm.$(VERSION).dylib
SHARED_FLAGS = -dynamiclib -Wl,-install_name,$(LIBDIR)/$(SHARED_SONAME)
else
SHARED_NAME := libxlstm.so
SHARED_SONAME := libxlstm.so.$(SOVERSION)
SHARED_FULL := libxlstm.so.$(VERSION)
SHARED_FLAGS = -shared -Wl,-soname,$(SHARED_SONAME) $(if $(SANITIZE),,-Wl,-z,defs)
endif
SHARED_LIBRARY := $(BUILD)/$(SHARED_NAME)

TEST_SOURCES := $(sort $(wildcard tests/*/test_*.c))
TEST_PROGRAMS := $(TEST_SOURCES:%.c=$(BUILD)/%)
# Files beside the tests of a room that are not tests themselves are linked into each of them.
TEST_HELPERS := $(filter-out tests/support/% tests/fuzz/% $(TEST_SOURCES),$(wildcard tests/*/*.c))
SUPPORT_OBJECTS := $(call object,$(wildcard tests/support/*.c))
helpers_of = $(call object,$(filter $(dir $(1:$(BUILD)/%=%))%,$(TEST_HELPERS)))
E2E_SCRIPTS := $(sort $(wildcard tests/e2e/*.sh))
LARGE_SCRIPTS := $(sort $(wildcard tests/large/*.sh))
# The thread sanitizer slows arithmetic down twentyfold. What computes long on a pool that other tests put to the proof,
# or reads and writes files and text in one thread, is left to the address sanitizer; so are scripts, except those in
# which a signal or a terminal comes between.
ifneq ($(findstring thread,$(SANITIZE)),)
LEFT_OUT := $(addprefix $(BUILD)/tests/,cli/% engine/test_machine format/% golden/test_parity golden/test_quantised \
              model/test_convert_plan model/test_weights model/test_wiring \
              kernels/test_compensated kernels/test_slstm_halves kernels/test_mlstm_extremes kernels/test_mlstm_fixtures kernels/test_mlstm_forms \
              kernels/test_mlstm_gradients kernels/test_mlstm_halves ops/test_superaccumulator ops/test_two_float text/%) \
            $(filter-out tests/e2e/chat.sh tests/e2e/instrumented.sh tests/e2e/interrupt.sh,$(E2E_SCRIPTS))
endif

FUZZ_TARGETS ?= $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_PROGRAMS = $(FUZZ_TARGETS:%=$(BUILD)/tests/fuzz/fuzz_%)

TRACKED_C = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h' '*.cu')

# ---- Packages ------------------------------------------------------------------------------------
# Checked before anything else: an included makefile that is missing is made first. As root, missing
# packages are installed; otherwise the command to run is printed and make stops.

GOALS := $(or $(MAKECMDGOALS),all)
BUILDING := $(filter-out clean help format lint fuzz metal-check uninstall,$(GOALS))
ifneq ($(BUILDING),)
include $(BUILD)/packages.mk
endif
ifneq ($(filter test test-quick test-large test-programs run-cuda-test metal cuda-device $(BUILD)/tests/% $(BUILD)/metal/% $(BUILD)/cuda_device/%, \
         $(filter-out $(BUILD)/tests/fuzz/%,$(GOALS))),)
include $(BUILD)/packages-test.mk
endif

$(BUILD)/packages.mk: scripts/install-deps
	@mkdir -p $(@D)
	@CC='$(CC)' scripts/install-deps --make build
	@{ echo "PACKAGE_CFLAGS := $$($(PKG_CONFIG) --cflags jansson yaml-0.1)"; \
	  echo "PACKAGE_LIBS := $$($(PKG_CONFIG) --libs jansson yaml-0.1)"; \
	  echo "EDIT_CFLAGS := $$($(PKG_CONFIG) --cflags libedit 2>/dev/null)"; \
	  echo "EDIT_LIBS := $$($(PKG_CONFIG) --libs libedit 2>/dev/null || echo -ledit)"; } > $@

$(BUILD)/packages-test.mk: scripts/install-deps | $(BUILD)/packages.mk
	@CC='$(CC)' scripts/install-deps --make test
	@{ echo "CMOCKA_CFLAGS := $$($(PKG_CONFIG) --cflags cmocka)"; \
	  echo "CMOCKA_LIBS := $$($(PKG_CONFIG) --libs cmocka)"; } > $@

# ---- Targets -------------------------------------------------------------------------------------

.PHONY: all test test-quick test-large test-oracle test-programs metal-check demo models/demo bench install uninstall clean help fuzz \
        fuzz-programs format lint cuda cuda-test cuda-bench run-cuda-test run-cuda-bench FORCE

all: $(STATIC_LIBRARY) $(SHARED_LIBRARY) $(if $(MAIN_OBJECT),$(COMMAND)) ## the command and the libraries

help: ## this list
	@echo "make [TARGET] [VARIABLE=value]"
	@sed -n 's/^\([a-z/-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "Variables: CC CFLAGS SANITIZE=address,undefined|thread PREFIX DESTDIR PROMPT MODEL"
	@echo "           FUZZ_TARGETS FUZZ_SECONDS TEST_ARGS (parts of test names) V=1 (show commands)"

# One file that runs by itself, made of the checkpoint of the tree.
DEMO := models/demo/xlstm-17m-q8_0.gguf

# What decides its bytes: reading a checkpoint, what is written, how it is rounded, and where it stands.
DEMO_SOURCES := $(wildcard models/reference-17m/* src/base/blocks.* src/base/dtype.* src/cli/convert.c \
                  $(foreach name,gguf quantise safetensors source stored,src/format/$(name)*) \
                  $(foreach name,convert describe output weights,src/model/$(name)*))

models/demo: $(DEMO) ## the model of the tree as one file, in 8 bits

$(DEMO): $(DEMO_SOURCES) | $(COMMAND)
	@mkdir -p $(@D)
	@$(COMMAND) convert -m models/reference-17m -o $@ --type q8_0 --force

export PROMPT
demo: $(COMMAND) $(DEMO) ## the model of the tree, in 8 bits, goes on with PROMPT
	@$(COMMAND) generate -m $(if $(filter file,$(origin MODEL)),$(DEMO),$(MODEL)) -p "$$PROMPT" -n 48

bench: $(COMMAND) $(BUILD)/bench/bench_kernels $(BUILD)/bench/bench_projections ## speed of this machine, of MODEL on it, of the kernels and of products
	@$(COMMAND) bench -m $(MODEL)
	@$(BUILD)/bench/bench_kernels
	@$(BUILD)/bench/bench_projections

RUN_FILES = XLSTM='$(COMMAND)' XLSTM_METAL='$(if $(METAL_PROGRAMS),$(METAL)/xlstm)' BUILD='$(BUILD)' SANITIZE='$(SANITIZE)' scripts/run-tests
RUN_TESTS = $(RUN_FILES) $(DEVICE_RUNS)

QUICK_TESTS := $(filter-out $(LEFT_OUT) $(if $(SANITIZE),tests/e2e/metal%),$(TEST_PROGRAMS) $(E2E_SCRIPTS))

test: test-programs $(DEMO) ## all tests
	@$(RUN_TESTS) $(TEST_PROGRAMS) $(E2E_SCRIPTS)

test-quick: all $(QUICK_TESTS) $(DEMO) ## all tests with small shapes (for sanitizers)
	@XLSTM_TEST_QUICK=1 $(if $(findstring thread,$(SANITIZE)),XLSTM_TEST_BRIEF=1) $(RUN_TESTS) $(QUICK_TESTS)

test-large: test-programs $(DEMO) ## also what takes long, much memory or a large model
	@XLSTM_TEST_LARGE=1 $(RUN_TESTS) $(TEST_PROGRAMS) $(E2E_SCRIPTS) $(LARGE_SCRIPTS)

metal-check: ## on a Mac: Metal by Apple's compiler and on the GPU, and a report of it
	@scripts/metal-check --machine
	@$(MAKE) --no-print-directory test-programs
	@BUILD='$(BUILD)' XCRUN='$(XCRUN)' scripts/metal-check

cuda: ## the device cuda in the same command and libraries, from now on (nvcc 12.4 or later)
	@$(CUDA_CHECK)
	@mkdir -p $(BUILD) && echo 'CUDA := 1' > $(BUILD)/cuda.mk
	@$(MAKE) --no-print-directory all

cuda-test: cuda ## on a machine with an NVIDIA GPU: all tests of the device cuda
	@$(MAKE) --no-print-directory run-cuda-test

cuda-bench: cuda ## on a machine with an NVIDIA GPU: speed of the device cuda, beside the limits of the GPU
	@$(MAKE) --no-print-directory run-cuda-bench

test-oracle: $(SHARED_LIBRARY) $(COMMAND) ## the official packages' own tests with these kernels (PyTorch, from the network); GGUF
	@scripts/test-oracle $(SHARED_LIBRARY)

test-programs: all $(TEST_PROGRAMS)

fuzz: ## FUZZ_TARGETS for FUZZ_SECONDS each, two at a time
	@CC='$(FUZZ_CC)' scripts/install-deps --make fuzz
	@$(MAKE) --no-print-directory fuzz-programs CC='$(FUZZ_CC)' BUILD=build/fuzz \
	  SANITIZE=fuzzer-no-link,address,undefined
	@scripts/run-fuzz build/fuzz '$(FUZZ_SECONDS)' $(FUZZ_TARGETS)

fuzz-programs: $(FUZZ_PROGRAMS)

format: ## clang-format (version 14) over all sources
	$(CLANG_FORMAT) -i $(TRACKED_C)

lint: ## clang-format and cppcheck, changing nothing
	$(CLANG_FORMAT) --dry-run -Werror $(TRACKED_C)
	scripts/lint

clean: ## removes build/
	rm -rf build

# ---- Metal: in the library on macOS, for the test device elsewhere; CUDA: after `make cuda` ------------

include src/ops/metal/rules.mk
include src/ops/cuda/rules.mk
include tests/metal_device/rules.mk
include tests/metal_device/objc/rules.mk
include tests/metal_device/host.mk
include tests/cuda_device/rules.mk

# Tests that run on the test device. Sanitizers would see nothing new in them.
DEVICE_RUNS := $(if $(SANITIZE),,$(METAL_RUNS) $(METAL_PRODUCT_TESTS) $(DEVICE_OBJC_TESTS) $(CUDA_DEVICE_RUNS))
DEVICE_KERNELS := $(METAL_MODULES) $(METAL_PLANTS)

test-programs: $(DEVICE_KERNELS) $(DEVICE_RUNS) $(METAL_PROGRAMS) $(CUDA_DEVICE_PROGRAMS) $(if $(SANITIZE)$(CUDA),,$(CUDA_DEVICE_HOST))
test-quick: $(DEVICE_KERNELS) $(DEVICE_RUNS)

# ---- Compiling -----------------------------------------------------------------------------------

quiet = $(if $(V),,@printf '  %-5s %s\n' $(1) '$(2)';)

COMPILE_FLAGS = $(LANGUAGE) $(WARNINGS) $(CFLAGS) $(CPPFLAGS) $(SANITIZE_FLAGS) -Isrc -Iinclude $(PACKAGE_CFLAGS)
COMPILE = $(CC) $(COMPILE_FLAGS)

# Objects depend on these files, which change when the flags or the version do.
FLAGS_TEXT = $(COMPILE) $(EDIT_CFLAGS) $(KERNEL_FLAGS_avx2vnni) $(KERNEL_FLAGS_amx) $(METAL_MISSING)
ISAS_TEXT = $(KERNEL_ISAS) $(DOT_ISAS) $(TILE_ISAS)
VERSION_TEXT = $(VERSION) $(COMMIT) $(DEVICES) $(ISAS_TEXT)
quoted = '$(subst ','\'',$(1))'
write_if_changed = mkdir -p $(BUILD) && { printf '%s\n' $(call quoted,$(1)) | cmp -s - $(2) || \
                   printf '%s\n' $(call quoted,$(1)) > $(2); }
ifneq ($(BUILDING),)
$(shell $(call write_if_changed,$(FLAGS_TEXT),$(BUILD)/flags))
$(shell $(call write_if_changed,$(VERSION_TEXT),$(BUILD)/version))
endif

$(BUILD)/flags $(BUILD)/version: # only after `make clean all`
	@$(call write_if_changed,$(FLAGS_TEXT),$(BUILD)/flags)
	@$(call write_if_changed,$(VERSION_TEXT),$(BUILD)/version)

define compile_kernel
$(BUILD)/$(1:.c=)_$(2)$(3).o: $(1) $(BUILD)/flags
	@mkdir -p $$(@D)
	$$(call quiet,CC,$(1) ($(2)$(3)))$$(COMPILE) $(OPTIMISE_OPS) $(KERNEL_FLAGS_$(2)) -DKERNEL_ISA=$(2)$(3) \
	  $(4) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(KERNEL_ISAS),$(foreach source,$(KERNEL_SOURCES), \
  $(eval $(call compile_kernel,$(source),$(isa),,))))
$(foreach isa,$(DOT_ISAS),$(eval $(call compile_kernel,src/ops/cpu/kernels_dot.c,$(isa),,)))
$(foreach isa,$(TILE_ISAS),$(foreach source,$(AMX_SOURCES),$(eval $(call compile_kernel,$(source),$(isa),,))))
$(foreach isa,$(KERNEL_ISAS),$(foreach source,$(REAL_SOURCES), \
  $(eval $(call compile_kernel,$(source),$(isa),_f64,-DKERNEL_F64))))

$(VERSION_OBJECT): src/base/version.c $(BUILD)/flags $(BUILD)/version
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) -DXLSTM_VERSION='"$(VERSION)"' -DXLSTM_COMMIT='"$(COMMIT)"' \
	  -DXLSTM_DEVICES='"$(DEVICES)"' -DXLSTM_KERNELS='"$(ISAS_TEXT)"' -MMD -MP -c $< -o $@

$(BUILD)/src/ops/cpu/%.o: src/ops/cpu/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) $(OPTIMISE_OPS) -MMD -MP -c $< -o $@

# It must know which sets there are.
$(BUILD)/src/ops/cpu/dispatch.o: CPPFLAGS += $(foreach isa,$(KERNEL_ISAS) $(DOT_ISAS) $(TILE_ISAS),-DHAS_$(isa))

$(BUILD)/src/cli/%.o: src/cli/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) $(EDIT_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/tests/%.o: tests/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) -Itests -DTEST_SANITIZE='"$(SANITIZE)"' -DTEST_METAL='"$(METAL)"' \
	  -DTEST_METAL_MISSING='"$(strip $(METAL_MISSING))"' $(CMOCKA_CFLAGS) \
	  -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$<)$(COMPILE) -MMD -MP -c $< -o $@

# ---- Linking -------------------------------------------------------------------------------------

# What the command and the tests link: everything but main, with internal names visible.
$(INTERNAL_LIBRARY): $(LIBRARY_OBJECTS) $(CLI_OBJECTS)
	$(call quiet,AR,$@)rm -f $@ && $(AR) rcs $@ $^

# In the static library a user gets, internal names are local where objcopy can make them so.
$(STATIC_LIBRARY): $(LIBRARY_OBJECTS)
	@rm -f $@
ifeq ($(OS),Darwin)
	$(call quiet,AR,$@)$(AR) rcs $@ $^
else
	$(call quiet,AR,$@)$(CC) -r -nostdlib -o $(BUILD)/libxlstm.o $^ && \
	  $(OBJCOPY) --localize-hidden $(BUILD)/libxlstm.o && $(AR) rcs $@ $(BUILD)/libxlstm.o
endif

$(SHARED_LIBRARY): $(LIBRARY_OBJECTS)
	$(call quiet,LINK,$@)$(CC) $(SHARED_FLAGS) $(LINK_FLAGS) -o $@ $^ $(PACKAGE_LIBS) $(SYSTEM_LIBS)
	@ln -sf $(SHARED_NAME) $(BUILD)/$(SHARED_SONAME)

$(COMMAND): $(MAIN_OBJECT) $(INTERNAL_LIBRARY)
	$(call quiet,LINK,$@)$(CC) $(LINK_FLAGS) -o $@ $^ $(PACKAGE_LIBS) $(EDIT_LIBS) $(SYSTEM_LIBS)

.SECONDEXPANSION:
# The archive is remade for a new commit; a test need not be, so it is linked anew for other changes only.
$(TEST_PROGRAMS): $(BUILD)/%: $(BUILD)/%.o $$(call helpers_of,$$@) $(SUPPORT_OBJECTS) \
    $(filter-out $(VERSION_OBJECT),$(LIBRARY_OBJECTS)) $(CLI_OBJECTS) | $(INTERNAL_LIBRARY)
	$(call quiet,LINK,$@)$(CC) $(LINK_FLAGS) -o $@ $< $(call helpers_of,$@) $(SUPPORT_OBJECTS) \
	  $(INTERNAL_LIBRARY) $(PACKAGE_LIBS) $(EDIT_LIBS) $(CMOCKA_LIBS) $(SYSTEM_LIBS)

$(BUILD)/bench/%: bench/%.c $(INTERNAL_LIBRARY)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)$(COMPILE) $(LINK_FLAGS) -o $@ $< $(INTERNAL_LIBRARY) $(PACKAGE_LIBS) $(SYSTEM_LIBS)

$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(INTERNAL_LIBRARY)
	$(call quiet,LINK,$@)$(CC) $(LDFLAGS) -fsanitize=fuzzer,address,undefined -pthread -o $@ $^ \
	  $(PACKAGE_LIBS) $(EDIT_LIBS) $(SYSTEM_LIBS)

.SECONDARY:
-include $(wildcard $(BUILD)/src/*/*.d $(BUILD)/src/*/*/*.d $(BUILD)/tests/*/*.d)

# ---- Installing ----------------------------------------------------------------------------------

$(BUILD)/xlstm.1: $(COMMAND)
	@$(COMMAND) --man > $@

$(BUILD)/xlstm.bash: $(COMMAND)
	@$(COMMAND) --completion bash > $@

$(BUILD)/xlstm.zsh: $(COMMAND)
	@$(COMMAND) --completion zsh > $@

$(BUILD)/xlstm.pc: xlstm.pc.in VERSION FORCE
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
	  -e 's|@VERSION@|$(VERSION)|' -e 's|@SYSTEM_LIBS@|$(SYSTEM_LIBS)|' $< > $@

INSTALLED = $(BINDIR)/xlstm $(INCLUDEDIR)/xlstm.h $(INCLUDEDIR)/xlstm_kernels.h $(LIBDIR)/libxlstm.a $(LIBDIR)/$(SHARED_FULL) \
            $(LIBDIR)/$(SHARED_SONAME) $(LIBDIR)/$(SHARED_NAME) $(LIBDIR)/pkgconfig/xlstm.pc \
            $(MANDIR)/man1/xlstm.1 $(BASHCOMPDIR)/xlstm $(ZSHCOMPDIR)/_xlstm

install: all $(BUILD)/xlstm.1 $(BUILD)/xlstm.bash $(BUILD)/xlstm.zsh $(BUILD)/xlstm.pc ## to PREFIX (and DESTDIR)
	@mkdir -p $(sort $(dir $(addprefix $(DESTDIR),$(INSTALLED))))
	install -m 755 $(COMMAND) $(DESTDIR)$(BINDIR)/xlstm
	install -m 644 include/xlstm.h $(DESTDIR)$(INCLUDEDIR)/xlstm.h
	install -m 644 include/xlstm_kernels.h $(DESTDIR)$(INCLUDEDIR)/xlstm_kernels.h
	install -m 644 $(STATIC_LIBRARY) $(DESTDIR)$(LIBDIR)/libxlstm.a
	install -m 755 $(SHARED_LIBRARY) $(DESTDIR)$(LIBDIR)/$(SHARED_FULL)
	ln -sf $(SHARED_FULL) $(DESTDIR)$(LIBDIR)/$(SHARED_SONAME)
	ln -sf $(SHARED_SONAME) $(DESTDIR)$(LIBDIR)/$(SHARED_NAME)
	install -m 644 $(BUILD)/xlstm.pc $(DESTDIR)$(LIBDIR)/pkgconfig/xlstm.pc
	install -m 644 $(BUILD)/xlstm.1 $(DESTDIR)$(MANDIR)/man1/xlstm.1
	install -m 644 $(BUILD)/xlstm.bash $(DESTDIR)$(BASHCOMPDIR)/xlstm
	install -m 644 $(BUILD)/xlstm.zsh $(DESTDIR)$(ZSHCOMPDIR)/_xlstm

uninstall: ## removes what install put there
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
