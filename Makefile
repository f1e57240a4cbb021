# Everything a fresh machine needs: `make report` shows what the library does, `make test` checks it, `make help` lists all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# pip is silent for minutes while it downloads and unpacks PyTorch, so a line every 15 seconds says how far it is. The
# waiting process holds no output open, and ends with pip.
install = (while sleep 15 >/dev/null 2>&1; do echo "  still installing: $$(du -sh $(VENV) 2>/dev/null | cut -f1) so far"; done) & \
	waiting=$$!; (test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)) && $(PIP) --editable $(PARTS); status=$$?; kill $$waiting; exit $$status

.DEFAULT_GOAL := report
.PHONY: help report test slow lint doctest docs bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

report: $(VENV)/.library ## train two networks on digits and write report.html (without a target as well)
	@echo "Training two networks and measuring every layer: about a minute"
	$(BIN)/neurocollapse report

# One process a core, each test on one thread; a file's tests stay together, because they share what they trained.
test: $(VENV)/.tests ## run the tests that take a few seconds each
	$(BIN)/pytest --numprocesses=auto --dist=loadfile

slow: $(VENV)/.tests ## run the tests that take longer
	$(BIN)/pytest -m slow --timeout=1800

doctest: $(VENV)/.tests ## run the examples in docstrings
	$(BIN)/pytest --doctest-modules --ignore-glob='*/*_callback.py' --pyargs neurocollapse.hooks neurocollapse

lint: $(VENV)/.tests ## check style and layout of the code
	$(BIN)/ruff check
	$(BIN)/ruff format --check

docs: $(VENV)/.docs ## build the documentation and print where it is
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "$(CURDIR)/docs/_build/html/index.html"

bench: $(VENV)/.library ## measure cost and accuracy
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py

# The library is installed in place, so that a change of its code needs no new install.
$(VENV)/.library: PARTS := .
$(VENV)/.library: setup.cfg pyproject.toml constraints.txt
	@echo "Installing the library and PyTorch into $(VENV), once: a few minutes on a slow line"
	@$(install)
	@touch $@

# Models of torchvision, timm and transformers are tested from their own packages.
$(VENV)/.tests: PARTS := '.[dev,vision,text,lightning]'
$(VENV)/.tests: $(VENV)/.library
	@echo "Installing what the tests need into $(VENV), once"
	@$(install)
	@touch $@

$(VENV)/.docs: PARTS := '.[docs]'
$(VENV)/.docs: $(VENV)/.library
	@echo "Installing what the documentation needs into $(VENV), once"
	@$(install)
	@touch $@

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) .ci-venv build dist docs/_build docs/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
