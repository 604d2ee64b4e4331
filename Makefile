# Everything that a person types in this checkout. `make demo` and `make test` set themselves up from a fresh clone.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench prove format clean

demo: .venv/demo
	@PATH="$(CURDIR)/.tools/bin:$$PATH" $(BIN)/python -m tests.demo

test: .venv/dev
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(BIN)/pytest -n auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder -m "not prove" $(ARGS)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(BIN)/python -m benchmarks $(ARGS)

prove: .venv/dev
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(BIN)/pytest -m prove --timeout 3600 --proof=docs/proof $(ARGS)

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The demo's virtualenv has no torch: only the host installs that.
.venv/demo: pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup '.[embedded]'
	@touch $@

.venv/dev: pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup '.[embedded,jobs,dev]'
	@touch $@ .venv/demo

clean:
	rm -rf .venv .tools dist build
