# Each target works from a fresh clone: the environment is made when absent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow lint clean

quickstart: $(VENV)/installed
	$(BIN)/python train/main.py --flagfile=configs/quickstart.cfg

test: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/pytest -m slow

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) runs *.egg-info .pytest_cache .ruff_cache
