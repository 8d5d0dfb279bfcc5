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

    During training they wait for the end of the step; elsewhere they end the run at once as KeyboardInterrupt: there is
    nothing to save but what the last checkpoint has. A launcher may repeat a signal (a scheduler signals every process,
    and torchrun passes its own on): only a second Ctrl-C, which a person types, ends the run without waiting.

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
            if handler is not None:  # else it was not installed from Python, and Python cannot put it back
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let signals wait, for the loop that looks at `requested` after each step; one that came too late ends it."""
        self.waiting_allowed = True
        try:
            yield
        finally:
            self.waiting_allowed = False
        if self.requested:
            raise KeyboardInterrupt(self.requested)

    def end(self) -> None:
        """From here on only Ctrl-C is heard: how the run ended is being written, which takes a moment."""
        self.requested = self.requested or "the end"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested and name != "SIGINT":
            return
        wait = self.waiting_allowed and not self.requested
        self.requested = name
        if not wait:
            raise KeyboardInterrupt(name)
