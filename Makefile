# clusterd: everything that is built, tested, installed. Each target does first what it needs.
#
#   make install [PREFIX=/usr/local] [DESTDIR=]   the program, its cron and logrotate files, its folders
#   make uninstall [PURGE=yes]                    what install put; PURGE: configuration, state and logs as well
#   make demo | test | bench | soak | campaign | load | lint        from a checkout; see README.md

PREFIX  ?= /usr/local
DESTDIR ?=
PURGE   ?= no
SCHEDULES ?= 100000
SEED    ?= 1000000
NODES   ?= 2
PYTHON  ?= /usr/bin/python3
SHELL   := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# How often what fails is tried again follows; see test.
AGAIN   := --rerun-except '^Violated' --reruns

SCRIPTS := $(notdir $(wildcard scripts/*))
BIN     := .venv/bin
# What the installed program says of itself has no DESTDIR in it.
HOME_OF := $(PREFIX)/lib/clusterd
VENV    := $(DESTDIR)$(HOME_OF)/venv
SBIN    := $(DESTDIR)$(PREFIX)/sbin
SHARE   := $(DESTDIR)$(PREFIX)/share/clusterd
MAN     := $(DESTDIR)$(PREFIX)/share/man
ETC     := $(DESTDIR)/etc
VAR     := $(DESTDIR)/var
# A caller that wants no bytecode (PYTHONDONTWRITEBYTECODE) would pay for it at every start of every script.
# So would each test that starts one.
CLEAN_ENV := env -u PYTHONDONTWRITEBYTECODE -u PYTHONPATH -u PYTHONHOME
TESTS     := $(CLEAN_ENV) $(BIN)/pytest

.PHONY: help venv host demo test unit lint format bench soak load campaign man docs install install-program install-host uninstall clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

# --- from a checkout ---------------------------------------------------------------------------------------------

venv: .venv/.made

.venv/.made: setup.py tools/venv
	@tools/venv $(PYTHON) .venv

host:
	@tests/host-packages

demo:
	@tests/host-packages lab
	@tests/lab/demo

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: venv
	$(TESTS) tests/unit

# One kind after the other, for each of them keeps two cores busy; what waits for processes and clocks most of the time
# does so with five at once. A shared machine may starve a node for longer than its heartbeats allow: what fails in the
# lab is run again, and the report says so and why. Never so what must not happen on a busy machine either (Violated): two
# nodes that answer, a write that is lost. A unit test that fails is tried once more for the same reason, as many of them
# run on the real kernel and processes; but not what was found by chance (see tests/unit/conftest.py).
test: host lint
	$(TESTS) -n 5 --dist loadfile --no-loadscope-reorder -rR $(AGAIN) 1 tests/unit
	$(TESTS) --durations 5 tests/simulation
	@mkdir -p build; rm -rf build/campaign.jsonl build/again
	$(TESTS) -n 5 --dist loadfile $(AGAIN) 3 --durations 10 -m "not alone" tests/lab
	$(TESTS) $(AGAIN) 2 -m alone tests/lab

# What make test does with a tenth of that: 200,000 files and one of 10 GB, on busy machines. Needs 25 GB of disk.
load: host venv
	CLUSTERD_LOAD=full $(TESTS) tests/lab/test_load.py

# The faults on the running pair, and the table of what they came to, which goes into docs/reliability.md.
campaign: host venv
	@rm -f build/campaign.jsonl
	$(TESTS) -n 5 --dist loadfile $(AGAIN) 3 -m "not alone" tests/lab/test_campaign_*.py
	@$(BIN)/python tools/campaign-table docs/reliability.md

bench:
	@tests/host-packages lab
	@bench/run

# Other seeds than those of make test, which begins with 0: SEED is the first one.
soak: venv
	$(BIN)/python tests/simulation/simulate.py --seed $(SEED) --schedules $(SCHEDULES) --nodes $(NODES) --jobs 2

man: venv
	$(BIN)/python -m clusterd.manpage build/man

clean:
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis lib/*.egg-info
	find lib tests -name __pycache__ -prune -exec rm -rf {} +

# --- on a node ---------------------------------------------------------------------------------------------------

install: install-program install-host

install-program:
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" = 0 ] || { echo "make install: must be run as root" >&2; exit 77; }
	@$(CLEAN_ENV) DESTDIR="$(DESTDIR)" tools/venv --program $(PYTHON) "$(VENV)"
	@install -d -m 755 "$(SBIN)" "$(SHARE)/conf/services" "$(SHARE)/cron.d" "$(MAN)/man5" "$(MAN)/man8"
	@for script in $(SCRIPTS); do ln -sfn "$(HOME_OF)/venv/bin/$$script" "$(SBIN)/$$script"; done
	@install -m 644 INSTALL README.md LICENSE fabfile.py conf/logrotate "$(SHARE)/"
	@install -m 755 tools/install-host "$(SHARE)/"
	@install -m 644 conf/*.conf "$(SHARE)/conf/"
	@install -m 644 conf/services/*.conf "$(SHARE)/conf/services/"
	@sed 's|/usr/local|$(PREFIX)|g' cron.d/clusterd > "$(SHARE)/cron.d/clusterd"
	@rm -rf "$(SHARE)/docs"; cp -rp docs "$(SHARE)/docs"
	@$(CLEAN_ENV) "$(VENV)/bin/python" -m clusterd.manpage "$(MAN)"

install-host:
	@DESTDIR="$(DESTDIR)" "$(SHARE)/install-host" "$(PREFIX)"
	@echo "clusterd is installed in $(PREFIX); what to do next: $(PREFIX)/share/clusterd/INSTALL"

uninstall:
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" = 0 ] || { echo "make uninstall: must be run as root" >&2; exit 77; }
	@rm -f "$(ETC)/cron.d/clusterd" "$(ETC)/logrotate.d/clusterd"
	@# The watchdog holds its lock as long as it runs; its addresses go with their leases.
	@lock=/run/clusterd/locks/watchdog; \
	    if [ -z "$(DESTDIR)" ] && [ -e $$lock ] && ! flock --nonblock $$lock true; then \
	        kill "$$(cat $$lock)"; flock --timeout 10 $$lock true || echo "make uninstall: the watchdog does not end"; fi
	@for script in $(SCRIPTS); do rm -f "$(SBIN)/$$script" "$(MAN)/man8/$$script.8"; done
	@rm -f "$(MAN)"/man5/cluster.conf.5 "$(MAN)"/man5/cluster.d.5
	@rm -rf "$(DESTDIR)$(HOME_OF)" "$(SHARE)"
	@if [ "$(PURGE)" = yes ]; then rm -rf "$(ETC)/cluster.d" "$(VAR)/lib/clusterd" "$(VAR)/log/clusterd"; \
	    echo "clusterd is removed, with its configuration, state, backup sets and logs"; \
	    else echo "clusterd is removed; kept: $(ETC)/cluster.d $(VAR)/lib/clusterd $(VAR)/log/clusterd (PURGE=yes removes them)"; fi
