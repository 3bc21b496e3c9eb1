"""The policy node as a process, before a robot that this test plays: it acts, it keeps within its limits, it holds."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import Peer, Process, Workspace, image_message, new_domain, ros_arguments
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

COMMAND, NODE = "/policy_node/command", "/policy_node"
JOINTS = ["shoulder", "elbow"]
RATE_HZ, MAX_AGE_S, PERIOD_S = 20.0, 0.4, 0.02
SETTINGS = {
    "autostart": True,
    "rate_hz": RATE_HZ,
    "max_age_s": MAX_AGE_S,
    "joints": JOINTS,
    "command_low": [-3.0],
    "command_high": [3.0, 2.0],
    "max_change_per_s": [10.0],
}


# Of a saved policy whose numbers are to be heard as it says them.
LOOSE = {
    "autostart": True,
    "rate_hz": 5.0,
    "joints": JOINTS,
    "command_type": "float64_multi_array",
    "max_change_per_s": [1e9],
}


class Robot:
    """Camera and joints at 50 Hz for as long as it is told, and the commands that come."""

    def __init__(self, process: Process, peer: Peer, kind: type = JointTrajectory) -> None:
        self.process, self.peer = process, peer
        self.commands = peer.listen(COMMAND, kind)
        self.stamp_ns = time.time_ns()
        self.grey, self.joints = 100, {"elbow": 0.5, "gripper": 9.0, "shoulder": 0.25}

    def live(
        self,
        seconds: float,
        *,
        camera: bool = True,
        frozen: bool = False,
        behind_s: float = 0.0,
        joints: bool = True,
    ) -> list[Any]:
        """Publish for so long, images stamped ``behind_s`` ago; the commands that came meanwhile."""
        before, end_s = len(self.commands), time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.stamp_ns = self.stamp_ns if frozen else time.time_ns() - round(behind_s * 1e9)
            if camera:
                image = image_message(np.full((48, 64, 3), self.grey, np.uint8), self.stamp_ns)
                self.peer.publish("/front/image_raw", image)
            if joints:
                state = JointState(name=list(self.joints), position=list(self.joints.values()))
                self.peer.publish("/joint_states", state, 10)
            self.peer.spin(PERIOD_S)
        return self.commands[before:]

    def until_it_acts(self) -> None:
        for _ in range(60):
            self.live(0.5)
            if self.peer.sentence().startswith("acting") and len(self.commands):
                return
        raise AssertionError(f"it does not act, {self.peer.sentence()!r}:\n{self.process.text()}")

    def figure(self, key: str) -> str:
        """From diagnostics written from now on, while the robot lives."""
        self.peer.heard["/diagnostics"].clear()
        while not self.peer.figures():
            self.live(0.2)
        return self.peer.figures()[key]

    def say(self, task: str) -> None:
        assert self.peer.set_parameters(NODE, task=task)[0].successful


def positions(commands: list[JointTrajectory]) -> np.ndarray:
    return np.array([command.points[0].positions for command in commands])


@pytest.fixture(scope="module")
def one_robot(workspace: Workspace) -> Iterator[Robot]:
    domain = new_domain()
    with workspace.script(Path(__file__).with_name("fake_policy_node.py"), domain, *ros_arguments(SETTINGS)) as process:
        process.wait_for("configured")
        with Peer(domain) as peer:
            yield Robot(process, peer)
        assert process.stop() == 0, process.text()


@pytest.fixture
def robot(one_robot: Robot) -> Iterator[Robot]:
    one_robot.until_it_acts()
    yield one_robot
    one_robot.say("")
    assert one_robot.process.is_alive(), one_robot.process.text()


def test_it_acts_at_its_rate_on_what_it_sees(robot):
    robot.grey = 150
    robot.live(1.0)
    commands = robot.live(2.0)
    assert 0.6 * 2 * RATE_HZ <= len(commands) <= 1.1 * 2 * RATE_HZ + 2
    assert commands[-1].joint_names == JOINTS and len(commands[-1].points) == 1
    np.testing.assert_allclose(positions(commands[-3:]), [[1.5, 0.75]] * 3, err_msg="the gripper is not its affair")
    assert commands[-1].points[0].time_from_start.nanosec == round(1e9 / RATE_HZ)
    assert float(robot.figure("latency ms p50 p95").split()[0]) < 1e3 * MAX_AGE_S


def test_commands_stay_within_their_limits_and_change_slowly(robot):
    robot.live(1.0)
    robot.say("far")
    commands = positions(robot.live(2.0))
    np.testing.assert_allclose(commands[-1], [3.0, -3.0])
    assert np.abs(np.diff(commands, axis=0)).max() < 10 / RATE_HZ + 1e-9
    assert int(robot.figure("numbers clipped")) > 0 and int(robot.figure("numbers slowed")) > 0


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"camera": False}, "holding: nothing new on /front/image_raw for"),
        ({"frozen": True}, "holding: nothing new on /front/image_raw for"),
        ({"joints": False}, "holding: nothing new on /joint_states for"),
    ],
    ids=["no images", "a camera that hangs", "no joints"],
)
def test_without_fresh_input_it_holds_and_says_so(robot, what, sentence):
    robot.grey = 120
    robot.live(1.0)
    resets = int(robot.figure("resets"))
    robot.live(MAX_AGE_S + 0.3, **what)
    robot.grey = 220  # what it would do with a picture that came after all
    held = []
    for _ in range(10):  # a loaded machine is slow
        held += robot.live(1.0, **(what | {"camera": False}))
        if len(held) > 5:
            break
    assert robot.peer.sentence().startswith(sentence), robot.peer.sentence()
    assert "(max_age_s 0.4)" in robot.peer.sentence()
    assert len(held) > 5 and (positions(held) == positions(held)[0]).all(), "the last position, again and again"
    np.testing.assert_allclose(positions(held)[0], [1.2, 0.75])
    robot.until_it_acts()
    np.testing.assert_allclose(positions(robot.live(1.0))[-1], [2.2, 0.75])
    assert int(robot.figure("resets")) > resets, "the policy began anew"


def test_pictures_that_come_late_are_not_acted_on(robot):
    robot.grey = 120
    robot.live(1.0)
    robot.live(0.5, behind_s=5.0)
    robot.grey = 220
    held = positions(robot.live(1.5, behind_s=5.0))
    assert robot.peer.sentence().startswith("holding: the newest on /front/image_raw was stamped 5."), "as old as it is"
    assert "holding: the newest on /front/image_raw was stamped" in robot.process.text()
    assert len(held) > 5
    np.testing.assert_allclose(held, [[1.2, 0.75]] * len(held), err_msg="the last position, again and again")
    robot.until_it_acts()


def test_stamps_of_a_clock_that_is_ahead_count_from_their_arrival(robot):
    robot.grey = 120
    robot.live(1.0, behind_s=-3600.0)
    commands = robot.live(1.5, behind_s=-3600.0)
    assert len(commands) > 5 and robot.peer.sentence() == "acting"
    np.testing.assert_allclose(positions(commands)[-1], [1.2, 0.75])
    robot.live(MAX_AGE_S + 1.2, camera=False)
    assert robot.peer.sentence().startswith("holding: nothing new on /front/image_raw for")
    robot.until_it_acts()


def test_joints_that_are_missing_are_named(robot):
    robot.joints = {"wrist": 1.0, "elbow": 0.5}
    try:
        robot.live(1.5)
        assert robot.peer.sentence() == "holding: joint_states lacks shoulder; it has: wrist, elbow"
    finally:
        robot.joints = {"elbow": 0.5, "gripper": 9.0, "shoulder": 0.25}


def test_a_policy_that_thinks_too_long_is_not_waited_for(robot):
    robot.grey = 120
    robot.live(1.0)
    robot.say("slow")
    robot.grey = 230
    commands = robot.live(3.0)
    assert "holding: the policy has been deciding for" in robot.process.text()
    np.testing.assert_allclose(positions(commands), [[1.2, 0.75]] * len(commands), err_msg="decisions came too late")
    assert int(robot.figure("late")) > 0


def test_an_action_that_is_no_number_is_not_sent(robot):
    robot.grey = 120
    robot.live(1.0)
    robot.say("nan")
    robot.live(0.5)
    commands = robot.live(1.5)
    assert len(commands) > 5 and np.isfinite(positions(commands)).all()
    assert robot.peer.sentence().startswith("no decision: SourceError: the policy's action is not finite")


def test_a_picture_of_another_aspect_is_refused(robot):
    for _ in range(40):
        robot.peer.publish("/front/image_raw", image_message(np.zeros((64, 64, 3), np.uint8), time.time_ns()))
        robot.live(0.03, camera=False)
    robot.process.wait_for("64x64 px; the policy was trained on 64x48", 10)


def test_activation_begins_where_the_arm_is(robot):
    """Moved by hand while nothing was commanded, it does not spring back."""
    robot.grey = 200
    robot.live(1.0)
    assert robot.peer.change_state("deactivate", NODE)
    robot.live(0.3)
    before, start = robot.joints, len(robot.commands)
    robot.joints = {"elbow": -1.0, "gripper": 9.0, "shoulder": -0.5}
    try:
        robot.live(0.5)
        assert robot.peer.change_state("activate", NODE)
        robot.live(0.5, camera=False)
        assert robot.commands[start:] == [], "without a picture there is nothing to do, and no old position to hold"
        robot.until_it_acts()
        robot.live(1.0)
        commands = positions(robot.commands[start:])
        np.testing.assert_allclose(commands[0], [0.0, -1.5], err_msg="half a radian a beat from where the arm is")
        np.testing.assert_allclose(commands[-1], [2.0, -1.5])
    finally:
        robot.joints = before


def configured_anew(robot: Robot, command_joints: list[str]) -> int:
    """The node is active again, with these joints; how many commands had come before."""
    assert robot.peer.change_state("deactivate", NODE) and robot.peer.change_state("cleanup", NODE)
    robot.peer.set_parameters(NODE, command_joints=command_joints)
    robot.live(0.3)
    assert robot.peer.change_state("configure", NODE) and robot.peer.change_state("activate", NODE)
    robot.peer.heard["/diagnostics"].clear()
    return len(robot.commands)


def test_the_first_command_starts_from_the_joints_of_its_names(robot):
    robot.grey = 100
    start = configured_anew(robot, ["elbow", "shoulder"])
    robot.until_it_acts()
    np.testing.assert_allclose(positions(robot.commands[start:])[0], [1.0, 0.75], err_msg="half a radian a beat")
    configured_anew(robot, [""])


def test_joints_whose_place_is_unknown_are_not_commanded(robot):
    start = configured_anew(robot, ["elbow", "wrist"])
    robot.live(2.0)
    assert robot.peer.sentence() == "holding: joint_states lacks wrist; it has: elbow, gripper, shoulder"
    assert robot.commands[start:] == []
    configured_anew(robot, [""])


def test_services_and_lifecycle(robot):
    assert robot.peer.call(SetBool, f"{NODE}/set_enabled", SetBool.Request(data=False)).success
    robot.live(1.3)
    assert robot.peer.sentence() == "holding: disabled by set_enabled"
    assert robot.peer.call(SetBool, f"{NODE}/set_enabled", SetBool.Request(data=True)).success
    assert robot.peer.call(Trigger, f"{NODE}/reset", Trigger.Request()).success
    refused = robot.peer.set_parameters(NODE, rate_hz=5.0)[0]
    assert not refused.successful and "takes effect at configure" in refused.reason
    assert robot.peer.change_state("deactivate", NODE)
    robot.live(0.5)
    assert robot.live(0.5) == [], "an inactive node commands nothing"
    assert robot.peer.change_state("cleanup", NODE)
    robot.peer.set_parameters(NODE, command_joints=["a"])
    assert not robot.peer.change_state("configure", NODE)
    robot.process.wait_for("the policy's action has 2 numbers; command_joints names 1: a", 10)
    robot.peer.set_parameters(NODE, command_joints=[""])
    assert robot.peer.change_state("configure", NODE) and robot.peer.change_state("activate", NODE)
    robot.until_it_acts()


@pytest.mark.timeout(1200)  # a loaded machine takes minutes to import LeRobot
def test_the_executable_runs_a_policy_that_lerobot_saved(workspace, act_policy, domain):
    """Before an unchanging picture and state, the commands are the policy's chunk, number after number, for ever."""
    parameters = LOOSE | {"policy": str(act_policy), "max_age_s": 5.0}
    with workspace.run("policy_node", domain, parameters, package="omnistream_policy") as process:
        process.wait_for("configured", 300)
        with Peer(domain) as peer:
            robot = Robot(process, peer, Float64MultiArray)
            robot.until_it_acts()
            robot.live(3.0)
        assert process.stop() == 0, process.text()
    assert_is_the_chunk(robot.commands, act_policy, robot.grey, 8)


