"""The lifecycle node that runs a trained policy. Topics and parameters: README of the workspace.

Image and state callbacks keep the newest message. A timer at ``rate_hz`` looks whether all of them are fresh: if so it
hands the newest of each to the one worker thread, which decides, limits and publishes; if not it holds, and says why.
With a policy that plans in real time the worker plans, and the timer publishes the next action of the plan.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger

from omnistream_core.errors import ConfigError, OmniStreamError
from omnistream_policy.acting import Acting, Observation, RealTimeActing
from omnistream_policy.commands import COMMAND_TYPES, ReadState, command_maker, state_reader
from omnistream_policy.limits import Limits
from omnistream_policy.parameters import PolicySettings
from omnistream_policy.policy import Policy, RealTimePolicy, load_policy
from omnistream_policy.watch import Watch
from omnistream_ros.conversions import decode, stamp_ns_of
from omnistream_ros.managed_node import ManagedNode, image_input
from omnistream_ros.ros_parameters import ParameterTable
from omnistream_ros.running import run
from omnistream_ros.worker import Mailbox, Throttle, Worker

NODE_NAME = "policy_node"
DIAGNOSTICS_PERIOD_S = 1.0
PolicyFactory = Callable[[PolicySettings], Policy | RealTimePolicy]


class PolicyNode(ManagedNode):
    """
    Args:
        policy_factory: makes the policy at each configure.
        arguments: passed on to the node: ``context``, ``parameter_overrides``, ...
    """

    def __init__(self, *, policy_factory: PolicyFactory = load_policy, **arguments: Any) -> None:
        super().__init__(NODE_NAME, **arguments)
        self._policy_factory = policy_factory
        self._throttle = Throttle()
        self._is_active, self._is_enabled = False, True
        self._acting: Acting | None = None
        self._task_complaint: Callable[[str], str] = lambda task: ""
        self._worker: Worker[Observation] | None = None
        self._made: list[Callable[[], Any]] = []  # how to take back what configure made
        self._forget_inputs()
        self._table = ParameterTable(self, PolicySettings, is_free=lambda: self._worker is None, apply=self._apply)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=self._steady)
        self._start_when_spinning(self._steady)

    def _forget_inputs(self) -> None:
        self._images: dict[str, Any] = {}
        self._state_S = np.zeros(0)
        self._arm_A: np.ndarray | None = None
        self._state_complaint, self._rate_complaint = "", ""
        self._watch = Watch(())
        self._holding, self._waiting = "", ""  # why: for fresh inputs or a service; for a plan

    # ---- lifecycle ----

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the policy, create publisher, subscriptions, worker and timer."""
        try:
            settings = self._table.settings()
            policy = self._policy_factory(settings)
            if complaint := policy.shape.task_complaint(settings.task):
                raise ConfigError(complaint)
            make_command = command_maker(settings, policy.shape.action_size)
            read_state = state_reader(settings, policy.shape.state_size, policy.shape.action_size)
            limits = Limits.of(settings, policy.shape.action_size)
        except (OmniStreamError, RuntimeError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        publisher = self.create_publisher(COMMAND_TYPES[settings.command_type], "~/command", 10)
        self._made.append(partial(self.destroy_publisher, publisher))

        def send(command_A: np.ndarray) -> None:
            if self.context.ok():  # after a signal nothing can be sent
                publisher.publish(make_command(command_A, self.get_clock().now().to_msg()))

        kind = RealTimeActing if isinstance(policy, RealTimePolicy) else Acting
        acting = kind(policy, limits, settings, decode, send)
        self._acting, self._task_complaint = acting, policy.shape.task_complaint
        self._worker = Worker(Mailbox(1), lambda frames: acting.act(frames[0]), self._on_worker_error)
        self._made.append(self._worker.stop)
        self._subscribe(settings, policy, read_state)
        timer = self.create_timer(1 / settings.rate_hz, self._on_tick, clock=self._steady)
        self._made.append(partial(self.destroy_timer, timer))
        self.get_logger().info(
            f"configured: {settings.policy or 'policy'}, {policy.shape.action_size} numbers as "
            f"{settings.command_type} at {settings.rate_hz:g} Hz, inputs {', '.join(self._watch.topics)}"
        )
        self._rate_complaint = policy.shape.rate_complaint(settings.rate_hz)
        if self._rate_complaint:
            self.get_logger().warning(self._rate_complaint)
        gc.collect()
        gc.freeze()  # the policy and all modules: no later collection walks through them
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Command the robot, from where it is now: nothing of before counts."""
        if self._acting is not None:
            self._acting.forget()
        self._watch.forget()
        self._is_active, self._holding = True, "just activated"
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold once, then publish nothing."""
        self._stop_commanding()
        return super().on_deactivate(state)

    def _subscribe(self, settings: PolicySettings, policy: Policy | RealTimePolicy, read_state: ReadState) -> None:
        kind, suffix, qos = image_input(settings)
        topics = {}
        for key, camera in policy.shape.cameras().items():
            subscription = self.create_subscription(
                kind, f"{camera}/image_raw{suffix}", partial(self._on_image, key), qos
            )
            topics[key] = subscription.topic_name
            self._made.append(partial(self.destroy_subscription, subscription))
        if policy.shape.state_size or settings.command_kind == "position":
            state_kind = JointState if settings.state_type == "joint_state" else Float64MultiArray
            on_state = partial(self._on_state, read_state)
            subscription = self.create_subscription(state_kind, "joint_states", on_state, 10)
            topics["state"] = subscription.topic_name
            self._made.append(partial(self.destroy_subscription, subscription))
        self._topics, self._watch = topics, Watch(tuple(topics.values()))

    def _stop_commanding(self) -> None:
        if self._is_active and self._acting is not None:
            self._acting.hold()
        self._is_active = False

    def _release(self) -> None:
        self._stop_commanding()
        while self._made:
            self._made.pop()()
        self._worker, self._acting = None, None
        self._forget_inputs()
        gc.unfreeze()
        gc.collect()

    # ---- callbacks: they keep the newest ----

    def _on_image(self, key: str, message: Image | CompressedImage) -> None:
        self._images[key] = message
        self._heard(self._topics[key], stamp_ns_of(message.header.stamp))

    def _on_state(self, read_state: ReadState, message: JointState | Float64MultiArray) -> None:
        try:
            self._state_S, self._arm_A = read_state(message)
        except ConfigError as error:
            self._state_complaint = str(error)
            return
        self._state_complaint = ""
        header = getattr(message, "header", None)
        self._heard(self._topics["state"], stamp_ns_of(header.stamp) if header else 0)

    def _heard(self, topic: str, stamp_ns: int) -> None:
        self._watch.heard(topic, time.monotonic(), stamp_ns, self.get_clock().now().nanoseconds)

    def _on_set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._is_enabled = request.data
        response.success, response.message = True, "acts" if request.data else "holds"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._worker is None or self._acting is None:
            response.success, response.message = False, "the node is not configured: there is no policy"
        else:
            self._worker.mailbox.command(self._acting.reset)
            response.success, response.message = True, "the policy begins anew, in its turn"
        return response

    def _apply(self, settings: PolicySettings) -> None:
        if self._acting is not None:
            self._acting.settings = settings

    # ---- the beat ----

    def _on_tick(self) -> None:
        if not self._is_active or self._acting is None or self._worker is None:
            return
        now_s = time.monotonic()
        reason = self._reason_to_hold(now_s)
        if reason:
            self._hold(reason)
            return
        if self._holding:
            self._go_on(now_s)
        observation = Observation(
            images=dict(self._images),
            state_S=self._state_S,
            arm_A=self._arm_A,
            task=self._table.settings().task,
            taken_s=now_s,
        )
        self._wait(self._acting.beat(observation))
        self._acting.status.skipped += self._worker.mailbox.put(0, observation)

    def _reason_to_hold(self, now_s: float) -> str:
        assert self._acting is not None
        max_age_s, task_complaint = self._table.settings().max_age_s, self._task_complaint(self._table.settings().task)
        if not self._is_enabled:
            return "disabled by set_enabled"
        if self._state_complaint:
            return self._state_complaint
        if task_complaint:
            return task_complaint
        busy_s = self._acting.busy_s(now_s)
        if busy_s > max_age_s:
            return f"the policy has been deciding for {busy_s:.2f} s (max_age_s {max_age_s:g})"
        return self._watch.complaint(now_s, max_age_s)

    def _hold(self, reason: str) -> None:
        assert self._acting is not None
        begins = not self._holding
        self._holding = reason
        self._acting.hold()
        is_said_again = self._throttle("holding") is not None and self._is_enabled  # a hold that was asked for, once
        if begins or is_said_again:
            self.get_logger().warning(f"holding: {reason}")
        if begins:
            self._publish_diagnostics()

    def _wait(self, reason: str) -> None:
        """A hold of single beats, for which nothing is planned: the worker goes on."""
        begins = bool(reason) and not self._waiting
        self._waiting = reason
        if begins:
            if self._throttle("waiting") is not None:
                self.get_logger().warning(f"holding: {reason}")
            self._publish_diagnostics()

    def _go_on(self, now_s: float) -> None:
        """After a hold the world may have changed: the policy begins anew."""
        assert self._acting is not None and self._worker is not None
        self._holding, self._waiting = "", ""
        self._acting.release(now_s)
        self._worker.mailbox.command(self._acting.reset)
        self.get_logger().info("acting")

    # ---- what it says of itself ----

    def _on_worker_error(self, error: Exception) -> None:
        kind = type(error).__name__
        silent = self._throttle(f"worker {kind}")
        if silent is not None:
            more = f" ({silent} more since the last such message)" if silent else ""
            self.get_logger().error(f"no decision: {kind}: {error}{more}")

    def _publish_diagnostics(self) -> None:
        if self._acting is None:
            return
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        level, sentence = self._judge()
        pairs = [KeyValue(key=key, value=str(value)) for key, value in self._figures().items()]
        name = f"{self.get_fully_qualified_name()}: policy"
        array.status.append(DiagnosticStatus(level=level, name=name, message=sentence, values=pairs))
        self._diagnostics.publish(array)

    def _judge(self) -> tuple[bytes, str]:
        if not self._is_active:
            return DiagnosticStatus.OK, "the node is not active"
        if not self._holding:
            return self._judge_acting()
        level = DiagnosticStatus.OK if not self._is_enabled else DiagnosticStatus.ERROR
        return level, f"holding: {self._holding}"

    def _judge_acting(self) -> tuple[bytes, str]:
        failure = self._acting.status.failure if self._acting else ""
        if failure:
            return DiagnosticStatus.ERROR, f"no decision: {failure}"
        if self._waiting:
            return DiagnosticStatus.ERROR, f"holding: {self._waiting}"
        if self._rate_complaint:
            return DiagnosticStatus.WARN, f"acting, but {self._rate_complaint}"
        return DiagnosticStatus.OK, "acting"

    def _figures(self) -> dict[str, Any]:
        assert self._acting is not None
        status, now_s = self._acting.status, time.monotonic()
        p50, p95 = status.latency_ms()
        ages = {f"age s of {topic}": f"{self._watch.age_s(topic, now_s):.3f}" for topic in self._watch.topics}
        return ages | {
            "rate Hz": self._table.settings().rate_hz,
            "commands": status.commands,
            "held": status.held,
            "skipped for a newer observation": status.skipped,
            "late": status.late,
            "failed": status.failed,
            "numbers clipped": status.clipped,
            "numbers slowed": status.slowed,
            "resets": status.resets,
            "latency ms p50 p95": f"{p50:.2f} {p95:.2f}",
        }


def main(args: list[str] | None = None, *, policy_factory: PolicyFactory = load_policy) -> None:
    """Run the node until SIGINT or SIGTERM."""
    code = run(partial(PolicyNode, policy_factory=policy_factory), args)
    gc.freeze()  # or leaving Python walks through all of LeRobot
    sys.exit(code)


if __name__ == "__main__":
    main()
