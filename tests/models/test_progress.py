"""Progress in words, and the answer to a signal that Python does not hear of yet."""

import os
import re
import signal
import threading

import pytest

from sharpflow.models import progress
from sharpflow.models.progress import answered_signals, progress_bar


def test_the_time_left_follows_the_latter_half(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = progress._Clock(1000, 0, rated=True)
    for _ in range(11):  # ten steps a second for ten seconds
        said = clock.advance(10)
        now[0] += 1.0
    assert said == "10 steps/s, 0:01:29 left"
    for _ in range(40):  # then one
        now[0] += 1.0
        said = clock.advance(1)
    assert said == "1 steps/s, 0:14:10 left"


def test_work_that_slows_down_much_promises_no_end(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = progress._Clock(1.0, 0.0, rated=False)
    said = []
    for count in [0.0, *[0.05] * 10, *[1e-9] * 60]:  # then a step of a flow at a kink each second
        said.append(clock.advance(count))
        now[0] += 1.0
    assert said[10] == "0:00:10 left" and said[-1] == "slowing down"
    assert not [words for words in said if "day" in words]


def test_a_log_has_a_line_about_every_two_seconds_and_one_at_the_end(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress_bar(50, True) as display:
        for _ in range(10):  # chunks of two seconds
            now[0] += 2.0
            display.advance(3)
        for _ in range(20):  # short ones, as points end and others begin
            now[0] += 0.15
            display.advance(1, ", 0 points in flight, 2 waiting")
        display.advance(0)
    lines = re.findall("% of 50 steps", capsys.readouterr().err)
    assert 10 + 2 <= len(lines) <= 10 + 3


def test_work_that_stands_still_has_no_end_in_sight() -> None:
    clock = progress._Clock(1.0, 0.0, rated=False)
    assert [clock.advance(0.0) for _ in range(2)] == ["", "no end in sight"]


@pytest.mark.parametrize(
    ("done", "answer"),
    [
        (0, "compiling cannot be interrupted and ends first; nothing new is done yet"),
        (3, "the piece of work that runs ends first"),
    ],
)
def test_a_signal_is_answered_at_once_and_only_once(done, answer, capsys) -> None:
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        with progress_bar(10, True) as display:
            if done:
                display.advance(done)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked.is_set()  # the handler is still heard
    lines = re.findall("asked to stop: .*", capsys.readouterr().err)
    assert lines == [f"asked to stop: {answer}"]
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_that_another_program_listens_to_are_left_to_it() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs)
    try:
        with answered_signals(lambda: pytest.fail("it is not ours")):
            before = signal.signal(signal.SIGINT, lambda *_: None)
            os.kill(os.getpid(), signal.SIGINT)
            signal.signal(signal.SIGINT, before)
    finally:
        assert signal.set_wakeup_fd(-1) == theirs
    assert os.read(ours, 1) == bytes([signal.SIGINT])
    os.close(ours)
    os.close(theirs)
