# The few verbs. Logic lives in Python: tools/, cluster/, images/.
PY := .venv/bin/python
.DEFAULT_GOAL := help
# Some machines set this. Each process then compiles what it imports again: 10 of 23 s of a small training, mostly torch.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help venv lock check crds test images cluster-up cluster-down demo

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

venv: ## .venv with everything a developer needs (idempotent)
	@python3 tools/venv.py

lock: venv ## compile requirements/*.txt with hashes from pyproject.toml
	$(PY) -m images lock

crds: venv ## generate crds/, the chart's copy and docs/api.md from api/, docs/techniques.md from code and proofs
	$(PY) -m tools.crds
	$(PY) -m tools.techniques

check: venv ## style, types, layers, generated files: under two minutes
	$(PY) -m tools.check

test: venv ## everything: check, unit, contract, and e2e on a real cluster
	$(PY) -m tools.test

images: venv ## build all container images
	$(PY) -m images build

cluster-up: venv ## a real cluster with Prometheus, S3 and a gateway
	$(PY) -m cluster up

cluster-down: venv ## remove it
	$(PY) -m cluster down

demo: venv ## train, canary, breach, rollback: the whole story on your machine
	$(PY) -m tools.demo
