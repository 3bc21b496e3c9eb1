"""Plans, ensembles and real-time chunking: which action comes when."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies.act.modeling_act import ACTTemporalEnsembler
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor

from lerobot_policy_omnistream.acting import Ensemble, Plans
from lerobot_policy_omnistream.configuration_omnistream import HEADS
from lerobot_policy_omnistream.heads import OldChunk, crossfade, without_padding

from .conftest import make, observation, small_config


def test_a_plan_is_carried_out_before_the_next_is_due():
    plans = Plans(rows=2, n_action_steps=2)
    assert plans.due() == {False: [0, 1]}
    plans.put([0, 1], torch.arange(6.0).reshape(2, 3, 1)), plans.note([0, 1])
    assert plans.take().flatten().tolist() == [0, 3] and plans.due() == {}
    plans.reset([1])
    assert plans.due() == {False: [1]}
    plans.put([1], torch.full((1, 3, 1), 9.0)), plans.note([1])
    assert plans.take().flatten().tolist() == [1, 9]
    assert plans.due() == {True: [0]} and plans.left_over([0]).flatten().tolist() == [2]
    assert plans.count == [1, 1]


@pytest.mark.parametrize("way", ["select_action", "predict_action_chunk", "ensemble"])
def test_every_chunk_of_a_row_has_its_own_noise_and_a_reset_begins_anew(dataset, way):
    settings = {"temporal_ensemble_coeff": 0.01} if way == "ensemble" else {}
    policy, before, _ = make(small_config(head="flow", n_action_steps=1, **settings), dataset)
    act = policy.predict_action_chunk if way == "predict_action_chunk" else policy.select_action
    drawn, draw = {0: [], 1: []}, policy._noise

    def noted(rows):
        noise_BTA = draw(rows)
        for row, noise_TA in zip(rows, noise_BTA, strict=True):
            drawn[row].append(noise_TA)
        return noise_BTA

    policy._noise = noted
    seen = before(observation(2, 0))
    act(seen), act(seen), policy.reset([1]), act(seen), policy.reset(), act(seen)
    first, second, third, again = drawn[0]
    assert not torch.equal(first, second) and not torch.equal(second, third) and not torch.equal(first, third)
    assert all(torch.equal(*pair) for pair in zip(drawn[1], (first, second, first, first), strict=True))
    assert torch.equal(again, first)


@pytest.mark.parametrize("coefficient", [0.01, 0.0, -0.5])
def test_the_ensemble_is_that_of_act(coefficient):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = Ensemble(2, 4, coefficient), ACTTemporalEnsembler(coefficient, 4)
    for _ in range(9):
        chunks_BTA = torch.randn(2, 4, 3, generator=generator)
        torch.testing.assert_close(ours.take(chunks_BTA), theirs.update(chunks_BTA.clone()))


def test_an_ensemble_row_is_reset_alone():
    ensemble = Ensemble(2, 3, 0.0)
    ensemble.take(torch.zeros(2, 3, 1))
    ensemble.reset([1])
    assert ensemble.take(torch.ones(2, 3, 1)).flatten().tolist() == [0.5, 1.0]


def test_the_old_chunk_fades_into_the_new_one():
    rtc = RTCProcessor(RTCConfig(execution_horizon=4))
    old = OldChunk(actions_BTA=torch.ones(1, 5, 1), delay_steps=2, rtc=rtc)
    faded = crossfade(torch.zeros(1, 6, 1), old).flatten()
    assert faded[:2].tolist() == [1, 1] and faded[4:].tolist() == [0, 0]
    assert 1 > faded[2] > faded[3] > 0
    assert torch.equal(crossfade(torch.zeros(1, 6, 1), None), torch.zeros(1, 6, 1))


@pytest.mark.parametrize("schedule", list(RTCAttentionSchedule))
@pytest.mark.parametrize("horizon", [1, 3, 6, 20])
@pytest.mark.parametrize("left", [1, 3, 6])
def test_beyond_the_old_chunk_there_is_only_the_new_one(schedule, horizon, left):
    """Both chunks are full of ones: were the padding faded to, or faded from, something else would come out."""
    rtc = RTCProcessor(RTCConfig(execution_horizon=horizon, prefix_attention_schedule=schedule))
    for delay in range(left + 1):
        old = OldChunk(actions_BTA=torch.ones(1, left, 1), delay_steps=delay, rtc=rtc)
        torch.testing.assert_close(crossfade(torch.ones(1, 6, 1), old), torch.ones(1, 6, 1))
        during = crossfade(torch.zeros(1, 6, 1), old)[0, :delay, 0]
        assert during.tolist() == [1] * delay, "what is carried out meanwhile, also beyond the horizon"


def test_padding_is_no_plan():
    left_BTA = torch.tensor([[1.0, 0, 2, 0, 0], [0.0, 0, 3, 0, 0]])[..., None]
    assert torch.equal(without_padding(left_BTA), left_BTA[:, :3]), "a zero between actions is one of them"
    assert without_padding(torch.zeros(2, 3, 1)).shape == (2, 0, 1) == without_padding(torch.zeros(2, 0, 1)).shape


@pytest.mark.parametrize("head", HEADS)
def test_during_the_delay_the_old_plan_goes_on(dataset, head):
    """With a delay of two steps, the first two actions after planning anew are those planned before."""
    rtc = RTCConfig(execution_horizon=3)
    config = small_config(head=head, n_action_steps=3, rtc_config=rtc, rtc_delay_steps=2)
    policy, before, _ = make(config, dataset)
    planned = []
    plan = policy._plan
    policy._plan = lambda *a, **k: planned.append(plan(*a, **k)) or planned[-1]
    with torch.inference_mode():  # as lerobot-eval runs it
        actions = torch.stack([policy.select_action(before(observation(2, seed))) for seed in range(6)], dim=1)
    first, second = planned
    torch.testing.assert_close(actions[:, :3], first[:, :3])
    torch.testing.assert_close(actions[:, 3:5], first[:, 3:5])
    assert not torch.allclose(second[:, 2:3], first[:, 5:6]), "then the new plan takes over"
    torch.testing.assert_close(actions[:, 5], second[:, 2])


def test_guidance_pulls_the_flow_towards_the_old_chunk(dataset):
    """Beyond the delay, where only LeRobot's guidance acts, the new chunk lies nearer to the old one with it."""
    config = small_config(head="flow", flow_steps=8, rtc_config=RTCConfig(execution_horizon=6))
    policy, before, _ = make(config, dataset)
    seen, noise = before(observation(2, 0)), torch.randn(2, 6, 2)
    old = torch.full((2, 6, 2), 3.0)
    free = policy.predict_action_chunk(seen, noise=noise)
    policy.reset()
    guided = policy.predict_action_chunk(seen, noise=noise, inference_delay=1, prev_chunk_left_over=old)
    torch.testing.assert_close(guided[:, 0], old[:, 0])
    assert (guided[:, 1:4] - old[:, 1:4]).abs().mean() < 0.8 * (free[:, 1:4] - old[:, 1:4]).abs().mean()


