# `make help` lists the commands. Everything they make lands in .venv, build/ and python/myemb.
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?= # for pytest, the demo and benchmarks: make test-python ARGS='-k sparse -x'

VENV := .venv
BUILD := build/dev
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# setup.py builds the working tree in one folder, with the C++ tests, and strict about our own code.
export MYEMB_BUILD_DIR := $(CURDIR)/$(BUILD)
export CMAKE_ARGS += -DMYEMB_TESTS=ON -DMYEMB_WERROR=ON
ifneq ($(shell command -v ccache),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
export CMAKE_CUDA_COMPILER_LAUNCHER ?= ccache
export CCACHE_SLOPPINESS ?= pch_defines,time_macros
endif

# The name of a stamp carries a digest of what it stands for: other content, other stamp.
digest = $(shell cat $(1) | sha256sum | cut -c1-12)
VENV_STAMP := $(VENV)/.installed-$(call digest,requirements/dev.txt requirements/lock.txt)
BUILD_STAMP := $(BUILD)/.installed-$(call digest,setup.py pyproject.toml)

CXX_FILES = $(shell find csrc cuda tests examples benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu*')
say = @printf '\033[1m==> %s\033[0m\n' "$(1)"
log = 2>&1 | tee build/$@.log
# All of the Python tests take half the time in two processes, each with a half of them until it
# takes from the other's; a part of them, which ARGS selects, reads better from one.
spread = $(if $(strip $(ARGS)),,--numprocesses auto --maxprocesses 8 --dist worksteal)

.PHONY: help venv build demo demo-languages demo-glove
.PHONY: test test-cpp test-python test-sass test-install test-cuda
.PHONY: test-load fuzz asan
.PHONY: sanitize-cuda time-cuda mutate bench bench-full bench-fbgemm-env bench-instructions
.PHONY: bench-memory bench-mapped bench-cuda-model
.PHONY: clients-env test-clients lock-clients docs lint tidy format wheel lock clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

venv: $(VENV_STAMP) ## Create .venv with the pinned packages of requirements/dev.txt
$(VENV_STAMP):
	$(call say,Installing the pinned packages of requirements/dev.txt into $(VENV) (torch: 2 GB))
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --requirement requirements/dev.txt
	rm -f $(VENV)/.installed-*
	touch $@

# setup.py shows the progress of the first build, which pip would hide; pip registers the result.
$(BUILD_STAMP): $(VENV_STAMP)
	$(call say,Compiling myemb in $(BUILD) and installing it into $(VENV) in editable mode)
	python setup.py --quiet build_ext --inplace
	python -m pip install --quiet --no-build-isolation --no-deps --editable .
	rm -f $(BUILD)/.installed-*
	touch $@

build: $(BUILD_STAMP) ## Compile what has changed into the editable installation
	$(call say,Compiling what has changed since the last build)
	cmake --build $(BUILD)
	cmake --install $(BUILD) --prefix python/myemb > /dev/null
	cmake --install $(BUILD) --prefix python/myemb --component python > /dev/null

demo: build ## Train a recommender on MovieLens-100k with torch and with myemb (half a minute)
	$(call say,Training on MovieLens-100k with torch dense and torch sparse and myemb)
	python -m examples.movielens $(ARGS)

demo-languages: build ## Train an identifier of 33 languages with torch and with myemb (half a minute)
	$(call say,Training an identifier of 33 languages with torch sparse and with myemb)
	python -m examples.languages $(ARGS)

demo-glove: build ## Answer analogies from 400,000 word vectors in a mapped file (half a minute)
	$(call say,Answering analogies from a mapped file with torch and with myemb)
	python -m examples.glove $(ARGS)

test: test-cpp test-python test-sass test-install test-cuda ## Run every test
	$(call say,Summary)
	@grep -h '\[  PASSED  \]' $(BUILD)/Testing/Temporary/LastTest.log | uniq -c
	@grep -h 'tests passed' build/test-cpp.log
	@for name in python sass install cuda; do echo "$$name: $$(tail -n 1 build/test-$$name.log)"; done

test-cpp: build ## Run the C++ tests, once per instruction set
	$(call say,C++ tests: tests/cpp once per instruction set)
	ctest --test-dir $(BUILD) --output-on-failure --parallel $(log)

test-python: build ## Run the Python tests on the CPU and on simulated GPUs
	$(call say,Python tests: tests/python on the CPU and on simulated GPUs)
	python -m pytest tests/python -m 'not cuda' $(spread) $(ARGS) $(log)

test-load: build ## The long tests of threads, forks, growth and huge tables, too (10 minutes)
	$(call say,Load tests: tests/python/load_tests.py and huge_tests.py)
	python -m pytest tests/python/{load,growth,huge}_tests.py $(ARGS) $(log)

fuzz: build ## Make 20,000 random calls beside PyTorch (5 minutes)
	$(call say,Random calls: tests/fuzz)
	python tests/fuzz/main.py $(ARGS) $(log)

# The library alone is compiled for it, in a folder of its own.
ASAN := build/asan
ASAN_ENV = UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=allocator_may_return_null=1
ASAN_PRELOAD = $(foreach name,libasan libstdc++,$(shell $(CXX) -print-file-name=$(name).so))
asan: build ## C++ tests and 2,000 random calls under AddressSanitizer and UBSan (half an hour)
	$(call say,AddressSanitizer and UndefinedBehaviorSanitizer in $(ASAN))
	cmake -S . -B $(ASAN) -G Ninja $(CMAKE_ARGS) -DMYEMB_SANITIZE=address,undefined \
	  -DMYEMB_CUDA=OFF -DMYEMB_PYTHON=ON -DPython_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python
	cmake --build $(ASAN)
	$(ASAN_ENV) ctest --test-dir $(ASAN) --output-on-failure $(log)
	cmake --install $(ASAN) --prefix $(ASAN)/python/myemb > /dev/null
	cmake --install $(ASAN) --prefix $(ASAN)/python/myemb --component python > /dev/null
	cp python/myemb/*.py $(ASAN)/python/myemb
	export $(ASAN_ENV):detect_leaks=0 LD_PRELOAD='$(ASAN_PRELOAD)' PYTHONPATH=$(ASAN)/python; \
	  python tests/fuzz/main.py --calls 2000 $(ARGS); \
	  MYEMB_CUDASIM= python -m pytest tests/python/{load,huge}_tests.py -m 'not slow'

test-sass: build ## Test the machine code of the CUDA kernels: registers and widths and spills
	$(call say,Machine code tests: tests/sass)
	python -m pytest tests/sass $(ARGS) $(log)

test-install: build ## Test the wheel, the install prefix and a C++ project that uses them
	$(call say,Installation tests: the wheel and cmake --install)
	python -m pytest tests/install $(ARGS) $(log)

test-cuda: build ## Test on the GPU, look for memory errors there and time it; if there is one
	$(call say,CUDA tests: tests/python on the GPU and compute-sanitizer and timings)
	@if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  python -m pytest tests/python -m cuda $(ARGS) $(log); \
	  $(MAKE) --no-print-directory sanitize-cuda time-cuda; \
	else \
	  echo 'skipped, torch sees no GPU on this machine' $(log); \
	fi

# Under compute-sanitizer seconds become minutes: a selection of the tests. Without torch's cache
# every tensor is an allocation of its own, whose end is guarded.
SANITIZER = $(firstword $(wildcard /usr/local/cuda/bin/compute-sanitizer) compute-sanitizer)
SANITIZED := tests/python/test_cuda_bits.py -m cuda -k 'form or layout or 3000 or (renorm and 33)'
sanitize-cuda:
	for tool in memcheck racecheck initcheck synccheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZER) --tool $$tool --error-exitcode 1 \
	    python -m pytest $(SANITIZED); \
	done

time-cuda:
	python benchmarks/cuda_time.py --json build/cuda_time.json

# Programs by others have an environment of their own, which looks into .venv for what it lacks:
# torch, pytest and myemb.
CLIENTS := .cache/clients
CLIENTS_STAMP := $(CLIENTS)/.installed-$(call digest,requirements/clients.txt requirements/clients-lock.txt \
  requirements/lock.txt)
packages_of = $(1)/lib/python*/site-packages
clients-env: $(CLIENTS_STAMP) ## Install the programs by others that test-clients runs (1 GB in .cache/clients)
$(CLIENTS_STAMP): $(VENV_STAMP)
	$(call say,Installing the pinned packages of requirements/clients.txt into $(CLIENTS))
	python -m venv --clear $(CLIENTS)
	echo "import site; site.addsitedir('$$(echo $(CURDIR)/$(call packages_of,$(VENV)))')" \
	  > $$(echo $(call packages_of,$(CLIENTS)))/of_venv.pth
	$(CLIENTS)/bin/python -m pip install --quiet --requirement requirements/clients.txt
	touch $@

test-clients: build $(CLIENTS_STAMP) ## Swap the embeddings of programs by others: do they compute the same? (3 minutes)
	$(call say,Programs by others with torch.nn and with myemb: tests/clients)
	$(CLIENTS)/bin/python -m pytest tests/clients $(ARGS) $(log)

mutate: build ## Break the CUDA kernels an instruction at a time: do the tests notice? (half an hour)
	$(call say,Mutants of the CUDA kernels against tests/python)
	python tests/cudasim/mutate/main.py $(ARGS) $(log)

bench: build ## Time myemb beside PyTorch, FBGEMM and the machine's limit (5 minutes)
	$(call say,Benchmark: PyTorch and FBGEMM and myemb and the limit in turns)
	python benchmarks/bench.py $(ARGS)

bench-full: build ## The same with every case
	$(call say,Benchmark of every case)
	python benchmarks/bench.py --full $(ARGS)

# FBGEMM's wheel is made for another torch: an environment of its own, which bench.py finds here.
FBGEMM := .cache/fbgemm
bench-fbgemm-env: ## Install FBGEMM where the benchmarks find it (5 GB)
	$(call say,Installing the pinned packages of requirements/fbgemm.txt into $(FBGEMM))
	$(PYTHON) -m venv $(FBGEMM)
	$(FBGEMM)/bin/python -m pip install --quiet --requirement requirements/fbgemm.txt

bench-instructions: build ## Count the instructions of a lookup with callgrind (3 minutes)
	$(call say,Instructions per lookup)
	python benchmarks/instructions.py $(ARGS)

bench-memory: build ## Measure the memory that a training step takes (5 minutes)
	$(call say,Memory of training steps)
	python benchmarks/memory.py $(ARGS)

bench-mapped: build ## Time training in a file whose pages are not in memory (writes 4 GiB; 2 minutes)
	$(call say,Training in a mapped file)
	python benchmarks/mapped.py $(ARGS)

bench-cuda-model: build ## Count what the CUDA kernels move and issue against what they have to
	$(call say,Traffic of the CUDA kernels on the simulator)
	python benchmarks/cuda_model.py $(ARGS) $(log)

# In an environment of its own, as nothing but this needs it.
DOCS := .cache/docs
DOCS_STAMP := $(DOCS)/.installed-$(call digest,requirements/docs.txt requirements/docs-lock.txt)
$(DOCS_STAMP):
	$(call say,Installing the pinned packages of requirements/docs.txt into $(DOCS))
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement requirements/docs.txt
	rm -f $(DOCS)/.installed-*
	touch $@

docs: $(DOCS_STAMP) ## Build the documentation as a site in build/docs
	$(call say,Building the documentation in build/docs)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --site-dir build/docs
	@echo 'open build/docs/index.html; with the search: python -m http.server --directory build/docs'

lint: $(VENV_STAMP) ## Check format, style, types and sizes
	$(call say,Lint: ruff and mypy --strict and sizes and clang-format)
	ruff check
	ruff format --check
	mypy python examples
	mypy benchmarks/{bench,fbgemm_worker,instructions,mapped,memory}.py tests/sizes.py
	python tests/sizes.py
	@echo clang-format --dry-run -Werror
	@clang-format --dry-run -Werror $(CXX_FILES)

tidy: build ## Look for bugs in the C++ sources with clang-tidy (ten minutes)
	$(call say,clang-tidy on csrc and cuda)
	run-clang-tidy.py -quiet -p $(BUILD) -extra-arg=-fno-openmp -extra-arg=-Wno-ignored-gch \
	  '/(csrc|cuda)/.*\.cpp$$'

format: $(VENV_STAMP) ## Format the sources in place
	$(call say,Formatting with ruff and clang-format)
	ruff check --fix --quiet
	ruff format
	@clang-format -i $(CXX_FILES)

wheel: $(VENV_STAMP) ## Build a wheel for this Python and torch into dist/
	$(call say,Building a wheel in dist/)
	python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	ls -l dist

lock: $(VENV_STAMP) ## Write requirements/lock.txt from the packages in .venv
	$(call say,Writing requirements/lock.txt)
	{ grep '^#' requirements/lock.txt; pip freeze --exclude-editable; } > requirements/lock.new
	mv requirements/lock.new requirements/lock.txt

lock-clients: $(CLIENTS_STAMP) ## Write requirements/clients-lock.txt from the packages in .cache/clients
	$(call say,Writing requirements/clients-lock.txt)
	{ grep '^#' requirements/clients-lock.txt; \
	  $(CLIENTS)/bin/python -m pip freeze --path $$(echo $(call packages_of,$(CLIENTS))); } \
	  > requirements/clients-lock.new
	mv requirements/clients-lock.new requirements/clients-lock.txt

clean: ## Remove what was built; .venv and downloaded data stay
	$(call say,Removing build/ and dist/ and the compiled parts of python/myemb)
	rm -rf build dist python/*.egg-info
	cd python/myemb && rm -rf _C.*.so _build_info.py include lib share
