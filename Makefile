# Every target makes its own .venv and installs what it needs: python3 and make are enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench coverage docs clean

help:
	@echo "make demo    train, prune, verify and compile a small network; shows one table and one picture"
	@echo "make test    run the tests"
	@echo "make lint    ruff, the import border, mypy"
	@echo "make bench   speed against Torch-Pruning, accuracy on CIFAR-10, latency (hours); writes docs/benchmarks/"
	@echo "make coverage   prune and prove 256 models of torchvision, timm and Hugging Face; writes docs/coverage.md"
	@echo "make docs    build the documentation as a site into build/site; works from the disk"
	@echo "make clean   remove .venv and everything else that was made"

demo: $(STAMP)
	$(BIN)/graphprune demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/staircase.py
	$(BIN)/python benchmarks/x86_latency.py
	$(BIN)/python benchmarks/cifar.py
	$(BIN)/python benchmarks/scaling.py

coverage: $(STAMP)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[coverage]'
	$(BIN)/python benchmarks/coverage.py

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

clean:
	rm -rf .venv build dist *.egg-info graphprune-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# "link" brings the linker of ziglang, for machines without a C++ compiler and for ARM; "cuda" the compiler for NVIDIA GPUs.
EXTRAS := demo,test,lint,bench,docs,link,cuda,ray

# torchvision is for tests and benchmarks only, and only its models: without its dependencies, which pin a torch.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "GraphPrune needs Python 3.10 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "This Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps torchvision
	@touch $@