def assert_is_the_chunk(commands: list[Float64MultiArray], folder: Path, grey: int, size: int) -> None:
    """The commands are those of the saved policy in this process, from anywhere in its chunk on, again and again."""
    from omnistream_policy.parameters import PolicySettings
    from omnistream_policy.policy import LeRobotPolicy

    policy = LeRobotPolicy(PolicySettings(policy=str(folder)))
    picture = {"observation.images.front": np.full((48, 64, 3), grey, np.uint8)}
    chunk = np.array([policy.act(picture, np.array([0.25, 0.5]), "") for _ in range(size)])
    heard = np.array([list(command.data) for command in commands])
    start = int(np.abs(chunk - heard[0]).max(1).argmin())
    assert len(heard) > size and np.ptp(chunk, axis=0).min() > 1e-3, "the chunk moves"
    np.testing.assert_allclose(heard, chunk[(start + np.arange(len(heard))) % size], atol=1e-5)


@pytest.mark.timeout(1200)  # a loaded machine takes minutes to import LeRobot
def test_the_projects_own_policy_acts_holds_and_says_that_its_rate_is_another(workspace, omnistream_policy, domain):
    parameters = LOOSE | {"policy": str(omnistream_policy), "max_age_s": 3.0}
    complaint = "rate_hz is 5; the policy was trained at 10 Hz: it moves 0.5 times as fast"
    with workspace.run("policy_node", domain, parameters, package="omnistream_policy") as process:
        process.wait_for("configured", 300)
        process.wait_for(complaint, 10)
        with Peer(domain) as peer:
            robot = Robot(process, peer, Float64MultiArray)
            robot.until_it_acts()
            robot.live(3.0)
            assert peer.sentence() == f"acting, but {complaint}"
            acted = list(robot.commands)
            for _ in range(20):
                if peer.sentence().startswith("holding"):
                    break
                acted = list(robot.commands)
                robot.live(0.5, camera=False)
            assert peer.sentence().startswith("holding: nothing new on /front/image_raw for")
            start = len(robot.commands)
            held = [list(command.data) for command in robot.live(3.0, camera=False)]
            assert len(held) > 3 and held == [list(robot.commands[start - 1].data)] * len(held)
        assert process.stop() == 0, process.text()
    assert_is_the_chunk(acted, omnistream_policy, robot.grey, 4)


