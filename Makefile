# Casebook's own tasks. What stands behind ## is shown by `make help`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait as much as they work: for leases that lapse, for processes that start. So there is room
# for twice as many as there are processors, of which a small machine has two. On a MongoDB that is
# given all would share it, and what one has fail there would fail for the others.
PROCESSES ?= $(if $(CASEBOOK_TEST_MONGODB_URL),1,4)
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
BENCH := $(VENV)/.bench
EMBEDDED := $(VENV)/.embedded
DATABASE := $(if $(CASEBOOK_MONGODB_URL),,$(EMBEDDED))
MUTATION := .venv-mutation
DOCS := .venv-docs
COMPILE := $(BIN)/uv pip compile --universal --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --quiet

.PHONY: help run demo test test-mongodb soak check bench figures mutants docs client lock clean

help: ## list what there is to make
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(RUN) $(DATABASE) ## serve on http://127.0.0.1:8000; the first time, install what that needs
	@$(BIN)/python -m scripts.serve

demo: $(RUN) $(DATABASE) ## load a desk to look at, from a small real log
	@$(BIN)/python -m scripts.demo

# Hundreds of processes are started, of which each is to find its code compiled, whatever is set here.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal

# On a MongoDB that is given only fault injection is left out, which is for one host.
test: $(DEV) $(EMBEDDED) ## run the tests, but for the longest
	@echo "Left out: fault injection and other tests that take long, which \`make soak\` runs."
	$(PYTEST) -m "$(if $(CASEBOOK_TEST_MONGODB_URL),not soak,not soak and not slow)"

CLUSTER ?= replica-set
CONTAINERS := docker compose --file compose.test.yaml --profile $(CLUSTER)

test-mongodb: ## run them on the MongoDB URL=mongodb://..., or on one in Docker (CLUSTER=sharded)
ifdef URL
	CASEBOOK_TEST_MONGODB_URL='$(URL)' $(MAKE) test
else
	$(CONTAINERS) run --rm tests-$(CLUSTER); passed=$$?; $(CONTAINERS) down --volumes; exit $$passed
endif

soak: $(DEV) $(EMBEDDED) ## run the longest: fault injection, planted bugs, work at size
	$(PYTEST) -m "soak or slow"

check: $(DEV) ## check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(BENCH) $(EMBEDDED) ## measure
	@$(BIN)/python -m scripts.bench all

figures: $(BENCH) $(EMBEDDED) ## take the pictures of the documents and measure their plots anew, for hours
	@$(BIN)/python -m scripts.testbed.screenshots
	@$(BIN)/python -m scripts.bench all --record

# In an environment of its own: it needs none of the other tools, and they need none of it.
mutants: $(MUTATION)/.done ## change the domain's code in a thousand ways, and see what the tests notice
	@$(MUTATION)/bin/mutmut run
	@$(MUTATION)/bin/mutmut results

# What fails it: a link or an anchor that leads nowhere, a page that is in no contents.
docs: $(DOCS)/.done ## build the site of docs/ into ./site
	@$(DOCS)/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env --quiet \
		--doctree-dir $(DOCS)/doctrees docs site
	@cp site/README.html site/index.html
	@echo "The site is in ./site: open site/index.html, which needs no server."

client: $(DEV) ## generate a typed Python client into ./client
	@$(BIN)/python -m scripts.openapi > openapi.json
	@PATH="$(CURDIR)/$(BIN):$$PATH" openapi-python-client generate --path openapi.json --output-path client --overwrite \
		--config scripts/client.yml

lock: $(DEV) ## compile requirements/ anew from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements/server.txt
	$(COMPILE) pyproject.toml --group build -o requirements/run.txt
	$(COMPILE) --group embedded --no-deps -o requirements/embedded.txt
	$(COMPILE) pyproject.toml --extra tracing -o requirements/tracing.txt
	$(COMPILE) pyproject.toml --group build --group bench -o requirements/bench.txt
	$(COMPILE) pyproject.toml --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --group mutation -o requirements/mutation.txt
	$(COMPILE) --group docs -o requirements/docs.txt

clean: ## remove what was made, but for the data
	rm -rf $(VENV) $(MUTATION) $(DOCS) mutants site client openapi.json

# --- environments ---

# make ends with this one line where Python cannot be used.
PYTHON_IS = $(shell $(PYTHON) -c 'import sys, importlib.util as u; print("Python %d.%d" % \
	sys.version_info[:2] if sys.version_info < (3, 11) else "fine" if u.find_spec("ensurepip") else \
	"without venv (Debian and Ubuntu have it in python3-venv)")' 2>/dev/null || echo "not there, or very old")
CHECK_PYTHON = $(if $(filter fine,$(PYTHON_IS)),,$(error $(PYTHON) is $(PYTHON_IS), and Python 3.11 or \
	later is needed: name one, as in `make run PYTHON=python3.13`))
INSTALL = @$(PYTHON) requirements/install.py
# The command `casebook` is that of this checkout. What installs it is in the requirements.
INSTALL_CASEBOOK = $(INSTALL) $(VENV) "the command casebook" --no-deps --no-build-isolation --editable .

# An environment whose Python is gone, as after an upgrade of the system, is made anew.
ifeq ($(realpath $(BIN)/python),)
$(shell rm -f $(RUN) $(DEV) $(BENCH) $(EMBEDDED))
endif

$(MUTATION)/.done $(DOCS)/.done: .venv-%/.done: requirements/%.txt
	$(CHECK_PYTHON)
	$(INSTALL) .venv-$* "what $* needs" --require-hashes -r $<
	@touch $@

$(RUN): requirements/run.txt pyproject.toml
	$(CHECK_PYTHON)
	$(INSTALL) $(VENV) "what Casebook needs" --require-hashes -r $<
	$(INSTALL_CASEBOOK)
	@touch $@

# The embedded database is a program, in wheels for Python up to 3.13, of which it needs nothing. So
# pip unpacks one, whichever Python this is; on Linux what is in bin/ would only call the program.
$(EMBEDDED): requirements/embedded.txt
	$(CHECK_PYTHON)
	$(INSTALL) $(VENV) "the embedded database" --require-hashes --no-deps --upgrade \
		--only-binary=:all: --python-version 3.13 --target $(VENV)/embedded -r $<
	@cd $(BIN) && ln -sf "$$(ls ../embedded/*/secantusd-rs | tail -n 1)" secantusd-rs
	@touch $@

$(BENCH): requirements/bench.txt pyproject.toml
	$(CHECK_PYTHON)
	$(INSTALL) $(VENV) "what benchmarks need" --require-hashes -r $<
	$(INSTALL_CASEBOOK)
	@touch $@ $(RUN)

$(DEV): requirements/dev.txt pyproject.toml
	$(CHECK_PYTHON)
	$(INSTALL) $(VENV) "what the tests need" --require-hashes -r $<
	$(INSTALL_CASEBOOK)
	@touch $@ $(RUN) $(BENCH)
