"""What a person sees: a progress bar on a terminal, plain lines elsewhere, and the same lines in train.log.

Whatever takes more than some seconds gives a sign of life: a bar (`progress`, `track`) where its parts can be counted,
a wheel with the time (`working`) where they cannot. Elsewhere than on a terminal both are a line now and then.
"""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mosld.common.process import is_main

SOON = 2.0  # seconds after which work that cannot be counted is named in a log
OFTEN = 30.0  # seconds between two lines about the same work in a log


class Console:
    """Messages and progress on stderr, tables on stdout, all of them in the log file too."""

    def __init__(self, log: Path | None = None) -> None:
        """Write to the terminal, and append to `log` where one is given; of several processes the main one alone."""
        quiet = not is_main()
        self._err = RichConsole(file=sys.stderr, highlight=False, soft_wrap=True, quiet=quiet)
        self._out = RichConsole(file=sys.stdout, highlight=False, quiet=quiet)
        self._file = log.open("a", encoding="utf-8") if log and not quiet else None
        self._log = RichConsole(file=self._file, width=110, highlight=False) if self._file else None

    def say(self, text: str) -> None:
        """One line."""
        self._err.print(text, markup=False)
        if self._log:
            with suppress(OSError):  # a full disk: the message stands on the terminal
                self._log.print(text, markup=False, soft_wrap=True)

    def show(self, table: RenderableType) -> None:
        """A table."""
        self._out.print(table)
        if self._log:
            self._log.print(table)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Any]:
        """A progress bar on a terminal; yields ``advance(note)``. Elsewhere `note` is printed about twenty times."""
        if self._err.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            ]
            with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self._err) as bar:
                task = bar.add_task(title, total=total, completed=done, note="")
                yield lambda note="": bar.update(task, advance=1, note=note)
            return
        every, count, said = max(1, total // 20), done, time.perf_counter()

        def advance(note: str = "") -> None:
            """Count one item; print the note now and then, or where there is none a line every half minute."""
            nonlocal count, said
            count += 1
            late = time.perf_counter() - said > OFTEN
            if (note and (count % every == 0 or count == total)) or (not note and late):
                said = time.perf_counter()
                self.say(f"{title} {count}/{total}  {note}".rstrip())

        yield advance

    @contextmanager
    def working(self, title: str) -> Iterator[None]:
        """Work whose parts cannot be counted: a wheel and the time on a terminal, elsewhere a line if it takes long."""
        if self._err.is_terminal:
            columns = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
            with Progress(*columns, console=self._err, transient=True) as bar:
                bar.add_task(title, total=None)
                yield
            return
        done = threading.Event()
        teller = threading.Thread(target=self._tell, args=(title, done), daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join()

    @contextmanager
    def fetching(self, repository: str | None) -> Iterator[None]:
        """A fetch from the hub, if any, whose own library counts the bytes on a terminal; elsewhere as `working`."""
        if not repository or not self._err.is_terminal or not is_main():
            with self.working(f"fetching {repository}") if repository else nullcontext():
                yield
            return
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

        enable_progress_bars()
        try:
            yield
        finally:
            disable_progress_bars()

    def _tell(self, title: str, done: threading.Event) -> None:
        seconds = SOON
        while not done.wait(SOON if seconds == SOON else OFTEN):
            self.say(title if seconds == SOON else f"{title} ({seconds:.0f} s)")
            seconds += OFTEN

    def track(self, title: str) -> Any:
        """A wrapper for a sequence that shows its progress."""

        def wrapped(items: Sequence[Any]) -> Iterable[Any]:
            """The items, each counted when it is done."""
            with self.progress(title, len(items)) as advance:
                for item in items:
                    yield item
                    advance()

        return wrapped

    def close(self) -> None:
        """Close the log file."""
        if self._file:
            self._file.close()
