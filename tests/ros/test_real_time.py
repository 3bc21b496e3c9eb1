"""Real-time chunking without processes: which action comes at which beat, whatever the worker does meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("lerobot")
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from omnistream_core.errors import ConfigError
from omnistream_policy.acting import Acting, Observation, RealTimeActing
from omnistream_policy.limits import Limits
from omnistream_policy.parameters import PolicySettings
from omnistream_policy.policy import LeRobotPolicy, RealTimeLeRobotPolicy, load_policy

RATE_HZ, CHUNK = 10.0, 8
STATE = PolicyFeature(FeatureType.STATE, (1,))
ACTION = PolicyFeature(FeatureType.ACTION, (2,))


class SlowPolicy:
    """As LeRobot has it: action i of its n-th chunk is (n, i). Inference takes some beats, and half a one."""

    def __init__(self, n_action_steps: int = 4, beats: int = 3):
        self.config = SimpleNamespace(
            **{"type": "slow", "image_features": {}, "rtc_config": RTCConfig(execution_horizon=4)},
            **{"input_features": {"observation.state": STATE}, "output_features": {"action": ACTION}},
            **{"chunk_size": CHUNK, "n_action_steps": n_action_steps},
        )
        self.beats, self.beat = beats, lambda: None
        self.seen, self.asked, self.plan = [], [], []

    def supports_rtc(self):
        return True

    def reset(self):
        self.plan = []

    def observe(self, batch):
        self.seen.append(int(batch["observation.state"]))

    def predict_action_chunk(self, batch, inference_delay=None, prev_chunk_left_over=None):
        assert inference_delay is None or not torch.is_inference_mode_enabled(), "guidance needs gradients"
        self.observe(batch)
        left = None if prev_chunk_left_over is None else prev_chunk_left_over.tolist()
        self.asked.append((inference_delay, left))
        for _ in range(self.beats):
            self.beat()
        number = torch.full((CHUNK,), len(self.asked) - 1.0)
        return torch.stack([number, torch.arange(CHUNK)], dim=-1)[None]

    def select_action(self, batch):
        if not self.plan:
            self.plan = list(self.predict_action_chunk(batch)[0, : self.config.n_action_steps])
        return self.plan.pop(0)[None]


class Processor:
    """Multiplies actions by ten, and leaves observations as they are."""

    steps = ()

    def __call__(self, value):
        return value * 10 if isinstance(value, torch.Tensor) else value

    def reset(self):
        pass


class Robot:
    """Beats by hand: at every one an observation, whose state is the number of the beat."""

    def __init__(self, monkeypatch, policy, *, real_time=True):
        self.policy, self.number, self.sent, self.said = policy, -1, {}, {}
        self.now_s = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now_s)
        for module in ("acting", "policy"):
            monkeypatch.setattr(f"omnistream_policy.{module}.time", clock)
        monkeypatch.setattr("omnistream_policy.policy._load", lambda *_: (policy, Processor(), Processor()))
        settings = PolicySettings(rate_hz=RATE_HZ, max_age_s=60.0, max_change_per_s=[1e6])
        kinds = (RealTimeActing, RealTimeLeRobotPolicy) if real_time else (Acting, LeRobotPolicy)
        limits = Limits.of(settings, 2)
        self.acting = kinds[0](kinds[1](settings), limits, settings, lambda message: message, self._send)
        self.acting.release(0.0)
        policy.beat = self.beat

    def _send(self, command_A):
        assert self.number not in self.sent, "one command a beat"
        self.sent[self.number] = (command_A / 10).tolist()

    def beat(self):
        self.number += 1
        self.now_s = (self.number + 0.1) / RATE_HZ  # the worker begins a little after
        self.observation = Observation(
            images={}, state_S=np.array([self.number]), arm_A=np.zeros(2), task="", taken_s=self.now_s
        )
        self.said[self.number] = self.acting.beat(self.observation)

    def decide(self):
        """The worker, on the newest observation."""
        self.acting.act(self.observation)

    def live(self, beats):
        while self.number < beats - 1:
            self.beat()
            self.decide()

    def commands(self, first=0):
        return [self.sent.get(beat) for beat in range(first, self.number + 1)]


def test_every_beat_has_its_action_while_inference_takes_three(monkeypatch):
    robot = Robot(monkeypatch, SlowPolicy())
    robot.live(40)
    # The first chunk, of beat 0, comes after beat 3; its action i is that of beat 4 + i. The second is due when 4 are
    # left, after beat 7, and is there from beat 11 on: its first action would have been that of beat 7, so 4 are gone.
    # Every later one begins with the one before, four beats on.
    expected = {4 + i: [0, i] for i in range(7)}
    for chunk in range(1, 20):
        made = 7 + 4 * (chunk - 1)
        expected |= {beat: [chunk, beat - made] for beat in range(made + 4, made + 8)}
    assert robot.commands(4) == [expected[beat] for beat in range(4, robot.number + 1)]
    assert all("no action is planned" in robot.said[beat] for beat in range(4)) and robot.sent.get(0) is None
    assert not any(robot.said[beat] for beat in range(4, robot.number))
    assert robot.policy.asked[0] == (0, None)
    assert robot.policy.asked[1] == (4, [[0, i] for i in range(3, 8)]), "normalised, from the observation's beat on"
    assert robot.policy.asked[2] == (4, [[1, i] for i in range(4, 8)])
    assert robot.acting.status.commands == len(robot.sent) and robot.acting.status.held == 0


def test_without_real_time_chunking_the_same_policy_misses_beats(monkeypatch):
    robot = Robot(monkeypatch, SlowPolicy(), real_time=False)
    robot.live(40)
    missed = robot.commands(4).count(None)
    assert missed == 3 * (len(robot.policy.asked) - 1) >= 15


def test_every_observation_that_the_worker_has_is_seen(monkeypatch):
    robot = Robot(monkeypatch, SlowPolicy())
    handed = []
    act = robot.acting.act
    robot.acting.act = lambda observation: handed.append(int(observation.state_S[0])) or act(observation)
    robot.live(40)
    assert robot.policy.seen == handed and len(handed) > len(robot.policy.asked)
    robot = Robot(monkeypatch, SlowPolicy(beats=0))
    robot.live(40)
    assert robot.policy.seen == list(range(40)) and 5 < len(robot.policy.asked) < 15


def test_a_chunk_that_is_carried_out_whole_is_followed_in_time(monkeypatch):
    """As LeRobot's large policies have it by default: the next is due when inference would take the rest."""
    robot = Robot(monkeypatch, SlowPolicy(n_action_steps=CHUNK, beats=2))
    robot.live(60)
    assert None not in robot.commands(3) and not any(robot.said[beat] for beat in range(3, 60))