def started(workspace: Workspace, policy: Path, domain: int) -> Process:
    """The node at 10 Hz with a policy of this project whose planning takes three beats."""
    parameters = SETTINGS | {"policy": str(policy), "rate_hz": 10.0, "max_age_s": 5.0, "task": "0.3"}
    return workspace.script(Path(__file__).with_name("slow_policy_node.py"), domain, *ros_arguments(parameters))


def gaps_s(robot: Robot, seconds: float) -> np.ndarray:
    """(N,) seconds between the commands that come within so many."""
    came_s: list[float] = []
    robot.peer.node.create_subscription(JointTrajectory, COMMAND, lambda _: came_s.append(time.monotonic()), 10)
    robot.live(1.0)
    came_s.clear()
    robot.live(seconds)
    gaps = np.diff(came_s)
    print(f"{1 / gaps.mean():.2f} commands a second, the longest gap {gaps.max():.3f} s, late {(gaps > 0.25).sum()}")
    return gaps


@pytest.mark.timeout(1200)  # a loaded machine takes minutes to import LeRobot
def test_without_real_time_chunking_inference_stalls_the_arm(workspace, make_omnistream_policy, domain):
    """The policy of the next test without ``rtc_config``: this is what that is there for."""
    policy = make_omnistream_policy(chunk_size=16, n_action_steps=4)
    with started(workspace, policy, domain) as process:
        process.wait_for("configured", 300)
        with Peer(domain) as peer:
            robot = Robot(process, peer)
            robot.until_it_acts()
            gaps = gaps_s(robot, 8.0)
        assert process.stop() == 0, process.text()
    assert (gaps > 0.25).sum() >= 8 and 1 / gaps.mean() < 8, "every fourth action waits for three beats"


