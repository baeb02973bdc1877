# make demo and make test are the two commands of the README; each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test base check bench docs site package clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"chiasm needs Python 3.11 to 3.13; {sys.executable} is {v[0]}.{v[1]}. Run: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/test-packages torchvision==0.28.0 timm==1.0.31
	@touch $(STAMP)

demo: install
	$(BIN)/chiasm demo

# One process a core, each with one BLAS thread: several threads a process only wait for each other.
test: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8

# The base install as users get it, without an extra and so without PyTorch: another environment, any supported PYTHON.
BASE := .venv-base
BASE_TESTS := $(addprefix tests/test_,without_torch.py import.py demo.py media_image.py media_audio.py media_video.py searcher.py)

base:
	rm -rf $(BASE)
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt . beartype hypothesis pytest
	! $(BASE)/bin/python -c 'import torch' 2>/dev/null
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BASE)/bin/pytest -q $(BASE_TESTS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py tests/test_exports.py tests/test_import.py

bench: install
	$(BIN)/python -m benchmarks.install --write
	$(BIN)/python -m benchmarks.cold --write
	$(BIN)/python -m benchmarks.embed --write
	$(BIN)/python -m benchmarks.graphs --write
	$(BIN)/python -m benchmarks.transfer --write
	$(BIN)/python -m benchmarks.recognise --write
	$(BIN)/python -m benchmarks.few_shot --write
	$(BIN)/python -m benchmarks.source --write
	$(BIN)/python -m benchmarks.open_world --write
	$(BIN)/python -m benchmarks.probe --write
	$(BIN)/python -m benchmarks.passages --write
	$(BIN)/python -m benchmarks.align --write
	$(BIN)/python -m benchmarks.combination --write
	$(BIN)/python -m benchmarks.align_cost --write
	$(BIN)/python -m benchmarks.scores --write
	$(BIN)/python -m benchmarks.hybrid --write
	$(BIN)/python -m benchmarks.moments --write
	$(BIN)/python -m benchmarks.speech --write
	$(BIN)/python -m benchmarks.sounds --write
	$(BIN)/python -m benchmarks.serve --write
	$(BIN)/python -m benchmarks.page --write
	$(BIN)/python -m benchmarks.ship --write
	$(BIN)/python -m benchmarks.private --write
	$(BIN)/python -m benchmarks.federated --write
	$(BIN)/python -m benchmarks.sealed --write
	$(BIN)/python -m benchmarks.encrypted --write
	$(BIN)/python -m benchmarks.estimate --write
	$(BIN)/python -m benchmarks.compress --write
	$(BIN)/python -m benchmarks.vectors --write
	$(BIN)/python -m benchmarks.web --write
	$(BIN)/python -m benchmarks.robustness --write

docs: install
	$(BIN)/python -m typer chiasm.cli.commands utils docs --name chiasm --output docs/cli.md
	$(BIN)/python -c "from chiasm.serving.app import openapi_text; print(openapi_text(), end='')" > docs/openapi.json
	$(BIN)/python -c "from chiasm.cli.schemas import text; print(text(), end='')" > docs/schemas.json

# The site: warnings are errors, and the tutorials are executed. `mkdocs serve` shows it while it is written.
site: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 PYTHONWARNINGS='ignore:IProgress not found' OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/mkdocs build --strict

# What goes to PyPI, checked; and the Dockerfile.
package: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[release]'
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/hadolint Dockerfile

clean:
	rm -rf $(VENV) $(BASE) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
