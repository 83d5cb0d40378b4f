# The commands of the README. One profile and one selection of packages for all of them, since torch-sys takes minutes to
# compile and other packages would choose other features.

CARGO ?= cargo
PYTHON ?= python3
BUILDER ?= podman
PROGRAMS = $${CARGO_TARGET_DIR:-target}/release

.DEFAULT_GOAL := help
.PHONY: help setup libtorch test-tools build demo test test-setup dist image e2e-container e2e-kubernetes test-install e2e-slurm bench-slurm test-transformers test-energon bench-energon bench-training lint bench soak gpu-pack gpu-check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# JPEG files decode about three times as fast if nasm is installed before the build; `neva-run doctor` reports it.
setup: libtorch test-tools ## bring what building and testing need: libtorch, and tools that tests compare with

libtorch: ## bring libtorch into .libtorch/, or check the one that LIBTORCH names
	@command -v $(PYTHON) >/dev/null || { echo "setup: $(PYTHON) is missing: sudo apt-get install python3 python3-pip, or sudo dnf install python3-pip" >&2; exit 1; }
	@perl -MFindBin -MIPC::Cmd -e 1 2>/dev/null || { echo "setup: perl is missing, which builds OpenSSL: sudo apt-get install perl, or sudo dnf install perl" >&2; exit 1; }
	@$(PYTHON) engine/ffi/setup_libtorch.py

# TensorBoard reads our event files, an MLflow server takes our requests, and NVRTC compiles our kernels. Only tests need them.
test-tools: libtorch ## bring TensorBoard, an MLflow server and NVIDIA's NVRTC into the cache
	@$(PYTHON) -B engine/track/tests/python/setup.py
	@$(PYTHON) -B engine/kernels/tests/nvrtc/setup.py

# --examples changes no program, but has cargo choose the features that `cargo test` chooses: without it,
# demo and test would each compile the engine.
build: libtorch ## build the programs neva-run and neva-rank
	$(CARGO) build --release --workspace --bins --examples

demo: build ## train a small model on the photographs of examples/photos and ask it about three
	examples/photos/demo.sh

# One seed, so that the same sources give the same result; make soak looks further.
test: setup ## run all tests
	PROPTEST_RNG_SEED=1 $(CARGO) test --release --workspace --no-fail-fast

test-setup: ## test the set-up itself
	$(PYTHON) -B -m unittest discover --start-directory engine/ffi/tests_setup

# One tarball that runs from any folder, with its checksum.
dist: build ## pack neva-run, neva-rank and libtorch into a tarball, with completions, man pages, licences and an SBOM
	$(PYTHON) -B run/packaging/dist.py --programs $(PROGRAMS) --libtorch $${LIBTORCH:-.libtorch} --out target/dist

# From nothing: no image registry is needed. BUILDER=docker builds it with Docker.
image: dist ## build the image localhost/neva-run with podman
	$(PYTHON) -B run/packaging/root.py --tree target/dist/neva-run-*-linux --out target/image/root
	cp examples/container/Containerfile target/image
	$(BUILDER) build --tag localhost/neva-run target/image

# Installs podman, debootstrap and hadolint where they are missing.
e2e-container: build ## run the tests in real containers, of the image and of the tarball on an empty Debian; needs root and Debian
	tests/container/with-podman $(MAKE) --no-print-directory dist image
	RUST_TEST_THREADS=2 tests/container/with-podman tests/container/prepare $(CARGO) test --release --workspace --no-fail-fast --test container_contract --test container

# Not in .ci/run: cargo install selects one package, so that 69 of its 370 crates are compiled again with other features.
test-install: ## install the launcher alone with cargo, into a temporary folder
	run/packaging/tests/install.sh

# Most of the time is spent waiting, so more tests run at once than there are cores.
# Installs Slurm and sshd where they are missing. With NEVA_TEST_SLURM_HOST, the contract of executors is tested on a cluster of
# your own, without root: NEVA_TEST_SLURM_HOST=login NEVA_TEST_SLURM_FOLDER=/scratch/me make e2e-slurm
e2e-slurm: build ## run the tests on a real Slurm cluster and a real sshd, both started here; needs root and Debian
	RUST_TEST_THREADS=4 tests/slurm/with-servers $(CARGO) test --release --workspace --no-fail-fast --test slurm_contract $(if $(NEVA_TEST_SLURM_HOST),,--test slurm --test ssh)

