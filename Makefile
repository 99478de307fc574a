# make demo   sets everything up and runs the main job on real bone texture
# make test   sets everything up and runs every check
PYTHON ?= python3.11
VENV ?= .venv
DEMO ?= demo
READY = $(VENV)/.ready

.PHONY: demo test lint format clean

demo: $(READY)
	$(VENV)/bin/tomoscale demo $(DEMO)

test: lint
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup --max-worker-restart 0

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell tomoscale tests benchmarks examples README.md

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The constraints file keeps torch on a CPU build; qim3d is wanted for one example volume alone, not for what it needs.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps qim3d==1.5.3
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
