# `make run` starts tcpmon in the foreground; `make test` proves it; `make bench` measures it. All three install what
# they need first. Run as root.

# The distribution's python: bcc comes with it and imports under no other
PYTHON = /usr/bin/python3
VENV = .venv
BIN = $(VENV)/bin
CONFIG = config/tcpmon.yaml

.PHONY: run test test-vm unit fuzz lint bench fleet soak docs format install uninstall deb clean

run: $(VENV)/run
	@echo "starting tcpmon; its metrics will be at http://127.0.0.1:19317/metrics (Ctrl-C ends it)"
	$(BIN)/tcpmon run -c $(CONFIG)

test: $(VENV)/dev lint
	$(BIN)/pytest

unit: $(VENV)/dev
	$(BIN)/pytest tests/unit

# So many examples for each target, others each time, and how far it is; FUZZ_ARGUMENTS="-k http" for a part of it
FUZZ_EXAMPLES = 20000
fuzz: $(VENV)/dev
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) nice -n 10 $(BIN)/pytest tests/unit/fuzz -v -s --durations 0 \
		$(FUZZ_ARGUMENTS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	clang-format --dry-run --Werror $$(git ls-files '*.c' '*.h')
	shellcheck $$(git ls-files '*.sh' 'deploy/debian/tcpmon.p*') deploy/completions/bash/tcpmon .ci/run

# BENCH_ARGUMENTS="--middle -o docs/bench.md" makes what is kept in docs
bench: $(VENV)/dev
	deploy/packages.sh bench
	$(BIN)/python -m tests.bench $(BENCH_ARGUMENTS)

# What many hosts cost one Prometheus: a quarter of an hour, most of it waiting
fleet: $(VENV)/dev
	nice -n 10 $(BIN)/python -m tests.bench.fleet

# An hour of mixed traffic in ten minutes; SOAK_ARGUMENTS="--minutes 60 --seed 7". With patience for a busy machine
soak: $(VENV)/dev
	TCPMON_PATIENCE=3 $(BIN)/python -m tests.soak $(SOAK_ARGUMENTS)

docs: $(VENV)/dev
	$(BIN)/python -m tcpmon.config.doc
	$(BIN)/python -m tcpmon.web.webconfig.schema
	$(BIN)/python -m tcpmon.metrics.doc
	$(BIN)/python docs/man/write.py
	$(BIN)/python deploy/completions/write.py
	$(BIN)/python -m tcpmon.events.catalog
	$(BIN)/python -m grafana.build

# Under QEMU, on other kernels; VM_ARGUMENTS="kernel --kernel 5.10" for a part of it
test-vm: $(VENV)/dev
	deploy/packages.sh vm
	$(BIN)/python -m tests.vm $(VM_ARGUMENTS)

install:
	[ -n "$(DESTDIR)" ] || deploy/packages.sh run
	deploy/install.sh install

uninstall:
	deploy/install.sh uninstall

deb:
	deploy/packages.sh deb
	deploy/build-deb.sh

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i $$(git ls-files '*.c' '*.h')

$(VENV)/run: pyproject.toml deploy/packages.sh
	deploy/packages.sh run
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev: $(VENV)/run
	deploy/packages.sh test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
