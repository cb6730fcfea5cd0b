# Everything a developer runs. `make` alone lists it.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python on the path that the project runs on; `make install PYTHON=/path/to/python3` decides it yourself.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; \
	done)

# Test processes; the tests of a file stay together, for they share what takes long to make.
WORKERS ?= 2

.PHONY: help install demo kafka stack stack-stop test lint format bench bench-kafka experiments trials image-test clean

help: ## say what there is
	@echo "make TARGET; every target installs into $(VENV) first, once"
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED) ## make .venv with everything: serving, training, Kafka, development

# Again only when pyproject.toml changes: the package is installed as an editable one.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 to 3.13 on the path; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing into $(VENV): PyTorch is large, this takes some minutes"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train,graphs,kafka,confluent,store,dev]'
	@touch $@

demo: install ## train, prune and serve a synthetic stream; ends with a table and demo/report.png (a minute or two)
	@$(BIN)/graphsieve demo --out demo

# On port 9092, or a free one where it is taken; `make kafka PORT=N` decides it yourself.
kafka: install ## an Apache Kafka broker in the foreground, its state in a temporary folder; needs Java and Maven
	@$(BIN)/python -P -m pipeline.broker $(if $(PORT),--port $(PORT))

# The usual ports, and free ones in place of those that are taken; everything that it writes lies in .stack.
stack: install ## a whole deployment of processes: Kafka, producer, two consumers, quality, Prometheus; needs Java and Maven
	@$(BIN)/python -P -m pipeline.stack start

stack-stop: install ## end it, and remove all that it wrote
	@$(BIN)/python -P -m pipeline.stack stop

# The loops are compiled beforehand, a minute: consumers that tests start would each do it, and be late.
test: lint ## lint, then the test suite; tests that need the real data skip where it is absent
	@$(BIN)/python -P -m consumers.warm
	@$(BIN)/pytest -m "not trial" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: install ## ruff, its formatter, mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install ## let ruff sort the imports and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install ## speed: run every bench that needs no broker, write docs/performance and its tables; twenty minutes
	@for name in core embedded load train recovery startup scale memory full; do \
		$(BIN)/graphsieve bench $$name --json --out docs/performance --page docs/performance.md || exit; \
	done

bench-kafka: install ## the benches next to a Kafka broker, likewise; needs Java and Maven; fifty minutes
	@for name in kafka kafka_handover kafka_soak; do \
		$(BIN)/graphsieve bench $$name --json --out docs/performance --page docs/performance.md || exit; \
	done

# In the order of what they cost; each goes on where it was stopped.
experiments: install ## accuracy: run every experiment, write docs/results and the tables of docs/results.md; hours
	@for name in detector baselines streams decay graphs; do \
		$(BIN)/graphsieve evaluate experiments/$$name.toml --out docs/results --page docs/results.md || exit; \
	done

trials: install ## what takes long, whole: kills, mutated messages, real data, ten million events
	@$(BIN)/pytest -m trial --capture=no --verbose

image-test: install ## build the serving image without Docker, and run it; Debian, root, buildah, debootstrap
	@GRAPHSIEVE=$(abspath $(BIN)/graphsieve) deploy/image-test

clean: ## remove what the other targets made, but for .venv
	rm -rf demo trials build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find consumers pipeline producers tests -name __pycache__ -type d -prune -exec rm -rf {} +
