# Everything a fresh machine needs: `make report` shows what the library does, `make test` checks it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: report test slow lint doctest docs bench clean

report: $(VENV)/.library
	$(BIN)/neurocollapse report

# One process a core, each test on one thread; a file's tests stay together, because they share what they trained.
test: $(VENV)/.tests
	$(BIN)/pytest --numprocesses=auto --dist=loadfile

slow: $(VENV)/.tests
	$(BIN)/pytest -m slow --timeout=1800

doctest: $(VENV)/.tests
	$(BIN)/pytest --doctest-modules --ignore-glob='*/*_callback.py' --pyargs neurocollapse.hooks neurocollapse

lint: $(VENV)/.tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check

docs: $(VENV)/.docs
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "$(CURDIR)/docs/_build/html/index.html"

bench: $(VENV)/.library
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py

# The library is installed in place, so that a change of its code needs no new install.
$(VENV)/.library: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

# Models of torchvision, timm and transformers are tested from their own packages.
$(VENV)/.tests: $(VENV)/.library
	$(INSTALL) --editable '.[dev,vision,text,lightning]'
	touch $@

$(VENV)/.docs: $(VENV)/.library
	$(INSTALL) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .ci-venv build dist docs/_build docs/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
