# Two commands: `make demo` (base install, no torch: index the samples, answer three queries) and `make test`.
# Each sets up its own virtual environment and leaves it for the next time; nothing else has to be installed by hand.

PYTHON ?= python3
# Tests run in as many processes as there are cores; `make test PYTEST_ARGS="-k search"` runs a part.
PYTEST_ARGS ?= -n auto
TORCH := torch==2.13.0

VENV := .venv
TEST_VENV := .venv-test
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test clean python-is-new-enough

help:
	@echo "make demo   index samples/ with the embedded model and answer three queries"
	@echo "make test   lint, types, doctests and tests, with everything they need"
	@echo "make clean  remove what the two set up"

python-is-new-enough:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "diffembed needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); name another with: make PYTHON=python3.12" >&2; exit 1; }

# The stamp is older than pyproject.toml only when the dependencies may have changed; the install itself is editable,
# so that a change in src/ needs no new one.
$(VENV)/.installed: pyproject.toml | python-is-new-enough
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable .
	@touch $@

demo: $(VENV)/.installed
	@bash scripts/demo.sh $(VENV)/bin/diffembed

# torch comes first and pinned. The default index may give a build with GPU libraries (several GB): where a smaller
# download is wanted, point pip at an index of CPU builds (PIP_INDEX_URL or PIP_EXTRA_INDEX_URL) before the first run.
$(TEST_VENV)/.installed: pyproject.toml constraints-test.txt | python-is-new-enough
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install --quiet $(TORCH)
	$(TEST_VENV)/bin/python -m pip install --quiet --constraint constraints-test.txt --editable '.[test]'
	@touch $@

test: $(TEST_VENV)/.installed
	@echo "== ruff check" && $(TEST_VENV)/bin/ruff check .
	@echo "== ruff format" && $(TEST_VENV)/bin/ruff format --check .
	@echo "== mypy" && $(TEST_VENV)/bin/mypy --strict src
	@echo "== pytest" && OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(TEST_VENV)/bin/python -m pytest $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(TEST_VENV) .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
