# Two commands for a fresh machine: `make demo` and `make test`. Both make their own .venv.
#
#   make demo    simulate a beamtime, process it, score it against the known truth
#   make test    formatting, lint, types, and the whole test suite in PROCESSES=2 processes
#   make bench   the figures of preprocessing, projectors, reconstruction, alignment, analysis;
#                BENCH=tiny|demo|paper
#   make audit   look the pinned packages up among those with known vulnerabilities
#   make lock    write constraints.txt anew from the newest versions that pyproject.toml allows
#   make clean   remove the demo and the environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
SEED ?= 1
BENCH ?= demo
PROCESSES ?= 2

.PHONY: demo test lint compiled bench audit lock clean

$(VENV)/.runtime: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing dichrotomo into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing the test tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DEMO)/beamtime/beamtime.yaml: | $(VENV)/.runtime
	@$(BIN)/dichrotomo simulate $(DEMO)/beamtime --preset demo --seed $(SEED)

demo: $(VENV)/.runtime $(DEMO)/beamtime/beamtime.yaml
	@$(BIN)/dichrotomo run $(DEMO)/beamtime/beamtime.yaml --out $(DEMO)/result
	@$(BIN)/dichrotomo score $(DEMO)/result --truth $(DEMO)/beamtime/truth.h5
	@$(BIN)/dichrotomo report $(DEMO)/result --truth $(DEMO)/beamtime/truth.h5 > /dev/null
	@echo "result: $(DEMO)/result/result.nxs"
	@echo "report: $(DEMO)/result/report.html"

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Compiled before the tests, while types are checked: else each of their first processes would do
# it for itself. What was compiled lies beside the sources, and is used again.
compiled: $(VENV)/.dev
	@mkdir -p build
	@find pipeline -name '*.nbc' | grep -q . || { \
	   rm -rf build/compiled && export XDG_STATE_HOME=$(CURDIR)/build/compiled/state && \
	   $(BIN)/dichrotomo simulate build/compiled/beamtime --preset tiny && \
	   $(BIN)/dichrotomo run build/compiled/beamtime/beamtime.yaml --out build/compiled/result \
	     --recipe tests/quick_recipe.yaml --cluster none; } > build/compiled.log 2>&1 || \
	   echo "not compiled beforehand: $$(tail -n 1 build/compiled.log)"
	@rm -rf build/compiled build/compiled.log

test: $(VENV)/.dev
	@$(MAKE) --no-print-directory --jobs 2 lint compiled
	@$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python tests/benchmarks/preprocessing.py --size $(if $(filter paper,$(BENCH)),paper,tiny)
	@$(BIN)/python tests/benchmarks/engine.py --size $(BENCH)
	@$(BIN)/python tests/benchmarks/memory.py --size $(BENCH)
	@$(BIN)/python tests/benchmarks/reconstruction.py --size $(BENCH)
	@$(BIN)/python tests/benchmarks/alignment.py --size $(BENCH)
	@$(BIN)/python tests/benchmarks/analysis.py --size $(BENCH)
	@$(BIN)/python tests/benchmarks/defects.py --size $(BENCH)
	@$(BIN)/python tests/benchmarks/chemistry.py --size $(BENCH)
	@$(BIN)/python tests/benchmarks/whole_analysis.py --size $(BENCH)
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/operations.py --size $(if $(filter tiny,$(BENCH)),tiny,demo)
	@$(BIN)/python tests/benchmarks/survival.py --size $(if $(filter tiny,$(BENCH)),tiny,demo)

audit:
	@rm -rf build/audit
	@$(PYTHON) -m venv build/audit
	@build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict
	@rm -rf build/audit

lock:
	@rm -rf build/lock
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@{ echo "# Written by 'make lock': the versions that the test suite passed with."; \
	   build/lock/bin/python -m pip freeze --exclude-editable; } > constraints.txt
	@rm -rf build/lock

clean:
	rm -rf $(DEMO) $(VENV) build