def test_a_plan_that_has_run_out_is_a_hold_until_the_next(monkeypatch):
    robot = Robot(monkeypatch, SlowPolicy(beats=10))
    robot.live(45)
    held = [beat for beat in range(11, 40) if robot.said[beat]]
    assert held and robot.said[held[0]].startswith("no action is planned, the policy has been deciding for 0.")
    for beat in held:
        assert robot.sent[beat] == robot.sent[beat - 1], "the last position"
    assert robot.acting.status.held == len([beat for beat, said in robot.said.items() if said and beat > 10])
    numbers = [command[0] for command in robot.commands(11)]
    assert sorted(set(numbers)) == list(range(int(numbers[-1]) + 1)), "every plan is carried out in its turn"


def test_a_hold_and_a_reset_empty_the_plan(monkeypatch):
    robot = Robot(monkeypatch, SlowPolicy(beats=0))
    robot.live(3)
    last = robot.sent[2]
    robot.number += 1
    robot.acting.hold()
    assert robot.sent[3] == last
    robot.acting.release(robot.now_s)
    robot.beat()
    assert "no action is planned" in robot.said[4] and robot.sent[4] == last
    robot.decide()
    assert robot.policy.asked[-1] == (0, None), "and the next has nothing to go on from"
    robot.beat()
    assert robot.sent[5] == [1, 0]
    robot.acting.reset()
    robot.beat()
    assert robot.said[6] and robot.sent[6] == [1, 0]