bench-slurm: build ## print the time of submitting an experiment to a real Slurm, as a ratio to sbatch; needs root and Debian
	tests/slurm/with-servers $(CARGO) bench --workspace --bench slurm_submission

# Builds the servers out of Go modules, once: about 10 minutes; later runs find them in the cache. With NEVA_TEST_KUBECONFIG, the
# tests run on a cluster of your own, without root and without those that stop servers: docs/kubernetes.md.
e2e-kubernetes: build ## run the tests on a real Kubernetes cluster of two nodes, started here; needs root and Debian
	RUST_TEST_THREADS=4 tests/kubernetes/with-servers $(CARGO) test --release --workspace --no-fail-fast --test kubernetes_contract --test kubernetes $(if $(NEVA_TEST_KUBECONFIG),-- --skip own_servers::)

test-transformers: build ## load exports with transformers 4 and 5 and PEFT, which it installs into the cache (1.2 GB)
	$(PYTHON) -B tests/transformers/run.py

test-energon: build ## compare Energon datasets with megatron-energon, which it installs into the cache (1.2 GB)
	$(PYTHON) -B tests/energon/run.py

bench-energon: build ## print the speed of reading Energon datasets, as a ratio to megatron-energon
	$(PYTHON) -B tests/energon/run.py --speed

# One case takes about two minutes: make bench-training CASES=lora-bf16
bench-training: build ## print the speed of training, as a ratio to Hugging Face + PEFT, which it installs into the cache (1.2 GB)
	$(PYTHON) -B tests/transformers/run.py --speed $(CASES)

lint: libtorch ## check format, lints and documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) clippy --release --workspace --test slurm --test ssh --test slurm_contract --test container --test container_contract --test kubernetes --test kubernetes_contract --bench slurm_submission -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --release --workspace --no-deps

bench: ## run the benchmarks; each prints a table of measured values and the bounds that they must keep
	$(CARGO) bench --workspace --bench launch --bench slurm --bench images --bench record_files --bench conversations --bench packing --bench pipeline --bench overlap --bench save_stall --bench vision --bench recompute --bench contention --bench import --bench export --bench slurm_array --bench kubernetes
	$(MAKE) --no-print-directory bench-training

soak: build ## look for rare faults, for about 90 minutes: odd texts, random layouts, ranks killed, other CPUs' kernels, slow ends on Slurm, a lost node
	PROPTEST_CASES=2500000 $(CARGO) test --release --workspace --test config_properties panic
	NEVA_SOAK_LAYOUTS=1000 $(CARGO) test --release --workspace --test engine any_layout
	NEVA_SOAK_FP8=1 $(CARGO) test --release --workspace --test engine fp8::
	engine/tests/cpu_capabilities.sh # seven times the engine's tests, about 30 minutes on two quiet cores
	NEVA_SOAK_SLURM=1 tests/slurm/with-servers $(CARGO) test --release --workspace --test slurm states
	tests/kubernetes/with-servers $(CARGO) test --release --workspace --test kubernetes -- --ignored
	NEVA_SOAK_KILLS=100 NEVA_SOAK_FAULTS=100 $(CARGO) test --release --workspace --test end_to_end -- --nocapture faults killed

# What a machine with a GPU needs, below 60 MiB: carry target/gpu-check there and run its check.py.
gpu-pack: build ## pack programs and golden cases into target/gpu-check, for a machine with a GPU and without Rust
	$(PYTHON) -B engine/gpu_check/pack.py --programs $${CARGO_TARGET_DIR:-target}/release --out target/gpu-check

gpu-check: gpu-pack ## check this machine's GPU within 10 minutes: golden cases, kernels, FP8, NCCL, speed of 7B models
	$(PYTHON) -B target/gpu-check/check.py --results engine/GPU_RESULTS.md

clean: ## remove what was built and .libtorch/; fetched wheels stay in the cache
	$(CARGO) clean
	rm -rf .libtorch .libtorch.partial .libtorch.old
