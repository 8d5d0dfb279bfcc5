"""Signals: between two steps nothing is lost, so a run that is asked to stop finishes its step, saves and ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """While open, takes the signals that ask a run to stop.

    During training they wait for the end of the step (a second one does not); elsewhere they end the run at once as
    KeyboardInterrupt: there is nothing to save but what the last checkpoint has.

    Attributes:
        requested: name of the signal that waits; None if there is none.
    """

    def __init__(self) -> None:
        """Start closed."""
        self.requested: str | None = None
        self.waiting_allowed = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        """Install the handlers; Python allows it in the main thread alone, elsewhere nothing changes."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let signals wait, for the loop that looks at `requested` after each step."""
        self.waiting_allowed = True
        try:
            yield
        finally:
            self.waiting_allowed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self.waiting_allowed:
            raise KeyboardInterrupt(signal.Signals(number).name)
        self.requested = signal.Signals(number).name
