# make quickstart | test | check | docs: each first makes what it needs, an environment in .venv from requirements/cpu.txt.
PYTHON ?= python3
TORCH  := $(shell sed -n 's/^ *"torch==\(.*\)",/\1/p' pyproject.toml)
READY  := .venv/.ready
COMPILE = .venv/bin/uv pip compile --quiet --python-version 3.11 --no-annotate --no-header pyproject.toml

# Of what seldom runs (a GPU's tests, faults, benchmarks): does what it calls exist, and take what it is given?
CALLS_ONLY = --check-untyped-defs --allow-untyped-defs --allow-incomplete-defs --allow-subclassing-any --implicit-reexport \
  --no-warn-unused-ignores $(addprefix --disable-error-code=,arg-type assignment call-overload comparison-overlap dict-item func-returns-value \
  has-type import-untyped index misc operator override return-value type-arg type-var union-attr var-annotated)

LOCK = UV_FIND_LINKS="$$(.venv/bin/pip config get global.find-links 2>/dev/null)" $(COMPILE) --extra cpu --extra dev --extra docs \
       --override requirements/overrides.txt --no-emit-package torch -o requirements/cpu.txt

.PHONY: quickstart test chaos check docs lock gpu-resolves

quickstart: $(READY)
	@.venv/bin/python jobs/quickstart.py

# Fast ones on all cores first; then those with Ray, vLLM and DeepSpeed, which take all cores each; on a GPU by themselves, since
# DeepSpeed is for a CPU or for a GPU in the whole of a process.
test: $(READY)
	.venv/bin/python -m pytest tests/unit -n auto --dist worksteal
	.venv/bin/python -m pytest tests --ignore tests/unit --ignore tests/gpu
	.venv/bin/python -m pytest tests/gpu

# The faults that take too long for each change.
chaos: $(READY)
	.venv/bin/python -m pytest tests -m chaos
	.venv/bin/python -m tests.faults.random_killer

check: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy $(CALLS_ONLY) tests benchmarks

# The site, site/docs/index.html: needs no network, to be made or to be read. A link that leads nowhere is an error.
docs: $(READY)
	.venv/bin/sphinx-build -W --keep-going -E -q -c docs . site
	@echo site/docs/index.html

$(READY): pyproject.toml requirements/cpu.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("aft-ray needs Python 3.11 or newer, this is " + sys.version)'
	@$(PYTHON) -m venv .venv
	@echo "setup: torch $(TORCH), CPU build, from pip's own sources"
	@.venv/bin/pip install -qq --no-deps "torch==$(TORCH)+cpu" 2>/dev/null || { \
	  echo "setup: not there; by uv from PyTorch's CPU index" && \
	  .venv/bin/pip install -qq uv && \
	  .venv/bin/uv pip install --quiet --python .venv/bin/python --torch-backend cpu --no-deps "torch==$(TORCH)"; }
	@echo "setup: the rest of requirements/cpu.txt, about 2 GB, some minutes"
	@.venv/bin/pip install -qq --no-deps -r requirements/cpu.txt
	@.venv/bin/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

# After a change of pyproject.toml: write the lock file anew. torch is left out, the set-up takes its CPU build by itself.
lock:
	.venv/bin/pip install -qq uv
	$(LOCK) --torch-backend cpu || { echo "lock: PyTorch's index cannot be reached; with torch from pip's own sources" && $(LOCK); }

# Does the gpu extra still resolve to one set of versions? Installs nothing.
gpu-resolves:
	.venv/bin/pip install -qq uv
	$(COMPILE) --extra gpu | grep -E '^(torch|vllm|ray|deepspeed|transformers)=='