def test_a_plan_begun_before_a_hold_is_not_carried_out(monkeypatch):
    robot = Robot(monkeypatch, SlowPolicy(beats=0))

    def hold_and_go_on():
        robot.acting.hold()
        robot.acting.release(robot.now_s + 0.01)

    robot.policy.beats, robot.policy.beat = 1, hold_and_go_on
    robot.live(1)
    robot.beat()
    assert robot.sent == {} and robot.said[1] and robot.acting.status.late == 1


def test_a_decision_that_fails_holds(monkeypatch):
    robot = Robot(monkeypatch, SlowPolicy(beats=0))
    robot.live(3)
    robot.policy.observe = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        robot.decide()
    robot.beat()
    assert robot.sent[3] == robot.sent[2] and "no action is planned" in robot.said[3]
    assert robot.acting.status.failed == 1 and robot.acting.status.failure.startswith("ZeroDivisionError")
    del robot.policy.observe
    robot.decide()
    robot.beat()
    assert robot.sent[4] == [1, 0] and robot.acting.status.failure == ""
    robot.policy.predict_action_chunk = lambda batch, inference_delay=0, prev_chunk_left_over=None: torch.full(
        (1, CHUNK, 2), float("nan")
    )
    with pytest.raises(Exception, match="the policy's action is not finite"):
        robot.live(20)


def test_what_cannot_be_gone_on_from_is_refused(monkeypatch):
    from lerobot.processor import RelativeActionsProcessorStep

    relative = Processor()
    relative.steps = [RelativeActionsProcessorStep(enabled=True)]
    policy = SlowPolicy()
    monkeypatch.setattr("omnistream_policy.policy._load", lambda *_: (policy, relative, Processor()))
    with pytest.raises(ConfigError, match="cannot go on from actions relative to the state"):
        RealTimeLeRobotPolicy(PolicySettings())
    policy.supports_rtc = lambda: False
    with pytest.raises(ConfigError, match="a policy of type 'slow' does not do that"):
        RealTimeLeRobotPolicy(PolicySettings())


def test_the_projects_own_policy_plans_as_lerobot_asks_it_to(real_time_policy: Path, omnistream_policy: Path):
    from lerobot.policies.factory import make_pre_post_processors

    from lerobot_policy_omnistream.modeling_omnistream import OmnistreamPolicy

    assert type(load_policy(PolicySettings(policy=str(omnistream_policy)))) is LeRobotPolicy
    loaded = load_policy(PolicySettings(policy=str(real_time_policy), rate_hz=1e-1))
    own = OmnistreamPolicy.from_pretrained(real_time_policy).eval()
    before, after = make_pre_post_processors(own.config, str(real_time_policy))
    rng = np.random.default_rng(0)
    taken, chunks = [], []
    for beat in range(10):  # a chunk is due when twelve are left
        image_HW3, state_S = rng.integers(0, 256, (48, 64, 3), np.uint8), rng.normal(size=2)
        batch = before(
            {
                "observation.images.front": torch.from_numpy(image_HW3).permute(2, 0, 1)[None] / 255,
                "observation.state": torch.from_numpy(state_S).float()[None],
            }
        )
        action = loaded.take()
        taken += [] if action is None else [action]
        planned = loaded.plan({"observation.images.front": image_HW3}, state_S, "")
        if beat not in (0, 4, 7):
            assert planned is None
            own.observe(batch)
            continue
        left = chunks[-1][0, 3:] if chunks else None
        chunks.append(own.predict_action_chunk(batch, inference_delay=len(chunks) and 1, prev_chunk_left_over=left))
        np.testing.assert_allclose(planned.actions_TA, after(chunks[-1])[0], atol=1e-5)
        loaded.merge(planned)
    expected = [*after(chunks[0])[0, :4], *after(chunks[1])[0, 1:4], *after(chunks[2])[0, 1:3]]
    np.testing.assert_allclose(taken, torch.stack(expected), atol=1e-5)
