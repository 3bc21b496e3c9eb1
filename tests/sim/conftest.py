"""Environments for the tests of the simulation: small images, and one world shared where it may be."""

from __future__ import annotations

import os
from concurrent.futures import Future

import pytest

pytest.importorskip("lerobot")
pytest.importorskip("robosuite")

import torch

from lerobot_env_omnistream import RobosuiteEnvConfig, recording
from lerobot_env_omnistream.env import RobosuiteEnv

CAMERAS = ["agentview", "robot0_eye_in_hand"]


@pytest.fixture(scope="session")
def make_env():
    """Makes an environment of small images from config fields; all are closed at the end."""
    made = []

    def make(**settings) -> RobosuiteEnv:
        small = {"cameras": CAMERAS, "image_height_px": 64, "image_width_px": 80, "episode_length": 100}
        made.append(RobosuiteEnv(RobosuiteEnvConfig(**(small | settings))))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture(scope="session")
def lift_env(make_env) -> RobosuiteEnv:
    """Lift with depth; whoever uses it resets it first."""
    return make_env(depth=True)


@pytest.fixture
def renderer_variables(monkeypatch):
    """Lets a test change the variables that choose a renderer."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return monkeypatch


class SameProcessPool:
    """Runs what is submitted at once, and may be told to die at the n-th."""

    dies_at = None

    def __init__(self, *args, initializer=None, **kwargs):
        self.submitted = 0
        if initializer is not None:
            initializer()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return False

    def submit(self, function, *arguments):
        self.submitted += 1
        if self.submitted == self.dies_at:
            raise KeyboardInterrupt
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def one_process(monkeypatch):
    """Recording without worker processes."""
    monkeypatch.setattr(recording, "ProcessPoolExecutor", SameProcessPool)
    monkeypatch.setattr(SameProcessPool, "dies_at", None)
    threads = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(threads)