def test_lerobots_real_time_loop_can_use_it(dataset):
    from lerobot.rollout.inference.rtc import supports_rtc_inference

    policy, before, _ = make(small_config(head="flow"), dataset)
    assert supports_rtc_inference(policy)
    policy.config.rtc_config = RTCConfig(execution_horizon=4)
    policy.init_rtc_processor()
    first = policy.predict_action_chunk(before(observation(1, 0)), inference_delay=0, prev_chunk_left_over=None)
    left = first[0, 2:]  # without a batch axis, as LeRobot's queue hands it over
    second = policy.predict_action_chunk(before(observation(1, 1)), inference_delay=2, prev_chunk_left_over=left)
    torch.testing.assert_close(second[:, :2], first[:, 2:4])


@pytest.mark.parametrize("head", HEADS)
def test_short_left_overs(dataset, head):
    """LeRobot's loop pads them with zeros to its horizon, may find the queue empty, and may be slower than it lasts."""
    policy, before, _ = make(small_config(head=head, rtc_config=RTCConfig(execution_horizon=5)), dataset)
    seen, noise = before(observation(1, 0)), torch.randn(1, 6, 2)

    def plan(left, delay):
        policy.reset()
        return policy.predict_action_chunk(seen, noise=noise, inference_delay=delay, prev_chunk_left_over=left)

    left = torch.full((3, 2), 2.0)
    torch.testing.assert_close(plan(F.pad(left, (0, 0, 0, 2)), 1), plan(left, 1))
    assert not torch.allclose(plan(left, 1), plan(None, 1))
    for nothing in (left[:0], torch.zeros(5, 2)):
        torch.testing.assert_close(plan(nothing, 1), plan(None, 0))
    torch.testing.assert_close(plan(left, 5)[0, :3], left, msg="a delay longer than what was left")


def test_to_observe_is_to_push_and_nothing_else(dataset):
    """Planned after observations that were only pushed: as by a policy that planned at each of them."""
    one, before, _ = make(small_config(), dataset)
    other, *_ = make(small_config(), dataset)
    seen = [before(observation(1, seed)) for seed in range(3)]
    for batch in seen[:2]:
        assert one.observe(batch) is None
        other.predict_action_chunk(batch)
    torch.testing.assert_close(one.predict_action_chunk(seen[2]), other.predict_action_chunk(seen[2]))
    other.reset()
    assert not torch.allclose(one.predict_action_chunk(seen[2]), other.predict_action_chunk(seen[2]))
