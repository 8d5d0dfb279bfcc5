"""Signals that ask a run to stop: it finishes its step, saves a checkpoint and exits."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

# Windows lacks the second and the fourth, and alone has the last: Ctrl-Break, or its console is closed.
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP", "SIGBREAK")


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a run to stop. nohup ignores the end of the terminal, and so does the run."""
    known: list[signal.Signals] = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    return [one for one in known if one.name != "SIGHUP" or signal.getsignal(one) is not signal.SIG_IGN]


class StopSignals:
    """Handles the signals that ask a run to stop, as a context manager.

    In the training loop a signal waits for the end of the step; elsewhere it raises KeyboardInterrupt at once, since
    the last checkpoint has everything there is to save. A launcher may repeat a signal (a scheduler signals every
    process, and torchrun forwards its own): only a second Ctrl-C, which a user types, ends the run without waiting.

    Attributes:
        requested: name of the signal that waits; None if there is none.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._answer: Callable[[str], None] = lambda _: None
        self.waiting_allowed = False
        self._previous_handlers: dict[signal.Signals, Callable | int | None] = {}

    def __enter__(self) -> Self:
        # Python installs handlers in the main thread only; elsewhere nothing changes.
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, self._handle) for number in stop_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            # One that was not installed from Python is None, and Python cannot restore it.
            if handler is not None:
                signal.signal(number, handler)

    @contextmanager
    def waiting(self, answer: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Let signals wait for the loop, which reads `requested` after each step; one after the last step raises.

        Args:
            answer: called at once, in a thread of its own, with the name of the signal that waits.
        """
        self._answer = answer
        self.waiting_allowed = True
        try:
            yield
        finally:
            self.waiting_allowed = False
        if self.requested:
            raise KeyboardInterrupt(self.requested)

    def end(self) -> None:
        """Ignore all but Ctrl-C from here on: the results are being written, which takes a moment."""
        self.requested = self.requested or "the end"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested and name != "SIGINT":
            return
        wait = self.waiting_allowed and not self.requested
        self.requested = name
        if not wait:
            raise KeyboardInterrupt(name)
        # The signal may have come in the middle of a write, which cannot be entered a second time by this thread.
        threading.Thread(target=self._answer, args=(name,), daemon=True).start()