@pytest.mark.timeout(1200)  # a loaded machine takes minutes to import LeRobot
def test_with_real_time_chunking_inference_does_not_stall_the_arm(workspace, real_time_policy, domain):
    with started(workspace, real_time_policy, domain) as process:
        process.wait_for("configured", 300)
        with Peer(domain) as peer:
            robot = Robot(process, peer)
            robot.until_it_acts()
            robot.live(1.0)
            held, resets = int(robot.figure("held")), int(robot.figure("resets"))
            start = len(robot.commands)
            gaps = gaps_s(robot, 8.0)
            commands = robot.commands[start:]
            assert 1 / gaps.mean() > 9.5 and (gaps > 0.25).sum() <= 2, "a loaded machine may miss a beat"
            assert (np.abs(np.diff(positions(commands), axis=0)).max(1) > 0).mean() > 0.9, "actions, not one held"
            assert int(robot.figure("held")) == held
            assert float(robot.figure("latency ms p50 p95").split()[0]) > 300, "from the observation to its plan"

            assert peer.call(Trigger, f"{NODE}/reset", Trigger.Request()).success
            robot.live(1.0)
            emptied = int(robot.figure("held"))
            assert emptied - held >= 3 and peer.sentence() == "acting", "held while the first plan was made"
            assert int(robot.figure("resets")) == resets + 1

            robot.say("3.0")  # a plan lasts for 1.6 s
            for _ in range(20):
                robot.live(0.5)
                if "no action is planned, the policy has been deciding for" in peer.sentence():
                    break
            assert peer.sentence().startswith("holding: no action is planned"), peer.sentence()
            waiting = positions(robot.live(0.5)[-3:])
            assert (waiting == waiting[0]).all(), "the last position"
            assert process.text().count("holding: no action is planned") >= 1
            robot.say("0.3")
            robot.until_it_acts()

            robot.live(6.0, camera=False)
            assert peer.sentence().startswith("holding: nothing new on /front/image_raw for")
            held = int(robot.figure("held"))
            robot.until_it_acts()
            assert int(robot.figure("held")) - held >= 2, "the plan of before is not carried out"
            assert int(robot.figure("resets")) == resets + 2
        assert process.stop() == 0, process.text()


