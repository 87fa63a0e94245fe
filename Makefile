# ptv2: `make demo` shows what it does, `make test` is what a developer types.
#
# LIBTORCH   an own libtorch 2.11 folder, instead of target/libtorch
# CUDA=1     `make libtorch CUDA=1`, `make install CUDA=1`: torch's libraries for GPUs, too, 3 GB
# PREFIX     where `make install` puts things (default: /usr/local)
# PROFILE    what `make install` installs: release (default) or dev
# TASK DATA  `make demo TASK=cb DATA=/data/superglue`: the demo on real data
# KILLS SEED `make chaos KILLS=100 SEED=7`: fewer kills, and the same choice of faults
# MINUTES    `make churn MINUTES=3`: less churn
# WORKERS    of `make scale` (default 1000), each job at STEPS a second (10), calm for SECONDS (30)
# DEVICE     of `make gpu-test` (cuda:0, or cpu for what a processor can do); PYTHON has PyTorch 2.11.0; ONLY and COMPARE
#            run a part of it: see scripts/gpu-test.sh
# BENCH      options of tests/peers/bench.py, for example BENCH='--quick --only start'
PREFIX ?= /usr/local
PROFILE ?= release
export TASK DATA CUDA DEVICE PYTHON ONLY COMPARE

.PHONY: gpu-bundle gpu-test help demo test test-slurm test-stores seaweedfs test-attack bench-api bench-reduce deny test-peft chaos churn overhead bench quality scale venv venv-peft-0.12 lint unit e2e libtorch backbone backbone-mpnet build release install

help:
	@echo "make demo                     run the main job on this machine, from nothing (TASK=cb DATA=… on real data)"
	@echo "make test                     formatting, lints, unit and end-to-end tests"
	@echo "make test-attack              all attacks on a coordinator that trains, three minutes; target/attacks.md"
	@echo "make bench-api                status with 1,000 jobs and 100 followers; target/api.md"
	@echo "make bench-reduce             what a reduction costs: measured over TCP, modelled for networks; docs/scale.md"
	@echo "make deny                     licences and sources of the dependencies"
	@echo "make libtorch                 make target/libtorch from PyPI's wheels; with CUDA=1 for GPUs, too"
	@echo "make backbone                 fetch the demo's backbone into ~/.cache/ptv2"
	@echo "make backbone-mpnet           fetch all-mpnet-base-v2 besides, 418 MB"
	@echo "make test-slurm               the templates of configs/slurm in a Slurm of two nodes on this machine, as root"
	@echo "make test-stores              every fault of an S3 server, jobs on an Azure server; prints the table"
	@echo "make test-peft                adapters trained here and loaded by PEFT, and the reverse"
	@echo "make chaos KILLS=1000         kill, stop and cut off real processes, half an hour; target/chaos.txt"
	@echo "make churn MINUTES=10         what rate is left with a fault every 15 s, on a machine that is idle"
	@echo "make bench BENCH=…           measure against transformers and PEFT, on a machine that is idle"
	@echo "make quality DATA=…           learn SuperGLUE beside PEFT, hours; docs/quality.md"
	@echo "make overhead                 what resilience costs a step when nothing fails"
	@echo "make scale WORKERS=1000       a coordinator under as many simulated workers; see docs/scale.md"
	@echo "make gpu-bundle               pack what is checked on a machine with a GPU; target/gpu-bundle.tar.gz"
	@echo "make gpu-test                 check and measure on this machine's GPU; target/gpu-report.md"
	@echo "make install PREFIX=/opt/ptv2 put both programs and libtorch under PREFIX"

libtorch:
	@scripts/need.sh
	@[ -n "$$LIBTORCH" ] || scripts/libtorch.sh target/libtorch

backbone:
	@scripts/backbone.sh

# A model of base size, for runs that look at quality.
backbone-mpnet:
	@scripts/backbone.sh all-mpnet-base-v2

# A server of an object store, for tests.
seaweedfs:
	@scripts/seaweedfs.sh

demo: libtorch backbone release
	@scripts/demo.sh

release: libtorch
	cargo build --release --workspace --bins

install: libtorch
	@scripts/install.sh $(PROFILE) $(PREFIX)

# Each part says how long it took; the table stands at the end.
test:
	@rm -f target/times
	@scripts/timed.sh "set-up" $(MAKE) --no-print-directory libtorch backbone seaweedfs
	@scripts/timed.sh "build" $(MAKE) --no-print-directory build
	@scripts/timed.sh "lints" $(MAKE) --no-print-directory lint
	@scripts/timed.sh "unit tests" $(MAKE) --no-print-directory unit
	@scripts/timed.sh "end to end" $(MAKE) --no-print-directory e2e
	@cat target/times

# All with --workspace, and programs together with tests: another choice would be another choice of features of what they
# depend on, and build that anew.
build:
	cargo test --workspace --no-run
	cargo build --workspace --bins --tests
	cargo build --workspace --features ptv2-daemon/faults --bin ptv2d-faulty

