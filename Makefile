# ptv2: `make demo` shows what it does, `make test` is what a developer types.
#
# LIBTORCH   an own libtorch 2.11 folder, instead of target/libtorch
# PREFIX     where `make install` puts things (default: /usr/local)
# PROFILE    what `make install` installs: release (default) or dev
# TASK DATA  `make demo TASK=cb DATA=/data/superglue`: the demo on real data
# BENCH      options of tests/peers/bench.py, for example BENCH='--quick --only start'
PREFIX ?= /usr/local
PROFILE ?= release
export TASK DATA

.PHONY: help demo test test-peft bench venv lint unit e2e libtorch backbone build release install

help:
	@echo "make demo                     run the main job on this machine, from nothing (TASK=cb DATA=… on real data)"
	@echo "make test                     formatting, lints, unit and end-to-end tests"
	@echo "make libtorch                 make target/libtorch from PyPI's wheels"
	@echo "make backbone                 fetch the demo's backbone into ~/.cache/ptv2"
	@echo "make test-peft                an adapter trained here, loaded by PEFT"
	@echo "make bench BENCH=…           measure against transformers and PEFT, on a machine that is idle"
	@echo "make install PREFIX=/opt/ptv2 put both programs and libtorch under PREFIX"

libtorch:
	@scripts/need.sh
	@[ -n "$$LIBTORCH" ] || scripts/libtorch.sh target/libtorch

backbone:
	@scripts/backbone.sh

demo: libtorch backbone release
	@scripts/demo.sh

release: libtorch
	cargo build --release --workspace --bins

install: libtorch
	@scripts/install.sh $(PROFILE) $(PREFIX)

# Each part says how long it took; the table stands at the end.
test:
	@rm -f target/times
	@scripts/timed.sh "set-up" $(MAKE) --no-print-directory libtorch backbone
	@scripts/timed.sh "build" $(MAKE) --no-print-directory build
	@scripts/timed.sh "lints" $(MAKE) --no-print-directory lint
	@scripts/timed.sh "unit tests" $(MAKE) --no-print-directory unit
	@scripts/timed.sh "end to end" $(MAKE) --no-print-directory e2e
	@cat target/times

# All with --workspace: another choice of packages would be another choice of features, and build anew.
build:
	cargo test --workspace --no-run
	cargo build --workspace --bins
	cargo build --workspace --features ptv2-daemon/dropout-keyed-by-rank --bin ptv2d-keyed-by-rank

lint:
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --package ptv2-daemon --no-default-features --all-targets -- -D warnings

unit:
	cargo test --workspace -- --skip e2e::
	python3 -m unittest discover --quiet --start-directory tests/peers

e2e:
	cargo test --workspace -- e2e::

# These need Python packages of their own (transformers, PEFT, torch), in a folder outside the clone.
VENV ?= $(HOME)/.cache/ptv2/venv
venv:
	[ -x $(VENV)/bin/python ] || python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement tests/goldens/requirements.txt

test-peft: libtorch venv
	cargo test --workspace -- --ignored a_pulled_adapter_for_peft
	$(VENV)/bin/python tests/goldens/peft_check.py target/peft-check

bench: libtorch backbone release venv
	cargo build --release --package ptv2-daemon --example step_without_torch
	$(VENV)/bin/python tests/peers/backbone.py
	python3 tests/peers/bench.py --python $(VENV)/bin/python $(BENCH)
