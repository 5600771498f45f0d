# make run    serve on http://127.0.0.1:8000, with a database of its own unless told otherwise
# make demo   load a small real log into it, and say what to try
# make test   run the tests, but for fault injection
# make test-mongodb URL=mongodb://...   the same on a MongoDB of yours; without URL, on one that Docker
#             runs, of three members or, with CLUSTER=sharded, of two shards
# make soak   run fault injection: processes and databases killed, frozen and cut off, for minutes
# make check  formatting, lint, types
# make bench  measure
# make figures  take the documents' pictures and measure their plots anew, for hours
# make mutants  change the domain's code in a thousand ways, and see which the tests notice
# make docs   build the site of docs/ into ./site
# make client  generate a typed Python client into ./client, from the OpenAPI document
# make lock   compile the requirements anew from pyproject.toml

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
MUTATION := .venv-mutation
DOCS := .venv-docs
COMPILE := $(BIN)/uv pip compile --universal --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --quiet

.PHONY: run demo test test-mongodb soak check bench figures mutants docs client lock clean

run: $(RUN) $(EMBEDDED)
	@$(BIN)/python -m scripts.serve

demo: $(RUN) $(EMBEDDED)
	@$(BIN)/python -m scripts.demo

# Hundreds of processes are started, of which each is to find its code compiled, whatever is set here.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal

test: $(DEV) $(EMBEDDED)
	@echo "Left out, because they take long: tests of fault injection, which \`make soak\` runs."
	$(PYTEST) -m "not soak"

CLUSTER ?= replica-set
CONTAINERS := docker compose --file compose.test.yaml --profile $(CLUSTER)

test-mongodb:
ifdef URL
	CASEBOOK_TEST_MONGODB_URL='$(URL)' $(MAKE) test
else
	$(CONTAINERS) run --rm tests-$(CLUSTER); passed=$$?; $(CONTAINERS) down --volumes; exit $$passed
endif

soak: $(DEV) $(EMBEDDED)
	$(PYTEST) -m soak

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(BENCH) $(EMBEDDED)
	@$(BIN)/python -m scripts.bench all

figures: $(BENCH) $(EMBEDDED)
	@$(BIN)/python -m scripts.testbed.screenshots
	@$(BIN)/python -m scripts.bench all --record

# In an environment of its own: it needs none of the other tools, and they need none of it.
mutants: $(MUTATION)/.done
	@$(MUTATION)/bin/mutmut run
	@$(MUTATION)/bin/mutmut results

# What fails it: a link or an anchor that leads nowhere, a page that is in no contents.
docs: $(DOCS)/.done
	@$(DOCS)/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env --quiet \
		--doctree-dir $(DOCS)/doctrees docs site
	@cp site/README.html site/index.html
	@echo "The site is in ./site: open site/index.html, which needs no server."

client: $(DEV)
	@$(BIN)/python -m scripts.openapi > openapi.json
	@PATH="$(CURDIR)/$(BIN):$$PATH" openapi-python-client generate --path openapi.json --output-path client --overwrite \
		--config scripts/client.yml

lock: $(DEV)
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements/server.txt
	$(COMPILE) pyproject.toml --group build -o requirements/run.txt
	$(COMPILE) --group embedded --no-deps -o requirements/embedded.txt
	$(COMPILE) pyproject.toml --extra tracing -o requirements/tracing.txt
	$(COMPILE) pyproject.toml --group build --group bench -o requirements/bench.txt
	$(COMPILE) pyproject.toml --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --group mutation -o requirements/mutation.txt
	$(COMPILE) --group docs -o requirements/docs.txt

clean:
	rm -rf $(VENV) $(MUTATION) $(DOCS) mutants site client openapi.json

$(MUTATION)/.done $(DOCS)/.done: .venv-%/.done: requirements/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The command `casebook` is that of this checkout. What installs it is in the requirements.
INSTALL_CASEBOOK := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	--no-build-isolation --editable .

$(RUN): requirements/run.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@$(INSTALL_CASEBOOK)
	@touch $@

# The embedded database is a program, in wheels for Python up to 3.13, of which it needs nothing. So
# pip unpacks one, whichever Python this is; on Linux what is in bin/ would only call the program.
$(EMBEDDED): requirements/embedded.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --upgrade \
		--only-binary=:all: --python-version 3.13 --target $(VENV)/embedded -r $<
	@cd $(BIN) && ln -sf "$$(ls ../embedded/*/secantusd-rs | tail -n 1)" secantusd-rs
	@touch $@

$(BENCH): requirements/bench.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@$(INSTALL_CASEBOOK)
	@touch $@ $(RUN)

$(DEV): requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@$(INSTALL_CASEBOOK)
	@touch $@ $(RUN) $(BENCH)
