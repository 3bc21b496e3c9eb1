"""The parts of the policy node without processes: limits, watch, messages, parameters, and LeRobot's own policies."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_harness import WORKSPACE
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from omnistream_core.errors import CheckpointError, ConfigError
from omnistream_policy.acting import Acting, Observation
from omnistream_policy.commands import command_maker, state_of, state_reader
from omnistream_policy.limits import Limits
from omnistream_policy.parameters import PolicySettings
from omnistream_policy.policy import LeRobotPolicy, PolicyShape
from omnistream_policy.policy_node import PolicyNode
from omnistream_policy.watch import Watch
from omnistream_ros.conversions import stamp_message
from omnistream_ros.parameters import defaults, markdown_table, ranges

numbers = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3).map(np.array)


@settings(max_examples=200, deadline=None)
@given(wanted=numbers, before=numbers)
def test_a_command_is_within_bounds_or_on_its_way_there_and_never_fast(wanted, before):
    limits = Limits.of(PolicySettings(command_low=[-1.0], command_high=[2.0, 3.0, 4.0], rate_hz=10.0), 3)
    limited = limits.apply(wanted, before)
    assert (np.abs(limited.command_A - before) <= 0.1 + 1e-9 * np.abs(before)).all()
    inside = (before >= limits.low_A) & (before <= limits.high_A)
    assert ((limited.command_A >= limits.low_A) & (limited.command_A <= limits.high_A))[inside].all()
    nearest = np.clip(wanted, limits.low_A, limits.high_A)
    assert (np.abs(nearest - limited.command_A) <= np.abs(nearest - before)).all(), "never away from what is wanted"
    if limited.clipped == limited.slowed == 0:
        assert (limited.command_A == wanted).all()


def test_watch_knows_news_from_repetition():
    watch = Watch(("/a", "/b"))
    assert watch.complaint(0.0, 0.3) in ("nothing on /a yet", "nothing on /b yet")
    watch.heard("/a", 1.0, 5)
    watch.heard("/b", 1.0, 0)
    assert watch.complaint(1.2, 0.3) == ""
    watch.heard("/a", 1.3, 5)  # the same image again
    watch.heard("/b", 1.3, 0)  # a message without a stamp is always new
    assert watch.complaint(1.4, 0.3) == "nothing new on /a for 0.40 s (max_age_s 0.3)"
    watch.forget()
    watch.heard("/a", 1.5, 5)
    watch.heard("/b", 1.5, 0)
    assert watch.complaint(1.5, 0.3) == "nothing on /a yet", "a stamp from before is no news"
    watch.heard("/a", 1.6, 6)
    assert watch.complaint(1.6, 0.3) == ""


def test_age_counts_from_the_stamp_where_there_is_one_that_can_be_believed():
    clock_ns = 1_700_000_000_000_000_000
    watch = Watch(("/a",))
    watch.heard("/a", 1.0, clock_ns - 200_000_000, clock_ns)
    assert watch.age_s("/a", 1.05) == pytest.approx(0.25) and watch.complaint(1.05, 0.3) == ""
    assert watch.complaint(1.15, 0.3) == "the newest on /a was stamped 0.35 s ago (max_age_s 0.3)"
    assert watch.complaint(1.5, 0.3) == "nothing new on /a for 0.50 s (max_age_s 0.3)"
    watch.heard("/a", 2.0, clock_ns - 5_000_000_000, clock_ns)
    assert watch.complaint(2.0, 0.3) == "the newest on /a was stamped 5.00 s ago (max_age_s 0.3)"
    for stamp_ns in (0, clock_ns + 3_600_000_000_000):  # none; of another clock, an hour ahead
        watch.heard("/a", 3.0, stamp_ns, clock_ns)
        assert watch.complaint(3.2, 0.3) == ""
        assert watch.complaint(3.4, 0.3) == "nothing new on /a for 0.40 s (max_age_s 0.3)"
    watch.heard("/a", 4.0, clock_ns, 0)  # with use_sim_time, before the first /clock
    assert watch.complaint(4.2, 0.3) == "" and watch.complaint(4.4, 0.3) != ""


class Recorder:
    """A policy that does what it is told, and what was sent."""

    shape = PolicyShape(images_hw={}, state_size=2, action_size=2)

    def __init__(self, **changes):
        self.sent, self.wants, self.settings = [], np.zeros(2), PolicySettings(rate_hz=10.0, **changes)
        self.acting = Acting(self, Limits.of(self.settings, 2), self.settings, lambda m: m, self.sent.append)

    def reset(self):
        pass

    def act(self, images, state_S, task):
        self.meanwhile()
        return self.wants

    def meanwhile(self):
        pass

    def see(self, arm=(0.0, 0.0), taken_s=float("inf")):
        arm_A = np.array(arm) if self.settings.command_kind == "position" else None
        self.acting.act(Observation(images={}, state_S=np.zeros(2), arm_A=arm_A, task="", taken_s=taken_s))


def test_the_first_position_starts_where_the_arm_is_and_a_hold_repeats_the_last():
    robot = Recorder()
    robot.wants = np.array([1.0, 1.0])
    robot.see(arm=(0.5, 1.0))
    assert robot.sent == [], "nothing is sent before the node lets it"
    robot.acting.hold()
    assert robot.sent == [], "there is no position to hold yet"
    robot.acting.release(0.0)
    robot.see(arm=(0.5, 1.0))
    np.testing.assert_allclose(robot.sent[-1], [0.6, 1.0])
    robot.see(arm=(0.5, 1.0))
    np.testing.assert_allclose(robot.sent[-1], [0.7, 1.0], err_msg="from the last command on")
    robot.acting.hold()
    robot.see()
    np.testing.assert_allclose(robot.sent[2:], [[0.7, 1.0]])
    robot.acting.release(0.0)
    robot.see(taken_s=0.0)
    assert len(robot.sent) == 3 and robot.acting.status.late == 3, "an observation long gone"


def test_what_was_commanded_before_is_forgotten():
    robot = Recorder()
    robot.wants = np.array([1.0, 1.0])
    robot.acting.release(0.0)
    robot.see(arm=(0.5, 1.0))
    robot.acting.hold()
    sent = len(robot.sent)
    robot.acting.forget()
    robot.acting.hold()
    assert len(robot.sent) == sent, "the position of before is not held"
    robot.acting.release(0.0)
    robot.see(arm=(-2.0, 3.0))
    np.testing.assert_allclose(robot.sent[sent:], [[-1.9, 2.9]])


def test_a_decision_on_what_was_seen_before_a_hold_is_not_sent():
    robot = Recorder(max_age_s=60.0)
    now_s = time.monotonic()

    def hold_and_go_on():
        robot.acting.hold()
        robot.acting.release(now_s)

    robot.acting.release(now_s - 1)
    robot.meanwhile = hold_and_go_on
    robot.see(taken_s=now_s - 0.5)
    assert robot.sent == [] and robot.acting.status.late == 1
    robot.see(taken_s=now_s)
    assert len(robot.sent) == 1, "one of the same beat is"


def test_velocities_are_held_at_zero_and_start_from_zero():
    robot = Recorder(command_kind="velocity")
    robot.wants = np.array([0.3, -0.3])
    robot.acting.release(0.0)
    robot.see()
    robot.see()
    robot.acting.hold()
    robot.acting.release(0.0)
    robot.see()
    robot.acting.forget()
    robot.see()
    np.testing.assert_allclose(robot.sent, [[0.1, -0.1], [0.2, -0.2], [0, 0], [0.1, -0.1], [0.1, -0.1]])


def test_states_and_commands_as_messages():
    joints = JointState(name=["b", "a"], position=[2.0, 1.0])
    assert state_of(joints, ["a", "b"], 2).tolist() == [1.0, 2.0]
    assert state_of(joints, [], 2).tolist() == [2.0, 1.0]
    assert state_of(Float64MultiArray(data=[1.0, 2.0, 3.0]), ["a"], 3).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="joint_states gives 2 numbers; 7 are needed"):
        state_of(joints, [], 7)
    with pytest.raises(ConfigError, match=r"not finite: \[nan, 1\.0\]"):
        state_of(JointState(name=["b", "a"], position=[float("nan"), 1.0]), [], 2)
    now = stamp_message(1_500_000_000)
    twist = command_maker(PolicySettings(command_type="twist_stamped"), 6)(np.arange(6.0), now)
    assert (twist.twist.linear.y, twist.twist.angular.z, twist.header.frame_id) == (1.0, 5.0, "base_link")
    assert twist.header.stamp.nanosec == 500_000_000
    array = command_maker(PolicySettings(command_type="float64_multi_array"), 3)(np.arange(3.0), now)
    assert list(array.data) == [0.0, 1.0, 2.0]
    with pytest.raises(ConfigError, match="action has 7 numbers; a twist has 6"):
        command_maker(PolicySettings(command_type="twist_stamped"), 7)
    with pytest.raises(ConfigError, match="action has 7 numbers; command_joints names 1: a"):
        command_maker(PolicySettings(joints=["a"]), 7)


NUMBERS = {"state_type": "float64_multi_array", "command_type": "float64_multi_array"}


@pytest.mark.parametrize(
    ("changes", "state", "arm"),
    [
        ({"joints": ["a", "b"]}, [1.0, 2.0], [1.0, 2.0]),
        ({"joints": ["a", "b"], "command_joints": ["b", "a"]}, [1.0, 2.0], [2.0, 1.0]),
        ({"joints": ["a", "b"], "command_joints": ["c", "a"]}, [1.0, 2.0], [3.0, 1.0]),
        ({"command_joints": ["c", "a"], "command_type": "float64_multi_array"}, [2.0, 3.0, 1.0], [3.0, 1.0]),
        ({"joints": ["a"], "command_joints": ["b", "c"]}, [1.0], [2.0, 3.0]),
        ({"command_joints": ["b", "c"]}, [], [2.0, 3.0]),
        ({"joints": ["a", "b"], "command_kind": "velocity"}, [1.0, 2.0], None),
        ({"command_kind": "velocity", "command_type": "twist_stamped"}, [2.0, 3.0, 1.0], None),
        (NUMBERS, [2.0, 3.0], [2.0, 3.0]),
        (NUMBERS | {"joints": ["b", "c", "a"], "command_joints": ["a", "b"]}, [2.0, 3.0, 1.0], [1.0, 2.0]),
    ],
    ids=str,
)
def test_where_the_arm_is_goes_by_the_names_of_the_commands_joints(changes, state, arm):
    message = JointState(name=["b", "c", "a"], position=[2.0, 3.0, 1.0])
    if changes.get("state_type"):
        message = Float64MultiArray(data=state)
    state_S, arm_A = state_reader(PolicySettings(**changes), len(state), 2)(message)
    assert state_S.tolist() == state
    assert (arm_A if arm_A is None else arm_A.tolist()) == arm


@pytest.mark.parametrize(
    ("changes", "state_size", "message"),
    [
        ({"joints": ["a", "b", "c"], "command_type": "float64_multi_array"}, 3, "action has 2 numbers; command_joints"),
        ({"command_type": "float64_multi_array"}, 2, "action has 2 numbers; command_joints names 0: none"),
        ({"command_type": "twist_stamped"}, 6, "needs command_kind = 'velocity'"),
        (NUMBERS, 16, "state has 16 numbers, joints names none, the command moves 2 without names"),
        (NUMBERS | {"command_joints": ["a", "b"]}, 2, "2 numbers, joints names none, the command moves a, b"),
        (NUMBERS | {"joints": ["a", "c"], "command_joints": ["a", "b"]}, 2, "names a, c, the command moves a, b"),
        (NUMBERS | {"joints": ["a", "b"]}, 3, "state has 3 numbers, joints names a, b, the command moves a, b"),
    ],
    ids=str,
)
def test_positions_that_could_not_be_limited_are_refused(changes, state_size, message):
    with pytest.raises(ConfigError, match=message):
        state_reader(PolicySettings(**changes), state_size, 2)
    changes = changes | {"command_kind": "velocity"}
    state_reader(PolicySettings(**changes), state_size, 2)


def test_a_state_that_does_not_tell_where_the_arm_is_is_refused():
    read = state_reader(PolicySettings(joints=["a"], command_joints=["a", "c"]), 1, 2)
    with pytest.raises(ConfigError, match="joint_states lacks c; it has: a, b"):
        read(JointState(name=["a", "b"], position=[1.0, 2.0]))
    with pytest.raises(ConfigError, match="joint_states gives 3 numbers; 2 are needed"):
        state_reader(PolicySettings(**NUMBERS), 0, 2)(Float64MultiArray(data=[1.0, 2.0, 3.0]))


def test_another_rate_than_that_of_the_data_is_said():
    shape = PolicyShape(images_hw={}, state_size=2, action_size=2, rate_hz=10.0)
    assert shape.rate_complaint(10.0) == shape.rate_complaint(10.05) == ""
    expected = "rate_hz is 20; the policy was trained at 10 Hz: it moves 2 times as fast"
    assert shape.rate_complaint(20.0) == expected
    assert Recorder.shape.rate_complaint(20.0) == "", "unknown"


class Told:
    """A policy with a text encoder."""

    shape = PolicyShape(
        images_hw={"observation.images.front": (48, 64)}, state_size=0, action_size=2, text_encoder="minilm"
    )

    def __init__(self, settings):
        pass

    def reset(self):
        pass


@pytest.fixture
def told(domain):
    """The policy node, in this process, with a policy that must be told what to do."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    overrides = {"command_kind": "velocity", "command_type": "float64_multi_array"}
    parameters = [Parameter(name, value=value) for name, value in overrides.items()]
    node = PolicyNode(policy_factory=Told, context=context, parameter_overrides=parameters)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_policy_that_is_told_what_to_do_does_nothing_without_a_task(told):
    complaint = "task = '': the policy has a text_encoder (minilm) and must be told what to do"
    assert Told.shape.task_complaint("") == complaint and Told.shape.task_complaint("lift the cube") == ""
    assert Recorder.shape.task_complaint("") == "", "it is not told"
    assert told.trigger_configure() == TransitionCallbackReturn.FAILURE
    told.set_parameters([Parameter("task", value="lift the cube")])
    assert told.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert told._reason_to_hold(0.0) == "nothing on /front/image_raw yet"
    told.set_parameters([Parameter("task", value="")])
    assert told._reason_to_hold(0.0) == complaint, "it may be changed while the policy acts"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_hz": 0.0}, "rate_hz = 0.0: 0.1 to 1000 is needed"),
        ({"command_type": "smoke"}, "command_type = 'smoke': one of 'joint_trajectory'"),
        ({"command_low": [1.0], "command_high": [2.0, 0.5]}, "low must not exceed high"),
        ({"command_low": [1.0, 2.0], "command_high": [2.0, 3.0, 4.0]}, "one number each, or the same number"),
        ({"max_change_per_s": [0.0]}, "must be positive"),
    ],
)
def test_illegal_parameters_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        PolicySettings(**changes)


