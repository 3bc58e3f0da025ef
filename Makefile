# make bench   benchmark the functions of the source notebooks and write results/report/report.html
# make test    run all checks and tests
#
# Both create a virtual environment in .venv first. PYTHON names the interpreter for it.
#
# make docs    build the documentation site into site/, which opens from disk
#
# make faults  inject hundreds of faults into whole commands (docs/faults.md)
#
# make workflow   run the steps of the CI workflow in docs/releases.md on a fresh clone
#
# make plugin     the pytest plugin in a project of its own, over three commits (docs/pytest.md)
#
# make package   build the distribution; try the wheel, 'gradbench init', the tutorials and the lower
#                bounds
#
# make fleet-check   a Dask cluster of processes on this machine, some of which are killed; what it
#                    costs: sessions that are a sleep on 1, 2 and 4 nodes; and how many of its
#                    verdicts are those of this machine measured directly (docs/fleet.md)
#
# make gpu-check   the gate, a benchmark, scaling and the A/A study on the first CUDA device, into
#                  results/gpu-check. It installs nothing: GPU_PYTHON (default: PYTHON) is a Python
#                  that has this package and a torch that finds the device.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

GPU_PYTHON ?= $(PYTHON)
GPU := $(GPU_PYTHON) -m gradbench
CHECKED := results/gpu-check
FINDS_GPU = $(shell $(GPU_PYTHON) -c "import torch, gradbench; print(torch.cuda.is_available() or 'torch.cuda.is_available() is False')" 2>&1 | tail -n 1)

.PHONY: bench test docs faults workflow plugin package gpu-check fleet-check clean

bench: $(VENV)/.ready
	$(BIN)/gradbench run --profile quick
	$(BIN)/gradbench report

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m compileall -q gradbench tests
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

docs: $(VENV)/.ready
	$(BIN)/mkdocs build --quiet
	@echo "site/index.html"

faults: $(VENV)/.ready
	$(BIN)/python tests/campaign

workflow: $(VENV)/.ready
	$(BIN)/python tests/workflow.py

plugin: $(VENV)/.ready
	$(BIN)/python tests/plugin_project.py

package: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python tests/package.py

fleet-check: $(VENV)/.ready
	$(BIN)/python -m pytest -n0 tests/fleet_dask.py
	$(BIN)/python tests/fleet_check.py
	$(BIN)/python tests/fleet_verdicts.py

# Correctness, times and memory of every mode on the device.
gpu-check:
	$(if $(filter True,$(FINDS_GPU)),,$(error no CUDA device for $(GPU_PYTHON): it needs this package and a \
	  torch that finds one ($(FINDS_GPU)). Name such a Python as GPU_PYTHON=/path/to/python))
	$(GPU_PYTHON) -m pytest -m cuda
	mkdir -p $(CHECKED)
	$(GPU) verify --device cuda --all --format csv > $(CHECKED)/gate.csv
	$(GPU) verify --device cuda --sweep documents --dtype float16 --dtype bfloat16 --dtype tf32 \
	  --all --format csv > $(CHECKED)/gate-narrow.csv
	$(GPU) verify --device cuda --compiled -m 'graphed_*' --all --format csv \
	  > $(CHECKED)/gate-graphs.csv
	$(GPU) verify --device cuda+transfer --sweep documents --all --format csv \
	  > $(CHECKED)/gate-transfer.csv
	$(GPU) run --profile quick --device cuda --results $(CHECKED) \
	  --instrument wall_time --instrument device_time --instrument peak_memory
	$(GPU) run --profile quick --device cuda --compiled -m grad -m loop_grad -m 'graphed_*' \
	  --results $(CHECKED) --instrument wall_time --instrument device_time
	$(GPU) run --device cpu --device cuda --device cuda+transfer --results $(CHECKED) \
	  -f batched_vector_field -o batch_jacobian \
	  -m forward -m manual -m loop_grad -m grads_batched -m vmap_jacrev -m functional_of_sum \
	  --size N=10 --size N=1000 --size N=100000 --size N=1000000
	$(GPU) run --device cpu --device cuda --device cuda+transfer --device cuda+cold \
	  --device cuda+16sets --results $(CHECKED) -f exp -o vjp \
	  --size n=1024 --size n=16384 --size n=262144 --size n=4194304 --size n=67108864
	$(GPU) run --device cuda --results $(CHECKED) -f affine_mse -o gradient \
	  -m forward -m manual -m backward -m grad -m func_grad \
	  --dtype float32 --dtype tf32 --dtype float16 --dtype bfloat16 --size m=4096,n=4096 \
	  --instrument wall_time --instrument device_time --instrument flops
	$(GPU) study aa --device cuda --trials 300 --results $(CHECKED)
	$(GPU) report --results $(CHECKED)

# The constraints pin torch to a build without CUDA packages, and everything else to tested versions.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# Deletes VENV only if it is a virtual environment.
clean:
	@if [ -e "$(VENV)" ] && [ ! -f "$(VENV)/pyvenv.cfg" ]; then \
	  echo "$(VENV) is not a virtual environment (no pyvenv.cfg): not deleted" >&2; exit 2; fi
	rm -rf -- "$(VENV)"
