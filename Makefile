# Every command of the house. Each one sets up what it needs, on a machine that has only Python
# 3.11 and make. One environment per role, under .venv/:
#
#   serve-cpu, serve-gpu   what `make serve` runs: no torch, one onnxruntime
#   serve-test             the same as serve-cpu, and pytest: proves that the service needs no torch
#   train                  everything but the GPU runtime: trains, exports, lints, runs all tests
#   scale                  serve-test and what runs or checks many servers: Ray, Kubernetes' schemas
#
# EXTRA=gpu      serve on an NVIDIA GPU (CUDA 13)
# ARGS=...       more arguments for the served, tested or linted command
# PIP_ARGS=...   more arguments for pip, such as an index with a smaller build of torch
# PYTHON=...     the interpreter that the environments are made with
# ENGINE=...     docker or podman, for images and test-containers; else the one that works here
# BUILD_ARGS=... more arguments for its build

EXTRA ?= cpu
ifndef PYTHON
PYTHON := $(shell for name in python3.11 python3; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$name" && break; done)
endif
# A docker that answers by itself; through DOCKER_HOST it may be podman, whose own build is better.
ENGINE ?= $(shell env -u DOCKER_HOST docker info >/dev/null 2>&1 && echo docker \
	|| { podman info >/dev/null 2>&1 && echo podman; })
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Tests of a group never run at the same time; a worker takes one thread. Those with torch compute;
# those of servers wait for half of their time.
PARALLEL := --dist loadgroup --numprocesses
BENCH ?= training_step validation_memory export_overhead rotations_input server decode_video \
	decode_volume

ifeq ($(filter $(EXTRA),cpu gpu),)
$(error EXTRA is cpu or gpu, got '$(EXTRA)')
endif

ENVIRONMENTS := serve-cpu serve-gpu serve-test train scale
STAMPS := $(ENVIRONMENTS:%=.venv/%/.installed)
TRAIN := .venv/train/bin/python
SERVE := .venv/serve-$(EXTRA)/bin/python
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TORCH := $(shell sed -n 's/^torch==[^ ]*/&/p' constraints.txt)

extras.serve-cpu := serve,cpu
extras.serve-gpu := serve,gpu
extras.serve-test := serve,cpu,dev
extras.train := serve,cpu,train,export,dev
extras.scale := serve,cpu,scale,dev

# What must not be there after the install, whatever asked for it.
absent.serve-cpu := torch onnx onnxruntime-gpu
absent.serve-gpu := torch onnx onnxruntime
absent.serve-test := torch onnx onnxruntime-gpu
absent.train := onnxruntime-gpu
absent.scale := torch onnx onnxruntime-gpu

.DEFAULT_GOAL := help
.PHONY: help serve test lint bench serve-env train-env triton-env images test-containers container-engine clean
.PHONY: soak soak-training test-gpu-libs test-scale $(ENVIRONMENTS:%=.venv/%)
.NOTPARALLEL:  # two installs of one checkout would share a build folder
.DELETE_ON_ERROR:

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' Makefile

serve: serve-env  ## serve bundles/ on http://127.0.0.1:8000 (EXTRA=gpu for a GPU)
	$(SERVE) -m service --bundles bundles $(ARGS)

test: .venv/train .venv/serve-test  ## run every test: what needs torch where it is, the rest without
	$(TRAIN) -m pytest --torch=present $(PARALLEL) $(CORES) $(ARGS)
	.venv/serve-test/bin/python -m pytest --torch=absent $(PARALLEL) $$((2 * $(CORES))) $(ARGS)

lint: train-env  ## ruff, mypy and the rooms' import rules
	$(TRAIN) -m ruff check .
	$(TRAIN) -m mypy
	.venv/train/bin/lint-imports

bench: train-env  ## run most of benchmarks/, each ends with one JSON line (BENCH=server for one)
	@set -e; for name in $(BENCH); do \
		echo "== $$name"; $(TRAIN) -m benchmarks.$$name $(ARGS); done

soak: train-env  ## hours: every figure of the server under load, and whether it is reached (ARGS=--list)
	$(TRAIN) -m benchmarks.serving.soak $(ARGS)

soak-training: train-env  ## kill training runs 50 times and more: each must end as if never killed
	$(TRAIN) -m benchmarks.kill_training $(ARGS)

serve-env: .venv/serve-$(EXTRA)  ## only set up what serve needs

train-env: .venv/train  ## only set up what training, export, lint and bench need

triton-env: .venv/tritonclient/.installed  ## the environment of the tests with NVIDIA's client: its pins are not ours

images: container-engine  ## build the container images liere-serve, liere-train and liere-proxy
	$(call build,serve,liere-serve$(if $(filter gpu,$(EXTRA)),-gpu))
	$(call build,train,liere-train)
	$(call build,proxy,liere-proxy)

test-containers: images .venv/serve-test  ## build the images and run them, as docs/containers.md and docs/dashboards.md say
	CONTAINER_ENGINE=$(ENGINE) .venv/serve-test/bin/python -m pytest -v $(ARGS) \
		tests/house/test_containers.py tests/house/test_containers_retrain.py \
		tests/house/test_containers_dashboards.py

test-scale: .venv/scale  ## run the tests of deploy/ray and deploy/kubernetes (Ray here, Kubernetes nowhere)
	.venv/scale/bin/python -m pytest --torch=absent tests/scale $(ARGS)

test-gpu-libs: .venv/serve-gpu  ## install the GPU environment (gigabytes) and load all of CUDA but its driver
	.venv/serve-gpu/bin/python -m tests.house.gpu_libraries

container-engine:  # fails, with the reason, where no image can be built
	@test -n "$(ENGINE)" || { echo 'no container engine: neither docker nor podman works here' >&2; \
		exit 1; }
	@$(ENGINE) image inspect debian:bookworm-slim >/dev/null 2>&1 \
		|| $(ENGINE) pull debian:bookworm-slim >/dev/null 2>&1 \
		|| { echo '$(ENGINE) finds no image debian:bookworm-slim, here or in a registry' >&2; exit 1; }

clean:  ## remove the environments and caches; bundles and runs stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments ----------------------------------------------------------------------------

$(ENVIRONMENTS:%=.venv/%): .venv/%: .venv/%/.installed

$(STAMPS): .venv/%/.installed: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'Python 3.11 or newer is needed: found "$(PYTHON)";' \
			'name one with make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Setting up .venv/$* (minutes the first time)'
	"$(PYTHON)" -m venv .venv/$*
	$(if $(findstring train,$(extras.$*)),$(call pip,$*) $(TORCH))
	$(call pip,$*) '.[$(extras.$*)]'
	@rm -rf build *.egg-info
	@.venv/$*/bin/python -m pip check --disable-pip-version-check
	@.venv/$*/bin/python -I -c "$$ASSERT_ABSENT" $(absent.$*)
	@touch $@

.venv/tritonclient/.installed: tests/http/tritonclient.txt
	"$(PYTHON)" -m venv .venv/tritonclient
	.venv/tritonclient/bin/python -m pip install --disable-pip-version-check --no-deps $(PIP_ARGS) -r $<
	@.venv/tritonclient/bin/python -m pip check --disable-pip-version-check
	@touch $@

pip = .venv/$(1)/bin/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

# The stamp is not written when this fails: the next make starts over.
define ASSERT_ABSENT
import importlib.metadata, importlib.util, sys
installed = {found.metadata["Name"].lower() for found in importlib.metadata.distributions()}
if importlib.util.find_spec("torch"):
    installed.add("torch")
if wrong := installed & set(sys.argv[1:]):
    sys.exit(f"{sys.prefix} must not hold {', '.join(wrong)}: find out what asks for it, make clean")
endef
export ASSERT_ABSENT

# --- images ----------------------------------------------------------------------------------

# Inside, pip looks where the caller's pip looks: at its indexes and in its folders of wheels, which
# podman can mount while it builds and docker cannot. Podman's own format knows no health check.
WHEELS = $(if $(filter podman,$(ENGINE)),$(wildcard $(PIP_FIND_LINKS)))
PIP_SOURCES = $(PIP_INDEX_URL:%=--index-url %) $(PIP_EXTRA_INDEX_URL:%=--extra-index-url %) \
	$(WHEELS:%=--find-links %)

build = $(ENGINE) build $(if $(filter podman,$(ENGINE)),--format docker) \
	$(foreach path,$(WHEELS),--volume $(path):$(path):ro) --build-arg EXTRA=$(EXTRA) \
	--build-arg PIP_ARGS='$(strip $(PIP_SOURCES) $(PIP_ARGS))' $(BUILD_ARGS) \
	--label org.opencontainers.image.version=$(VERSION) \
	--target $(1) --tag $(2):$(VERSION) --tag $(2):latest .
