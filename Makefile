# `make help` lists what there is.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format bench-check train-tiny lock clean

BIN := .venv/bin
# MuJoCo's renderer without a screen: the GPU through EGL where there is one; else OSMesa, on idle cores as fast as EGL
# in software and on busy ones steadier; EGL again where the system has no OSMesa.
MUJOCO_GL ?= $(shell [ ! -e /dev/nvidia0 ] && PATH=$$PATH:/sbin ldconfig -p | grep -q libOSMesa && echo osmesa || echo egl)
export MUJOCO_GL
# Tests take nothing from a model hub, and rclpy checks the type of every message field that they set.
TEST_ENV := HF_HUB_OFFLINE=1 ROS_PYTHON_CHECK_FIELDS=1

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## make .venv ready: Python packages, our own parts, system libraries
	@scripts/setup.sh

demo: setup ## replay the recording that ships with the code: depth, points, trajectory into out/demo
	$(BIN)/omnistream demo --out out/demo

test: setup ## all tests but the slow ones
	$(TEST_ENV) $(BIN)/python -m pytest -q

test-slow: setup ## the slow tests
	$(TEST_ENV) $(BIN)/python -m pytest -q -m slow --timeout 3600

lint: setup ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-check: setup ## measure the ratios of the streaming engine again; fails when one has fallen by a fifth
	$(BIN)/python -m benchmarks.check

train-tiny: setup ## pre-train the tiny model on the procedural world, on a CPU
	$(BIN)/python -m training.pretrain tiny --out runs/tiny

lock: setup ## write requirements.txt anew from requirements.in
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.12 --override requirements-override.txt \
		--no-emit-index-url --no-header requirements.in --output-file requirements.txt

clean: ## remove what tests, demo and builds left; keeps .venv and runs/
	rm -rf out build dist *.egg-info ros2_ws/build ros2_ws/install ros2_ws/log \
		.pytest_cache .hypothesis .mypy_cache .ruff_cache
