# One cargo profile for everything: gRPC's C core takes 12 minutes on two cores, and
# each profile would build it again. Plain `cargo build` is such another.
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
BIN := $(CARGO_TARGET_DIR)/release
CARGO := cargo

.PHONY: all build run test test-nri test-vm test-newcomer bench lint deps clean

# The programs, in this folder too, so that `make all && ./eventlog-server` works.
all: build
	cp -f $(BIN)/eventlog-server $(BIN)/eventlog-nri $(BIN)/eventlogctl .

build: deps
	$(CARGO) build --release --locked

# Starts the server on a private socket, asks it for five events and shows them.
run: build
	tests/demo/run $(BIN) $(CARGO_TARGET_DIR)/run

# All tests that need no virtual machine. What a machine lacks for some of them (Go,
# Python's venv, systemd's tools) is said where they are skipped.
test: build
	$(CARGO) test --release --locked
	tests/clients/run $(BIN) tests/data/tdx-guest.ccel.bin tests/data/vm-debian13.tpm.bin

# The plugin on NRI's own code, and with the server on real containerds; needs Go, and
# root for containerd.
test-nri: build
	tests/nri/run $(BIN)
	tests/nri/containerd $(BIN)

# The units and the real kernel files in a Debian 13 guest; needs root.
test-vm: build
	tests/vm/run $(BIN)

# `make run` and `make test` in a bare Debian 12 and 13; needs root and an hour.
test-newcomer:
	tests/newcomer/run bookworm
	tests/newcomer/run trixie

bench: build
	$(CARGO) bench --locked

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings

# A C++ compiler and cmake, for gRPC's C core.
deps:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: see https://rustup.rs"; exit 1; }
	@if ! command -v cmake >/dev/null || ! command -v c++ >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update && apt-get install -y --no-install-recommends cmake g++ make; \
		else \
			echo "cmake and a C++ compiler are missing. On Debian, type:"; \
			echo "  sudo apt-get install cmake g++ make"; \
			exit 1; \
		fi; \
	fi

clean:
	$(CARGO) clean
	rm -f eventlog-server eventlog-nri eventlogctl
