# Nyx needs Rust, a C compiler and python3 with pip. The targets install everything else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# settings can come from the environment: NYX__HTTP__PORT=9090 make run
.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

.PHONY: run
run: c-compiler ## Download the models, build, and serve on 127.0.0.1:8080
	cargo build --release --locked
	cargo run --release --locked -- fetch
	exec cargo run --release --locked -- serve

.PHONY: test
test: deps models lint ## Check format and clippy, and run all tests, on SQLite and PostgreSQL
	cargo test --workspace --locked

.PHONY: build
build: c-compiler ## Build the release binary, target/release/nyx
	cargo build --release --locked

.PHONY: models
models: c-compiler ## Download the models into $$NYX_MODELS, or ~/.cache/nyx/models
	cargo run --locked -- fetch

.PHONY: lint
lint: c-compiler ## Check words, format and clippy, warnings denied
	scripts/check-words
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p nyx-engine --features bench --bench kernels --locked -- -D warnings

ROUNDS ?= $(if $(QUICK),2,5)
EACH_KERNEL := $(if $(QUICK),--warm-up-time 0.1 --measurement-time 0.2 --sample-size 10,--warm-up-time 0.3 --measurement-time 1 --sample-size 20)

.PHONY: bench
bench: build ## Measure the kernels, then the engine against llama.cpp's server (QUICK=1: fewer rounds)
	cargo bench --locked -p nyx-engine --features bench --bench kernels -- $(EACH_KERNEL)
	model="$$(cargo run --release --locked -q -- fetch | sed -n '1s/.*, at //p')"; \
	llama="$$(scripts/llama-server | tail -n 1)" || { echo "llama.cpp could not be built: see above" >&2; llama=; }; \
	cargo run --release --locked -p nyx-engine --example bench -- "$$model" $(ROUNDS) $${llama:+"$$llama"}

EVALS ?= $(or $(NYX_EVALS),../shared/trials)

.PHONY: eval
eval: build ## Evaluate each specialist on the data sets in $$EVALS (SPLIT=dev)
	cargo run --release --locked -q -- fetch
	cargo run --release --locked -q -- eval --evals "$(EVALS)" --split "$(or $(SPLIT),dev)" --adapter none --out target/eval

.PHONY: reproduce
reproduce: build ## Train and gate on the data sets in $$EVALS: target/reproduce/report.json (PEFT=1: first compare the trainer with PyTorch and PEFT; later runs keep that report)
	cargo run --release --locked -q -- fetch
	@mkdir -p target/reproduce
	if [ -n "$(PEFT)" ]; then \
	  python="$$(scripts/peft-python | tail -n 1)"; model="$$(cargo run --release --locked -q -- fetch | sed -n '1s/.*, at //p')"; \
	  cargo run --release --locked -q -- --data-dir target/reproduce/data train eleos --evals "$(EVALS)" --objective sft --examples-to target/reproduce/examples.json; \
	  cargo run --release --locked -q -p nyx-engine --example peft -- "$$model" target/reproduce/examples.json target/reproduce/peft "$$python" scripts/peft-train $(or $(STEPS),50); \
	fi
	cargo run --release --locked -q -- --data-dir target/reproduce/data eval reproduce --evals "$(EVALS)" --out target/reproduce \
	  $$(test ! -f target/reproduce/peft/peft.json || echo --peft target/reproduce/peft/peft.json)

.PHONY: accuracy
accuracy: build ## Compare the kernels with the same weights in f32, on the data sets in $$EVALS
	model="$$(cargo run --release --locked -q -- fetch | sed -n '1s/.*, at //p')"; \
	cargo run --release --locked -p nyx-engine --example accuracy -- "$$model" "$(EVALS)" LICENSE

.PHONY: check-cuda
check-cuda: c-compiler ## Compile with CUDA and NCCL without a GPU, with nvcc from pip (LINK=1: link the engine's tests too)
	LINK="$(LINK)" scripts/check-cuda

.PHONY: check-arm
check-arm: c-compiler ## Compile the CPU kernels for 64-bit Arm, with Debian's packages (RUN=1: run their tests in QEMU)
	RUN="$(RUN)" scripts/check-arm

# without NCCL: FEATURES=cuda
FEATURES ?= nccl

.PHONY: test-cuda
test-cuda: models ## Run the GPU tests; needs a GPU, the CUDA toolkit and NCCL
	@nvidia-smi -L || { echo "no NVIDIA GPU here: make check-cuda needs none" >&2; exit 1; }
	cargo test --locked --package nyx-engine --features "$(FEATURES)" --lib -- --nocapture device comm

.PHONY: doctor
doctor: c-compiler ## Check this machine and print what to fix
	cargo run --locked -- doctor

.PHONY: deps
deps: c-compiler ## Install the PostgreSQL server that the tests start
	@scripts/install-postgres

.PHONY: c-compiler
c-compiler:
	@command -v "$${CC:-cc}" >/dev/null || { echo "no C compiler: install one (apt-get install build-essential), or set CC" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "no cargo: install Rust from https://rustup.rs" >&2; exit 1; }
