# Each target works from a fresh clone: the environment is made when absent.
PYTHON ?= python3
# The oldest versions are tested on the oldest Python that is here.
PYTHON_OLDEST ?= $(shell python3.10 -c '' 2>/dev/null && echo python3.10 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
AUDIT := .venv-audit

.PHONY: quickstart test test-long test-slow test-lab test-oldest test-try try docs notebooks lint \
    audit release clean

quickstart: $(VENV)/installed
	$(BIN)/python train/main.py --flagfile=configs/quickstart.cfg

test: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile

# With `make test` all that the gate runs of tests/: models in every file, runs of every command.
test-long: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile -m 'long and not slow'

# Without npm's registry the test of the page `try.md` is skipped.
test-slow: notebooks $(VENV)/installed-docs $(VENV)/installed-try
	-$(MAKE) try
	$(BIN)/pytest -m slow tests lab/tests

test-lab: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile lab/tests

test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/pytest -n 2 --dist loadfile -m 'not slow'

docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

# What the page `try.md` loads, for the next `make docs`; see lab/try_page.py. Needs npm and its registry.
try: $(VENV)/installed
	$(BIN)/python -m lab.try_page

# The page in Debian's chromium, by Playwright.
test-try: $(VENV)/installed-docs $(VENV)/installed-try try
	$(BIN)/pytest -s -m slow lab/tests/test_try_page.py

# With NBMAKE=--overwrite their new outputs are kept.
NOTEBOOKS := docs/notebooks
notebooks: $(VENV)/installed-notebooks
	$(BIN)/pytest -q -n 2 --nbmake $(NBMAKE) $(NOTEBOOKS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Known vulnerabilities of what is installed, from osv.dev. Needs the network.
audit: $(VENV)/installed $(AUDIT)/installed
	$(AUDIT)/bin/pip-audit --vulnerability-service=osv --timeout=10 --progress-spinner=off --skip-editable \
	    --path=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# A commit, a tag, packages in dist/ and docs on the branch gh-pages, once the gate is green; see lab/release.py.
release: $(VENV)/installed-docs try
	$(BIN)/pip install --quiet build twine
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m lab.release $(VERSION)

# Of an environment and of what goes into it. uv takes a third of pip's time; where it fails, pip does it. What uv
# installs is compiled when it is first imported, which Python must then be allowed to keep.
unexport PYTHONDONTWRITEBYTECODE
install = { $(1)/bin/pip install --quiet uv && $(1)/bin/uv pip install --quiet --python=$(1)/bin/python $(2); } || \
    $(1)/bin/pip install --quiet $(2)

$(VENV)/installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV),-r requirements.txt)
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(call install,$(VENV),-e '.[docs]')
	touch $@

$(VENV)/installed-notebooks: $(VENV)/installed
	$(call install,$(VENV),-e '.[notebooks]')
	touch $@

$(VENV)/installed-try: $(VENV)/installed
	$(call install,$(VENV),'playwright>=1.45')
	touch $@

$(OLDEST)/installed: requirements-oldest.txt setup.py
	$(PYTHON_OLDEST) -m venv $(OLDEST)
	$(call install,$(OLDEST),-r requirements-oldest.txt)
	touch $@

$(AUDIT)/installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --retries=1 --timeout=10 pip-audit
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(AUDIT) runs build site *.egg-info .pytest_cache .ruff_cache