lint:
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --package ptv2-daemon --no-default-features --all-targets -- -D warnings
	for cloud in aws azure gcp; do \
		cargo clippy --package ptv2-daemon --no-default-features --features $$cloud -- -D warnings || exit 1; \
	done

unit:
	cargo test --workspace -- --skip e2e::
	python3 -m unittest discover --quiet --start-directory tests/peers

e2e:
	cargo test --workspace -- e2e::

# One after the other: each measures memory and time. The short form is one of the end-to-end tests.
test-attack: libtorch
	cargo test --workspace -- --ignored --nocapture --test-threads 1 attack::

# With the release build, on a machine that is idle.
bench-api: release
	cargo test --release --package ptv2-tests status_beside_many_followers -- --ignored --nocapture

# On a machine that is idle; ROUNDS=3 is shorter. It needs no torch, so it is built without.
ROUNDS ?= 15
REDUCTION = cargo run --release --package ptv2-daemon --no-default-features --example reduction --
bench-reduce:
	$(REDUCTION) measure $(ROUNDS)
	$(REDUCTION) tables

# Licences, sources and unwanted crates of all dependencies.
deny:
	@scripts/deny.sh

# In a Slurm that is brought up for it, and taken down whatever happens. EVENTS='scancel' runs some of them.
test-slurm: libtorch backbone build
	@rm -f target/slurm.txt
	scripts/slurm-lab.sh run cargo test --workspace -- --ignored --test-threads 1 slurm::$(EVENTS)
	@printf '| event | what happened | how long |\n|---|---|---|\n'; cat target/slurm.txt

# Minutes; the short form of it is among the end-to-end tests.
test-stores: libtorch backbone seaweedfs
	@scripts/azurite.sh
	cargo test --workspace -- --ignored --nocapture --test-threads 1 stores::

# The short form of the first is one of the end-to-end tests.
chaos: libtorch
	KILLS=$(KILLS) SEED=$(SEED) cargo test --workspace -- --ignored --nocapture chaos::a_thousand_kills

# Hashes, votes, signs of life and metrics against the reduction alone.
overhead: libtorch
	cargo test --workspace -- --ignored --nocapture what_it_costs_when_nothing_fails

churn: libtorch
	MINUTES=$(MINUTES) SEED=$(SEED) cargo test --workspace -- --ignored --nocapture chaos::churn_leaves

# These need Python packages of their own (transformers, PEFT, torch), in folders outside the clone.
VENV ?= $(HOME)/.cache/ptv2/venv
VENV_PEFT_0_12 ?= $(HOME)/.cache/ptv2/venv-peft-0.12
venv:
	[ -x $(VENV)/bin/python ] || python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement tests/goldens/requirements.txt

venv-peft-0.12:
	[ -x $(VENV_PEFT_0_12)/bin/python ] || python3 -m venv $(VENV_PEFT_0_12)
	$(VENV_PEFT_0_12)/bin/pip install --quiet --requirement tests/goldens/requirements-peft-0.12.txt

# Trained here and loaded by both versions of PEFT; saved by both and trained on here.
test-peft: libtorch venv venv-peft-0.12
	rm -rf target/peft-check
	cargo test --workspace -- --ignored trained_adapters_for_peft
	for venv in $(VENV) $(VENV_PEFT_0_12); do \
		$$venv/bin/python tests/goldens/peft_check.py target/peft-check && \
		$$venv/bin/python tests/goldens/make_adapters.py target/peft-check/saved || exit 1; \
	done
	cargo test --workspace -- --ignored adapters_that_peft_has_just_saved

bench: libtorch backbone release venv
	cargo build --release --package ptv2-daemon --example step_without_torch
	$(VENV)/bin/python tests/peers/backbone.py
	python3 tests/peers/bench.py --python $(VENV)/bin/python $(BENCH)

# Takes hours; may be stopped and run again. PEFT refuses MPNet, which is noted.
QUALITY = python3 tests/peers/quality.py $(if $(DATA),--data $(DATA))
quality: libtorch backbone backbone-mpnet release venv
	$(QUALITY) run --who peft
	$(QUALITY) run --who ptv2
	$(QUALITY) run --who ptv2 --backbone mpnet
	$(QUALITY) run --who peft --backbone mpnet --tasks cb --seeds 11
	$(QUALITY) table

# The harness is built with optimization too: it shares the machine with what it measures.
scale: release
	PTV2_SCALE_WORKERS=$(WORKERS) PTV2_SCALE_STEPS=$(STEPS) PTV2_SCALE_SECONDS=$(SECONDS) \
	PTV2_SCALE_PROGRAM=$(CURDIR)/target/release/ptv2d \
	cargo test --release --package ptv2-tests scale:: -- --ignored --nocapture --test-threads 1

# Needs no GPU; PROFILE=dev packs what `make test` has built.
gpu-bundle: libtorch backbone
	@scripts/gpu-bundle.sh $(PROFILE)

# The bundle, where it was made. DEVICE=cpu runs what a processor can.
gpu-test: gpu-bundle
	@rm -rf target/ptv2-gpu && tar xf target/gpu-bundle.tar.gz -C target
	@REPORT=target/gpu-report.md target/ptv2-gpu/gpu-test.sh