@pytest.mark.slow
def test_robosuite_is_driven(workspace, make_act_policy, domain, tmp_path):
    """A simulated arm moves as the random policy tells it, and its own commands explain where it went."""
    pytest.importorskip("robosuite")
    from lerobot_env_omnistream import RobosuiteEnvConfig
    from lerobot_env_omnistream.env import RobosuiteEnv

    policy = make_act_policy(["agentview", "robot0_eye_in_hand"], 16, 7)
    differences = {"command_kind": "velocity", "command_low": [-1.0], "command_high": [1.0], "max_change_per_s": [20.0]}
    types = {"state_type": "float64_multi_array", "command_type": "float64_multi_array", "max_age_s": 10.0}
    parameters = {"policy": str(policy), "autostart": True} | differences | types
    out = tmp_path / "driven"
    with (
        workspace.run("policy_node", domain, parameters, package="omnistream_policy") as node,
        workspace.script(Path(__file__).with_name("robosuite_robot.py"), domain, str(out), "40") as robot,
    ):
        node.wait_for("acting", 300)
        assert robot.wait(200) == 0, robot.text() + node.text()
    heard = pickle.loads(out.read_bytes())
    assert heard["actions"].shape == (40, 7) and np.abs(heard["actions"]).max() <= 1
    assert np.abs(heard["states"][-1] - heard["states"][0]).max() > 0.01, "the arm has moved"
    env = RobosuiteEnv(RobosuiteEnvConfig(task="Lift", cameras=[]))
    states = [env.reset(seed=0)[0]["agent_pos"], *(env.step(action)[0]["agent_pos"] for action in heard["actions"])]
    np.testing.assert_allclose(states, heard["states"], atol=1e-6)
    env.close()
