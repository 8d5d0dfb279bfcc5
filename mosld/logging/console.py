"""What a person sees: a progress bar on a terminal, plain lines elsewhere, and the same lines in train.log."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mosld.config.ranks import is_main


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
        every, count = max(1, total // 20), done

        def advance(note: str = "") -> None:
            """Count one item; print the note now and then."""
            nonlocal count
            count += 1
            if note and (count % every == 0 or count == total):
                self.say(f"{title} {count}/{total}  {note}")

        yield advance

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
