# make demo      the whole suite on scikit-learn's digits, results under model/demo
# make install   .venv with requirements.txt
# make test      the tests; make test-slow the long ones; make check lint, tests and docs
# make docs      the documentation of docs/ as a site, in site/
# make torture   processes killed at random moments, hostile files by the ten thousand; about 20 minutes
# make test-jax  every script under the JAX backend, on one device, on two, and in two processes
# make completion  flags and choices at the TAB key, in bash and zsh
# make results   the result tables and figures of docs/ from the records under experiments/records
# make bench     the suite's speed beside that of others, as benchmarks/README.md tells it
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := model/demo
SCRIPTS := $(shell grep -l '^def build_parser' *.py)
DIGITS := --dataset digits --batch_size 64
KERAS_BACKEND ?= tensorflow
export KERAS_BACKEND
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install install-dev demo lint test test-slow test-jax torture bench completion results docs check clean

help:
	@sed -n 's/^# //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("PYTHON: received Python %d.%d, expected 3.11 to 3.13 (make PYTHON=python3.11 ...)" % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-export.txt requirements-completion.txt \
  requirements-sweep.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q -r requirements.txt -r requirements-dev.txt -r requirements-export.txt \
	  -r requirements-completion.txt -r requirements-sweep.txt
	@touch $@

$(VENV)/.installed-jax: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -r requirements-dev.txt "jax>=0.9,<0.11"
	@touch $@

$(VENV)/.installed-bench: requirements-bench.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q -r requirements.txt -r requirements-bench.txt
	@touch $@

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/python train_base_model.py $(DIGITS) --save_folder $(DEMO)/base_model --epoch_num 7
	$(BIN)/python prune_model.py $(DIGITS) --base_model_path $(DEMO)/base_model/model.h5 \
	  --root_folder $(DEMO)/pruned_model --prune_iter 3 --epoch_num 2 --recalibrate_images 640
	$(BIN)/python knowledge_distillation.py $(DIGITS) --root_folder $(DEMO)/pruned_model/iter3 \
	  --save_folder $(DEMO)/kd_model --epoch_num 7 --recalibrate_images 640
	$(BIN)/python plot_train_history.py --no-show --verbose 0 --output $(DEMO)/histories.png \
	  --history_path $(DEMO)/base_model/history.json $(DEMO)/pruned_model/iter3/history.json $(DEMO)/kd_model/history.json
	$(BIN)/python evaluate_model.py $(DIGITS) --output $(DEMO)/results.json \
	  --model_path $(DEMO)/base_model/model.h5 $(DEMO)/pruned_model/iter3/model.h5 $(DEMO)/kd_model/model.h5
	$(BIN)/python report.py --root_folder $(DEMO) --batch_size 64
	@echo "models, histories, plots and results.json lie under $(DEMO); open $(DEMO)/report.html"

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .

test: install-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not jax"

test-slow: install-dev
	$(BIN)/python -m pytest -m "slow and not jax"

test-jax: $(VENV)/.installed-jax
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m jax tests/scripts/test_jax.py tests/scripts/test_devices_jax.py

$(VENV)/.installed-torture: requirements-torture.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -r requirements-torture.txt || echo "atheris can't be had here: torture goes without"
	@touch $@

torture: $(VENV)/.installed-torture
	$(BIN)/python tests/stress/torture.py $(TORTURE)

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench.py --output benchmarks/bench.json $(BENCH)

$(VENV)/.installed-completion: requirements-completion.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q -r requirements-completion.txt
	@touch $@

completion: $(VENV)/.installed-completion
	@echo 'for ~/.bashrc, or ~/.zshrc behind compinit:'
	@echo 'eval "$$($(abspath $(BIN))/activate-global-python-argcomplete --dest=-)"'

results: install
	$(BIN)/python experiments/build.py

$(VENV)/.installed-docs: requirements-docs.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q -r requirements-docs.txt
	@touch $@

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/commands.py
	@# not -q: under it mkdocs counts no warning, so that none would fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

check: lint test docs

clean:
	rm -rf $(DEMO) site .pytest_cache .ruff_cache .hypothesis
