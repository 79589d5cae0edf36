# The commands of this repository. `make PYTHON=/path/to/python3 TARGET` chooses the interpreter that makes .venv.

.PHONY: help quickstart test test-all lint format clean

help:
	@echo 'make quickstart  train a small model on the Python standard library, make it an assistant (12 minutes at most on two cores)'
	@echo 'make test        run the tests, without the slow ones'
	@echo 'make test-all    run all tests, the slow ones too, on programs that are compiled as users have them'
	@echo 'make lint        check format and style, change nothing'
	@echo 'make format      put the code in format'
	@echo 'make clean       remove .venv and what tools left behind; runs/ stays'
	@echo
	@echo 'Each makes .venv first if it has to. PYTHON=/path/to/python3 chooses its interpreter (3.11 or newer).'

quickstart:
	@sh scripts/setup.sh
	@.venv/bin/python -m llm train --config configs/quickstart.py --workdir runs/quickstart
	@.venv/bin/python -m llm train --config configs/quickstart_sft.py --workdir runs/quickstart_sft
	@test -f runs/quickstart_sft/preferences.jsonl || .venv/bin/python -m llm rank --workdir runs/quickstart_sft \
		--prompts task:python_functions --reward.function llm.data.task_checks:sound \
		--reward.missing-eos-penalty 1 --max-prompts 200 --max-prompt-tokens 64 --max-new-tokens 96 \
		--temperature 0.8 --out runs/quickstart_sft/preferences.jsonl
	@.venv/bin/python -m llm train --config configs/quickstart_dpo.py --workdir runs/quickstart_dpo
	@.venv/bin/python -m experiments.assistant --prompts 32
	@echo "Open $$(pwd)/runs/quickstart/report.html"
	@echo "Talk with it: .venv/bin/python -m llm chat --workdir runs/quickstart_dpo"

test:
	@sh scripts/setup.sh test
	@.venv/bin/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all:
	@sh scripts/setup.sh test
	@GLASSBOX_OPTIMIZED_TESTS=1 .venv/bin/python -m pytest -n 2 --dist loadfile

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
