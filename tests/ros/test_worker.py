"""Newest wins, commands keep their place, the thread survives."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from omnistream_ros.worker import Mailbox, Throttle, Worker


def drain(mailbox: Mailbox[int]) -> list:
    taken = []
    while len(mailbox):
        work = mailbox.take()
        taken.append(work if isinstance(work, dict) else "command")
    return taken


def its_turn_comes(mailbox: Mailbox[int], timeout_s: float) -> bool:
    """Whether a command that is added now is done in time."""
    done = threading.Event()
    mailbox.command(done.set)
    return done.wait(timeout_s)


def test_the_newest_frame_of_each_camera_wins() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    assert [mailbox.put(0, 1), mailbox.put(0, 2), mailbox.put(1, 10), mailbox.put(0, 3)] == [False, True, False, True]
    assert drain(mailbox) == [{1: 10, 0: 3}]


def test_what_waits_can_keep_something_of_the_older_one() -> None:
    mailbox: Mailbox[int] = Mailbox(1, merge=max)
    for frame in (1, 7, 3):
        mailbox.put(0, frame)
    assert drain(mailbox) == [{0: 7}]


def test_a_command_keeps_its_place() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.put(0, 1)
    mailbox.command(lambda: None)
    mailbox.put(1, 2)
    assert drain(mailbox) == [{0: 1}, "command", {1: 2}]


def test_a_newer_frame_goes_behind_the_command() -> None:
    mailbox: Mailbox[int] = Mailbox(1)
    mailbox.put(0, 1)
    mailbox.command(lambda: None)
    mailbox.put(0, 2)
    assert drain(mailbox) == ["command", {0: 2}]


@given(st.lists(st.one_of(st.integers(0, 2), st.just("command")), max_size=60))
def test_the_queue_is_bounded_and_loses_no_command(events: list) -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    newest: dict[int, int] = {}
    for number, event in enumerate(events):
        if event == "command":
            mailbox.command(lambda: None)
        else:
            mailbox.put(event, number)
            newest[event] = number
    assert len(mailbox) <= 3 + events.count("command")
    taken = drain(mailbox)
    assert taken.count("command") == events.count("command")
    assert {camera: item for work in taken if work != "command" for camera, item in work.items()} == newest


def test_frames_wait_for_the_other_camera() -> None:
    mailbox: Mailbox[int] = Mailbox(2, batch_wait_s=5)
    mailbox.put(0, 1)
    threading.Timer(0.02, mailbox.put, (1, 2)).start()
    assert mailbox.take() == {0: 1, 1: 2}


def test_the_thread_survives_errors_and_ends_when_told() -> None:
    errors: list[Exception] = []
    done: list[dict[int, int]] = []

    def process(frames: dict[int, int]) -> None:
        if frames[0] == 1:
            raise ValueError("bad frame")
        done.append(frames)

    worker = Worker(Mailbox(1), process, errors.append)
    worker.mailbox.put(0, 1)
    assert its_turn_comes(worker.mailbox, 5)
    worker.mailbox.put(0, 2)
    assert its_turn_comes(worker.mailbox, 5)
    worker.stop()
    assert [str(error) for error in errors] == ["bad frame"]
    assert done == [{0: 2}]
    assert not its_turn_comes(worker.mailbox, 0.01)


def test_a_text_is_said_once_and_its_repetitions_counted() -> None:
    now = [0.0]
    throttle = Throttle(period_s=5, clock=lambda: now[0])
    assert [throttle("a"), throttle("a"), throttle("b"), throttle("a")] == [0, None, 0, None]
    now[0] = 6
    assert throttle("a") == 2