def test_limits_must_fit_the_action():
    with pytest.raises(ConfigError, match="command_low has 2 numbers; the policy's action has 7: give 7 or 1"):
        Limits.of(PolicySettings(command_low=[0.0, 0.0]), 7)


def test_the_readme_has_the_table_and_every_parameter_is_described():
    assert markdown_table(PolicySettings) in (WORKSPACE / "README.md").read_text()
    for name, limits in ranges(PolicySettings).items():
        assert limits.description
        if isinstance(defaults(PolicySettings)[name], float):
            assert limits.low is not None, name


# ---- LeRobot ----


def test_a_saved_policy_acts_as_lerobot_itself_does(act_policy):
    import torch
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    loaded = LeRobotPolicy(PolicySettings(policy=str(act_policy)))
    assert loaded.shape == PolicyShape(
        images_hw={"observation.images.front": (48, 64)}, state_size=2, action_size=2
    ) and loaded.shape.cameras() == {"observation.images.front": "front"}
    rng = np.random.default_rng(0)
    image_HW3, state_S = rng.integers(0, 256, (48, 64, 3), np.uint8), rng.normal(size=2)
    own = ACTPolicy.from_pretrained(act_policy).eval()
    before, after = make_pre_post_processors(own.config, str(act_policy))
    batch = {
        "observation.images.front": torch.from_numpy(image_HW3).permute(2, 0, 1)[None] / 255,
        "observation.state": torch.from_numpy(state_S).float()[None],
    }
    with torch.inference_mode():
        expected_BTA = after(own.predict_action_chunk(before(batch)))
    acted = [loaded.act({"observation.images.front": image_HW3}, state_S, "") for _ in range(3)]
    np.testing.assert_allclose(acted, expected_BTA[0, :3], atol=1e-6)
    loaded.reset()
    np.testing.assert_allclose(loaded.act({"observation.images.front": image_HW3}, state_S, ""), acted[0], atol=1e-6)


def test_policies_that_are_not_there_or_ask_for_more_are_refused(tmp_path):
    from lerobot.configs import FeatureType, PolicyFeature

    from omnistream_policy.policy import shape_of

    with pytest.raises(ConfigError, match="policy = ''"):
        LeRobotPolicy(PolicySettings())
    with pytest.raises(CheckpointError, match="LeRobot loads no policy from there"):
        LeRobotPolicy(PolicySettings(policy=str(tmp_path)))
    action = PolicyFeature(FeatureType.ACTION, (7,))
    told = SimpleNamespace(
        image_features={}, input_features={}, output_features={"action": action}, text_encoder="minilm"
    )
    assert shape_of(told).text_encoder == "minilm"
    feature = PolicyFeature(FeatureType.ENV, (9,))
    config = SimpleNamespace(image_features={}, input_features={"observation.environment_state": feature})
    with pytest.raises(ConfigError, match=r"asks for observation\.environment_state; topics bring images and"):
        shape_of(config)
