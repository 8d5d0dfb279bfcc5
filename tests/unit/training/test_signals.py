"""Stop signals: which ones wait, which ones raise at once, and that the former handlers are restored."""

import os
import signal
from queue import Queue

import pytest

from mosld.training.signals import StopSignals


def send(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])


@pytest.fixture
def stop():
    with StopSignals() as opened:
        yield opened


def test_former_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before


def test_signal_outside_training_raises_at_once(stop):
    with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
        send("SIGUSR1")


def test_signal_in_training_waits_even_if_a_launcher_repeats_it(stop):
    with stop.waiting():
        for name in ("SIGTERM", "SIGTERM", "SIGUSR1"):
            send(name)
        assert stop.requested == "SIGTERM"
        stop.requested = None


def test_end_of_the_terminal_waits_and_nohup_ignores_it(stop):
    with stop.waiting():
        send("SIGHUP")
        assert stop.requested == "SIGHUP"
        stop.requested = None
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as ignoring, ignoring.waiting():
            send("SIGHUP")
            assert ignoring.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_second_ctrl_c_raises_at_once(stop):
    with stop.waiting():
        send("SIGINT")
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            send("SIGINT")
        stop.requested = None


def test_signal_after_the_last_step_raises_when_training_ends(stop):
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), stop.waiting():
        send("SIGTERM")


def test_only_ctrl_c_interrupts_writing_the_results(stop):
    stop.end()
    send("SIGTERM")
    with pytest.raises(KeyboardInterrupt):
        send("SIGINT")


@pytest.mark.parametrize("names", [["SIGINT"], ["SIGTERM", "SIGTERM"], ["SIGUSR1", "SIGTERM"]])
def test_signal_that_waits_is_answered_once_before_the_step_ends(names, stop):
    answered = Queue()
    with stop.waiting(answered.put):
        for name in names:
            send(name)
        assert answered.get(timeout=5) == names[0]
        stop.requested = None
    assert answered.empty()
