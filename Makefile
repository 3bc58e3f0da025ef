# make bench   measure the documents' functions, show the table, write results/report/report.html
# make test    run all tests
#
# Both set up a virtual environment in .venv first. PYTHON names the interpreter to build it with.
#
# make gpu-check   the gate, a benchmark, scaling and the A/A study on the first CUDA device, all
#                  left in results/gpu-check; GPU_PYTHON names a Python whose torch finds the device

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

GPU_PYTHON ?= $(BIN)/python
GPU := $(GPU_PYTHON) -m gradbench
CHECKED := results/gpu-check

.PHONY: bench test gpu-check clean

bench: $(VENV)/.ready
	$(BIN)/gradbench run --profile quick
	$(BIN)/gradbench report

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

gpu-check: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.ready)
	@$(GPU) verify --device cuda -f square -o vjp -m grad > /dev/null
	$(GPU_PYTHON) -m pytest -m cuda
	$(GPU) verify --device cuda
	$(GPU) run --profile quick --device cuda --results $(CHECKED) \
	  --instrument wall_time --instrument device_time --instrument peak_memory
	$(GPU) run --device cpu --device cuda --device cuda+transfer --results $(CHECKED) \
	  -f batched_vector_field -o batch_jacobian \
	  -m forward -m manual -m loop_grad -m grads_batched -m vmap_jacrev -m functional_of_sum \
	  --size N=10 --size N=1000 --size N=100000 --size N=1000000
	$(GPU) run --device cpu --device cuda --device cuda+transfer --device cuda+cold \
	  --results $(CHECKED) -f exp -o vjp \
	  --size n=1024 --size n=16384 --size n=262144 --size n=4194304 --size n=67108864
	$(GPU) study aa --device cuda --trials 300 --results $(CHECKED)
	$(GPU) report --results $(CHECKED)

# The constraints pin torch to a build without CUDA packages, and all else to what was tested.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,parquet]'
	touch $@

clean:
	rm -rf $(VENV)
