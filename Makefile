# The commands of this repository. `make PYTHON=/path/to/python3 TARGET` chooses the interpreter that makes .venv.

.PHONY: help quickstart test test-all lint format clean

help:
	@echo 'make quickstart  train a small model on the Python standard library and report (8 minutes at most on two cores)'
	@echo 'make test        run the tests, without the slow ones'
	@echo 'make test-all    run all tests'
	@echo 'make lint        check format and style, change nothing'
	@echo 'make format      put the code in format'
	@echo 'make clean       remove .venv and what tools left behind; runs/ stays'
	@echo
	@echo 'Each makes .venv first if it has to. PYTHON=/path/to/python3 chooses its interpreter (3.11 or newer).'

quickstart:
	@sh scripts/setup.sh
	@.venv/bin/python -m llm train --config configs/quickstart.py --workdir runs/quickstart
	@echo "Open $$(pwd)/runs/quickstart/report.html"

test:
	@sh scripts/setup.sh test
	@.venv/bin/python -m pytest -n 2 -m 'not slow'

test-all:
	@sh scripts/setup.sh test
	@.venv/bin/python -m pytest -n 2

lint:
	@sh scripts/setup.sh test
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m ruff check .

format:
	@sh scripts/setup.sh test
	@.venv/bin/python -m ruff check --fix .
	@.venv/bin/python -m ruff format .

clean:
	rm -rf .venv .ruff_cache .pytest_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
