# The only door. Bare `make` prints what there is to open.

BOARD =
SMP = 4
MEM = 512M
GIC = 3
CPU = cortex-a72
LAZY_TLB =
APP =
ARGS =
CMDLINE =
CELL =
SERIAL =
SUITE =
DEVICE =
LINUX_IMAGE =
FIRMWARE =
QUICK =
SECONDS =
CALLS =
SEED =
PARALLEL =
HOURS = 8

SANITIZE =
LINES =
SPREAD = 3
UPDATE =
CHECK =
V =
# These three may hold blanks and quotes: recipes read them from the environment, where no shell takes them apart.
export APP ARGS CMDLINE

comma := ,
Q := $(if $(V),,@)
TARGET := aarch64-unknown-none-softfloat
KERNEL := target/$(TARGET)/release/lazuli
PROGRAMS := target/aarch64-unknown-linux-musl/release
NAMES := $(basename $(notdir $(wildcard user/src/bin/*.rs)))
IN_BIN := $(foreach name,$(NAMES),$(PROGRAMS)/$(name)=/bin/$(name))
TESTS := $(wildcard $(foreach name,conform lazycheck equal fuzz lifetimes glutton orphans hotplug soak,user/src/bin/$(name).rs))
# It keeps its name: busybox, for one, does what it is called.
APP_INIT = /app/$(notdir $(APP))
SCHEMES := $(if $(LAZY_TLB),$(LAZY_TLB),refcount shootdown handoff qsbr eager)
PLUGIN := target/release/liblazuli_plugin.so
# The plugin, where it is asked for.
SANITIZER := $(if $(SANITIZE),$(if $(filter-out tlb,$(SANITIZE)),$(error SANITIZE= is tlb or nothing),$(PLUGIN)))
LAZULI := cargo run --quiet --package lazuli-tools --
MACHINE = $(BOARD:%=--board %) --smp $(SMP) --memory $(MEM) --gic $(GIC) --cpu $(CPU) --cmdline "$$CMDLINE" $(SANITIZER:%=--sanitizer %)
CARGO_QUIET := $(if $(V),,--quiet)
# Private items are documented, too, so that their links are checked; a link to one is then no fault.
DOC := RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' \
  cargo doc $(CARGO_QUIET) --no-deps --document-private-items

.DEFAULT_GOAL := help
.PHONY: help setup firmware build run trace report fuzz libfuzzer soak test test-all scale test-hw mutations mutants coverage proof contract worlds loom miri overnight litmus sanitizer-check image card flash netboot chainload debug lint bench bench-check bench-linux simulate matrix bars count choice clean

help: ## Print this
	@echo 'make TARGET [VARIABLE=value ...]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r n t; do printf '%-15s %s\n' "$$n" "$$t"; done
	@echo
	@echo 'Variables (see README.md): BOARD=rpi4 SMP=8 MEM=1G GIC=2 CPU=max LAZY_TLB=shootdown APP=path/to/static-elf'
	@echo '  ARGS="..." CMDLINE="..." CELL=name-of-one-test-boot SUITE=name-of-one-test SANITIZE=tlb PARALLEL=1 QUICK=1 SPREAD=3 SECONDS=30 CALLS=1000000 HOURS=1 SEED=1 V=1'

setup: ## Install what is missing, or say how to
	$(Q)sh tools/setup.sh

build: setup build/rpi4.dtb $(SANITIZER) ## Build the kernel, the programs, build/lazuli.img and build/initramfs.cpio
	$(Q)mkdir -p build
	$(Q)cargo kbuild $(CARGO_QUIET) --release
	$(Q)cargo ubuild $(CARGO_QUIET)
	$(Q)$(LAZULI) image build/lazuli.img --kernel $(KERNEL)
	$(Q)$(LAZULI) cpio build/initramfs.cpio $(IN_BIN)

$(PLUGIN): FORCE | setup
	$(Q)cargo build $(CARGO_QUIET) --release --package lazuli-plugin

# QEMU has no tree for this board; the card brings the firmware's.
build/rpi4.dtb: bsp/src/rpi4/rpi4.dts | setup
	$(Q)mkdir -p build
	$(Q)dtc -W no-unit_address_vs_reg -O dtb -o $@ $<

ifneq ($(APP),)
run: build/app.cpio ## Measure every scheme; with LAZY_TLB= one; with APP= run that program
	@test -z "$(SERIAL)" || { echo 'a program of yours on a board: make card BOARD=rpi4 APP=path/to/static-elf'; exit 1; }
	$(Q)$(LAZULI) run --kernel $(KERNEL) --initrd build/app.cpio $(MACHINE) \
	  $(LAZY_TLB:%=--scheme %) --init $(APP_INIT) --args "$$ARGS"
else
run: bench
endif

# Over a serial line only what is needed.
MEASURED = $(if $(SERIAL),build/lazybench.cpio,build/initramfs.cpio)

build/lazybench.cpio: build FORCE
	$(Q)$(LAZULI) cpio $@ $(PROGRAMS)/lazybench=/bin/lazybench

bench: build $(MEASURED:build/initramfs.cpio=) ## Measure every scheme and print one table; figures go to build/bench.json
	$(Q)$(LAZULI) bench --kernel $(KERNEL) --initrd $(MEASURED) --schemes "$(SCHEMES)" $(MACHINE) $(if $(PARALLEL),--parallel) \
	  $(SERIAL:%=--serial %) --init /bin/lazybench --args "$$ARGS"

trace: $(if $(APP),build/app.cpio,build) ## Write build/trace.json, what the kernel does in a program's run, for Perfetto and chrome://tracing
	$(Q)$(LAZULI) trace --kernel $(KERNEL) --initrd $(if $(APP),build/app.cpio,build/initramfs.cpio) $(MACHINE) $(if $(PARALLEL),--parallel) \
	  --scheme $(or $(LAZY_TLB),shootdown) --init /bin/init \
	  --args "--trace $(if $(APP),$(APP_INIT) $$ARGS,/bin/lazybench $${ARGS:-exit-threads --ops 20})"

# Which figures there are, the other targets decide; the two time lines are made here.
report: build ## Write build/report.html, docs/RESULTS.md and the table in README.md of what bench, bars, matrix, simulate and bench-linux measured; CHECK=1 opens it in Chromium
	$(if $(CHECK),$(Q)sh tools/setup.sh chromium)
	$(Q)$(foreach scheme,shootdown handoff,$(LAZULI) trace --json build/trace-$(scheme).json --kernel $(KERNEL) \
	  --initrd build/initramfs.cpio --scheme $(scheme) --init /bin/init --args "--trace /bin/lazybench exit-threads --ops 20" >/dev/null &&) true
	$(Q)$(LAZULI) report --page docs/RESULTS.md --readme README.md $(if $(CHECK),--check)

matrix: build $(MEASURED:build/initramfs.cpio=) ## Measure every scheme with every modifier and way to flush, and judge the bars; QUICK=1 for few, in 5 minutes
	$(Q)$(LAZULI) matrix --kernel $(KERNEL) --initrd $(MEASURED) $(BOARD:%=--board %) --cpu $(CPU) --memory $(MEM) \
	  --cmdline "$$CMDLINE" $(SERIAL:%=--serial %) $(if $(QUICK),--quick) $(if $(QUICK)$(SERIAL)$(filter rpi4,$(BOARD)),,--page docs/lazy-tlb.md)

bars: build build/counted.cpio $(PLUGIN) ## Count the kernel's instructions per operation and compare with the bars
	$(Q)$(LAZULI) bars --plugin $(PLUGIN) --kernel $(KERNEL) --initrd build/counted.cpio --cpu $(CPU) --cmdline "$$CMDLINE" $(LAZY_TLB:%=--with %)

count: $(if $(APP),build/app.cpio,build) $(PLUGIN) ## Count instructions, TLBIs, barriers, atomics, SGIs between a program's marks or in its life; with LINES=1 lines of memory that move
	$(Q)$(LAZULI) count --plugin $(PLUGIN) $(if $(LINES),--lines) --kernel $(KERNEL) --initrd $(if $(APP),build/app.cpio,build/initramfs.cpio) \
	  $(MACHINE) --scheme $(or $(LAZY_TLB),refcount) $(if $(APP),--init /bin/init --args "--mark $(APP_INIT) $$ARGS",--init /bin/lazybench --args "$${ARGS:---once}")

build/counted.cpio: build FORCE
	$(Q)$(LAZULI) cpio $@ $(PROGRAMS)/init=/bin/init $(PROGRAMS)/lazybench=/bin/lazybench

bench-check: build build/counted.cpio $(PLUGIN) ## Fail if an operation costs 1 % more than before; UPDATE=1 makes today's counts those to compare with
	$(Q)$(LAZULI) bench-check --plugin $(PLUGIN) $(if $(UPDATE),--update) --kernel $(KERNEL) --initrd build/counted.cpio

# Only what is booted: Linux unpacks all of it.
build/counted-app.cpio: build FORCE
	$(Q)$(LAZULI) cpio $@ $(PROGRAMS)/init=/bin/init "$$APP=$(APP_INIT)"

bench-linux: build build/counted.cpio $(PLUGIN) $(if $(APP),build/counted-app.cpio) ## Count the same operations, or with APP= that program, on Lazuli and on Debian's Linux, or that of LINUX_IMAGE=; goes on where it stopped
	$(if $(LINUX_IMAGE),,$(Q)sh tools/setup.sh linux)
	$(Q)$(LAZULI) bench-linux --plugin $(PLUGIN) --linux $(if $(LINUX_IMAGE),$(LINUX_IMAGE),build/linux/root) --kernel $(KERNEL) \
	  --cpu $(CPU) --memory $(MEM) $(LAZY_TLB:%=--with %) $(if $(APP),--initrd build/counted-app.cpio --smp $(SMP) \
	  --init $(APP_INIT) --args "$$ARGS",--initrd build/counted.cpio --spread $(SPREAD))

simulate: build build/counted.cpio $(PLUGIN) ## Simulate each scheme on up to 512 CPUs, from line traces of 4 to 64 virtual ones; goes on where it stopped
	$(Q)$(LAZULI) simulate --plugin $(PLUGIN) --kernel $(KERNEL) --initrd build/counted.cpio --cpu $(CPU) --memory 2G $(LAZY_TLB:%=--schemes "%")

FIXED := refcount shootdown

choice: build $(PLUGIN) ## Count what choosing the scheme at boot costs a switch, against kernels built for one scheme
	$(Q)$(foreach scheme,$(FIXED),LAZULI_FIXED_SCHEME=$(scheme) cargo kbuild $(CARGO_QUIET) --release --target-dir target/fixed/$(scheme) &&) true
	$(Q)$(LAZULI) choice --plugin $(PLUGIN) --kernel $(KERNEL) --initrd build/initramfs.cpio --cpu $(CPU) \
	  $(foreach scheme,$(FIXED),--fixed $(scheme)=$(KERNEL:target/%=target/fixed/$(scheme)/%))

fuzz: build ## Damage device trees, command lines, archives and programs for SECONDS= each, then make CALLS= random system calls
	$(Q)$(LAZULI) fuzz --kernel $(KERNEL) --initrd build/initramfs.cpio --memory $(MEM) --cpu $(CPU) \
	  $(SECONDS:%=--seconds %) $(CALLS:%=--calls %) $(SEED:%=--seed %)

READERS := command_line cpio device_tree elf

# Link-time optimisation drops what the recording of coverage refers to.
libfuzzer: setup ## Let coverage guide the damage to what the kernel reads, for SECONDS=60 each; needs nightly Rust and cargo-fuzz
	$(Q)command -v cargo-fuzz >/dev/null || { echo 'cargo-fuzz is missing; run: rustup toolchain install nightly && cargo install cargo-fuzz'; exit 1; }
	$(Q)$(foreach reader,$(READERS),echo '--- $(reader)' && mkdir -p target/fuzz/corpus/$(reader) && CARGO_PROFILE_RELEASE_LTO=off \
	  cargo +nightly fuzz run --fuzz-dir fuzz --target-dir target/fuzz --features libfuzzer $(reader) target/fuzz/corpus/$(reader) $(wildcard fuzz/corpus/$(reader)) \
	  -- -max_total_time=$(or $(SECONDS),60) -artifact_prefix=target/fuzz/$(reader)- -print_final_stats=1 &&) true

soak: build ## Boot random machines under a random mix of work for HOURS=, and look at memory and counters each minute
	$(Q)$(LAZULI) soak --kernel $(KERNEL) --initrd build/initramfs.cpio --memory $(MEM) --smp $(SMP) \
	  --hours $(HOURS) $(SEED:%=--seed %)

test: build ## Run all tests, on target in a pairwise choice of machines; BOARD= those of one, CELL= one boot, SANITIZE=tlb under the TLB sanitizer
	$(Q)sh tools/setup.sh busybox
	$(Q)cargo fbuild $(CARGO_QUIET)
	$(Q)$(LAZULI) size build/lazuli.img --max 512K
	$(Q)$(LAZULI) test $(if $(CELL),--cell $(CELL),$(if $(SANITIZE),,--host)) $(SANITIZER:%=--sanitize %) $(BOARD:%=--board %) $(FULL) --kernel $(KERNEL) --initrd build/initramfs.cpio \
	  --built $(PROGRAMS) --firmware target/$(TARGET)/release/firmware \
	  --chainload target/$(TARGET)/release/chainload $(SERIAL:%=--serial %) $(ON_CARD) \
	  $$(test -x build/busybox/busybox && echo --busybox build/busybox/busybox) $(TESTS:%=--program %)

scale: build ## Run the lazy TLB tests on 64 CPUs and every workload on 512, in a minute; with CELL= one boot
	$(Q)$(LAZULI) scale --kernel $(KERNEL) --initrd build/initramfs.cpio $(CELL:%=--cell %)

test-all: ## Run all tests on every number of CPUs, interrupt controller and scheme, and the short matrix
	$(Q)$(MAKE) --no-print-directory test FULL=--full
	$(Q)$(MAKE) --no-print-directory matrix QUICK=1

mutations: setup ## Break the mm layer in every known way and see which test notices
	$(Q)cargo run $(CARGO_QUIET) --package mm --example mutate

coverage: setup ## Count the lines of the mm layer that its tests run: 95 % at least
	$(Q)command -v cargo-llvm-cov >/dev/null || { echo 'cargo-llvm-cov is missing; run: cargo install cargo-llvm-cov && rustup component add llvm-tools'; exit 1; }
	$(Q)LAZULI_SEEDS=20 cargo llvm-cov --package mm --lib --test tables --test model --ignore-filename-regex 'mm/tests' \
	  --fail-under-lines 95

SHARD := 1/1

mutants: setup ## Break the mm layer in every way cargo-mutants knows, of what is committed; goes on where it stopped; SHARD=1/4 for a part
	$(Q)command -v cargo-mutants >/dev/null || { echo 'cargo-mutants is missing; run: cargo install cargo-mutants --version 27.1.0'; exit 1; }
	$(Q)$(LAZULI) mutants --shard $(SHARD)

litmus: setup ## Judge each ordering that the mm layer relies on by Arm's memory model, with and without its barriers
	$(Q)sh tools/setup.sh herd
	$(Q)$(LAZULI) litmus mm/litmus

# Each part of the proof of the mm layer, the quick ones first.
PROOF := contract worlds loom miri litmus mutations sanitizer-check

proof: setup ## Prove the mm layer: every part below, about 13 minutes
	$(Q)$(foreach part,$(PROOF),echo '--- $(part)' && $(MAKE) --no-print-directory $(part) &&) echo 'proven: $(PROOF)'

contract: build ## Check which operations each call of the mm layer issues, in order, on the model and in the built kernel
	$(Q)cargo test $(CARGO_QUIET) --package mm --test model contract
	$(Q)cargo test $(CARGO_QUIET) --package lazuli-tools --test sequences

worlds: setup ## Explore every interleaving of small worlds under every scheme, modifier and way to flush
	$(Q)LAZULI_WORLDS=all cargo test $(CARGO_QUIET) --package mm --test worlds -- --nocapture

loom: setup ## Check the protocols between CPUs on loom's atomics
	$(Q)RUSTFLAGS='--cfg loom' cargo test $(CARGO_QUIET) --package mm --lib --target-dir target/loom loom_tests

# Few cases of each property: an interpreter runs them. A test leaks the machine that it makes, on purpose.
miri: setup ## Run mm's unit tests in Miri, where a nightly toolchain has it
	$(Q)if cargo +nightly miri --version >/dev/null 2>&1; then \
	  RUST_BACKTRACE=0 MIRIFLAGS='-Zmiri-disable-isolation -Zmiri-permissive-provenance -Zmiri-ignore-leaks' \
	    cargo +nightly miri test $(CARGO_QUIET) --package mm --lib --target-dir target/miri; \
	else \
	  echo 'SKIPPED: no Miri here. rustup toolchain install nightly --component miri brings it'; \
	fi

overnight: setup ## Run random programs on random machines for HOURS=8, from another seed each time
	$(Q)LAZULI_SECONDS=$$(($(HOURS) * 3600)) LAZULI_FROM=$$(($$(date +%s) * 10000)) \
	  cargo test $(CARGO_QUIET) --package mm --test model random_programs -- --nocapture

sanitizer-check: build $(PLUGIN) ## Break the kernel in ways that QEMU does not show, and see that the TLB sanitizer does
	$(Q)$(LAZULI) sanitizer-check --plugin $(PLUGIN) --initrd build/initramfs.cpio

image: build/app.cpio ## Make build/lazuli-app.img: kernel, APP= and ARGS= as one bootable file; with BOARD=rpi4 its tree, too
	$(Q)$(LAZULI) image build/lazuli-app.img --kernel $(KERNEL) --initrd build/app.cpio \
	  $(if $(filter rpi4,$(BOARD)),--tree build/rpi4.dtb) \
	  --cmdline "$$CMDLINE $(LAZY_TLB:%=lazy_tlb=%) init=$(APP_INIT) -- $$ARGS"
	@echo 'build/lazuli-app.img; boot it: qemu-system-aarch64' \
	  '$(if $(filter rpi4,$(BOARD)),-M raspi4b,-M virt$(comma)gic-version=3 -cpu cortex-a72 -smp 4)' \
	  '-kernel build/lazuli-app.img -nographic -nic none'

# Files of a card: the kernel with the benchmark, or with APP= that program.
CARD = --kernel build/lazuli.img --initrd $(if $(APP),build/app.cpio,build/initramfs.cpio) --tree build/rpi4.dtb \
  --firmware $(if $(FIRMWARE),$(FIRMWARE),build/firmware/raspi) \
  --cmdline "heartbeat=on $$CMDLINE $(LAZY_TLB:%=lazy_tlb=%) init=$(if $(APP),$(APP_INIT),/bin/lazybench) -- $$ARGS"
PI_ONLY = @test -z "$(filter-out rpi4,$(BOARD))" || { echo 'there is such a thing for BOARD=rpi4 only'; exit 1; }

firmware: setup
	$(if $(FIRMWARE),,$(Q)sh tools/setup.sh firmware)

ifneq ($(SUITE),)
card: firmware ## Make build/lazuli-rpi4.img, a card image that boots the Raspberry Pi 4, with APP= that program, with SUITE= that test
	$(PI_ONLY)
	$(Q)$(MAKE) --no-print-directory test ON_CARD='--suite $(SUITE) --card build/lazuli-rpi4.img $(FIRMWARE:%=--boot-files %)' CELL=none
else
card: $(if $(APP),build/app.cpio,build) firmware
	$(PI_ONLY)
	$(Q)$(LAZULI) card build/lazuli-rpi4.img $(CARD)
endif

netboot: $(if $(APP),build/app.cpio,build) firmware ## Fill build/netboot, from which it boots over the network
	$(PI_ONLY)
	$(Q)$(LAZULI) netboot build/netboot $(CARD)

flash: ## Write build/lazuli-rpi4.img (after make card) to DEVICE=, a card in a reader, after asking
	$(Q)test -n "$(DEVICE)" || { echo 'name the whole disk: DEVICE=/dev/sdX'; exit 1; }
	$(Q)test -f build/lazuli-rpi4.img || { echo 'first: make card BOARD=rpi4'; exit 1; }
	$(Q)$(LAZULI) flash --device $(DEVICE) --image build/lazuli-rpi4.img

chainload: build firmware ## Make build/lazuli-rpi4.img a card whose kernel comes over the serial line, for make test-hw
	$(Q)cargo fbuild $(CARGO_QUIET)
	$(Q)$(LAZULI) image build/chainload.img --kernel target/$(TARGET)/release/chainload
	$(Q)$(LAZULI) card build/lazuli-rpi4.img --kernel build/chainload.img --tree build/rpi4.dtb \
	  --firmware $(if $(FIRMWARE),$(FIRMWARE),build/firmware/raspi)

test-hw: ## Run the tests on a Raspberry Pi 4 behind SERIAL=/dev/ttyUSB0: pushed to the card of make chainload, or the card's SUITE=
	$(Q)test -n "$(SERIAL)" || { echo 'name the serial port: SERIAL=/dev/ttyUSB0'; exit 1; }
	$(Q)$(MAKE) --no-print-directory test SERIAL=$(SERIAL) ON_CARD='$(SUITE:%=--suite %)' CELL=$(if $(CELL),$(CELL),rpi4)

build/app.cpio: build FORCE
	$(Q)test -n "$$APP" || { echo 'name the program: APP=path/to/static-elf'; exit 1; }
	$(Q)$(LAZULI) cpio build/app.cpio "$$APP=$(APP_INIT)" $(IN_BIN)

FORCE:

debug: $(if $(APP),build/app.cpio,build) ## Boot and wait for a debugger
	@echo "QEMU waits. In another terminal: gdb-multiarch $(KERNEL) -ex 'target remote :1234' -ex 'hbreak kernel_main'"
	$(Q)$(LAZULI) run --kernel $(KERNEL) --initrd $(if $(APP),build/app.cpio,build/initramfs.cpio) $(MACHINE) \
	  $(LAZY_TLB:%=--scheme %) --init $(if $(APP),$(APP_INIT),/bin/lazybench) --args "$$ARGS" -- -s -S

lint: setup ## Check format, clippy and rustdoc, all warnings denied
	$(Q)cargo fmt --all --check
	$(Q)cargo clippy $(CARGO_QUIET) --all-targets -- -D warnings
	$(Q)cargo kclippy $(CARGO_QUIET) -- -D warnings
	$(Q)cargo clippy $(CARGO_QUIET) --package chainload --package firmware --target $(TARGET) -- -D warnings
	$(Q)cargo kclippy $(CARGO_QUIET) --features fault-points -- -D warnings
	$(Q)cargo clippy $(CARGO_QUIET) --package lazuli-user --target aarch64-unknown-linux-musl --all-targets -- -D warnings
	$(Q)$(DOC)
	$(Q)$(DOC) --package lazuli --lib --target $(TARGET)
	$(Q)$(DOC) --package lazuli-user --lib --target aarch64-unknown-linux-musl
	$(Q)sh -n tools/setup.sh && bash -n .ci/run

clean: ## Remove all that was built
	$(Q)cargo clean $(CARGO_QUIET)
	$(Q)rm -rf build
