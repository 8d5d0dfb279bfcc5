"""Signals: which wait, which end the run at once, and that the former handlers come back."""

import os
import signal

import pytest

from mosld.training.signals import StopSignals


def send(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])


@pytest.fixture
def stop():
    with StopSignals() as opened:
        yield opened


def test_the_former_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before


def test_outside_of_training_a_signal_ends_the_run_at_once(stop):
    with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
        send("SIGUSR1")


def test_in_training_it_waits_and_a_launcher_may_repeat_it(stop):
    with stop.waiting():
        for name in ("SIGTERM", "SIGTERM", "SIGUSR1"):
            send(name)
        assert stop.requested == "SIGTERM"
        stop.requested = None


def test_a_second_ctrl_c_does_not_wait(stop):
    with stop.waiting():
        send("SIGINT")
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            send("SIGINT")
        stop.requested = None


def test_a_signal_that_comes_after_the_last_look_ends_the_run_when_training_does(stop):
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), stop.waiting():
        send("SIGTERM")


def test_while_the_end_is_written_only_ctrl_c_is_heard(stop):
    stop.end()
    send("SIGTERM")
    with pytest.raises(KeyboardInterrupt):
        send("SIGINT")
