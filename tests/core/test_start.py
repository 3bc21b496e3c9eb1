"""A robot starts often: what is not needed for a first prediction is not imported, and the first one comes soon."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ["sympy", "torch._dynamo", "torch._inductor", "torchvision", "transformers", "scipy", "matplotlib", "cv2"]
HEAVY += ["open3d", "rerun", "av", "rosbags", "pandas", "datasets", "lerobot", "huggingface_hub", "torch.onnx"]

FIRST_PREDICTION = """
import json, sys, time
start = time.process_time()
import numpy as np
from omnistream_core import Frame, StreamSession
session = StreamSession.from_pretrained("omnistream-tiny")
session.step(Frame(image_HW3=np.zeros((480, 640, 3), np.uint8), index=0))
print(json.dumps({"modules": list(sys.modules), "cpu_s": time.process_time() - start}))
"""


def outcome_of(code: str) -> str:
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    environment |= {key: os.environ[key] for key in ("HOME", "XDG_CACHE_HOME") if key in os.environ}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_library_imports_nothing_heavy():
    modules = set(json.loads(outcome_of("import omnistream_core, sys, json; print(json.dumps(list(sys.modules)))")))
    assert not modules & {*HEAVY, "torch", "numpy", "typer"}


@pytest.fixture(scope="module")
def first_prediction() -> dict:
    outcome_of(FIRST_PREDICTION)  # warms the files, and builds the kernels where they are not there yet
    return json.loads(outcome_of(FIRST_PREDICTION))


def test_a_first_prediction_imports_nothing_it_does_not_need(first_prediction):
    assert not set(first_prediction["modules"]) & set(HEAVY)
    assert "torch" in first_prediction["modules"]


def test_a_first_prediction_comes_within_three_seconds(first_prediction):
    """In processor time, which other work on the machine does not stretch much."""
    print(f"{first_prediction['cpu_s']:.2f} s of processor time")
    assert first_prediction["cpu_s"] < 3.0
