# Set-up, demo and tests on a machine with Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := requirements.lock
STAMP  := $(VENV)/.installed

.PHONY: demo test lint lock clean
.DELETE_ON_ERROR:

demo: $(STAMP)  ## train both frameworks on drawn faces and compare them
	$(BIN)/python -m parity.compare --variant additional_layers

test: $(STAMP) lint  ## the whole suite
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# uv installs the lock in parallel and checks every hash; bytecode is compiled once, here, since
# importing TensorFlow without it takes twice as long.
$(STAMP): $(LOCK) pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --python $(BIN)/python --quiet --compile-bytecode --require-hashes -r $(LOCK)
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock:  ## resolve pyproject.toml anew; the file names versions and hashes, no registry
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --quiet --output-file $(LOCK)

clean:
	rm -rf $(VENV) runs
