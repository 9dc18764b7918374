# make quickstart | test | check: each first makes what it needs, an environment in .venv from requirements/cpu.txt.
PYTHON ?= python3
TORCH  := $(shell sed -n 's/^ *"torch==\(.*\)",/\1/p' pyproject.toml)
READY  := .venv/.ready

.PHONY: quickstart test check lock gpu-resolves clean

$(READY): pyproject.toml requirements/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit("aft-ray needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	@echo "setup: torch $(TORCH), CPU build, from pip's own sources"
	@.venv/bin/pip install -qq --no-deps "torch==$(TORCH)+cpu" 2>/dev/null || { \
	  echo "setup: not there; from PyTorch's CPU index, by uv"; \
	  .venv/bin/pip install -qq uv && \
	  .venv/bin/uv pip install --python .venv/bin/python --torch-backend cpu --no-deps "torch==$(TORCH)"; }
	@echo "setup: everything else, from requirements/cpu.txt (about 2 GB, some minutes)"
	.venv/bin/pip install -qq --no-deps -r requirements/cpu.txt
	.venv/bin/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@
