"""What the user sees: progress bars on a terminal and in a notebook, plain lines elsewhere, and the same in train.log.

Work of more than a few seconds shows a sign of life: a bar (`progress`, `track`) where items can be counted, a spinner
with the time (`working`) where they cannot. Away from a terminal, and in train.log, both are an occasional line.
"""

import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from mosld.common.process import in_notebook, is_main
from mosld.common.terminal import visible
from mosld.runs.notebook import show_bar

# Time after which a log names work that cannot be counted.
FIRST_NOTICE_SECONDS = 2.0
# Time between two lines of a log about the same work.
NOTICE_SECONDS = 30.0
DESCRIPTION = TextColumn("{task.description}", markup=False)
T = TypeVar("T")
# Counts one item of a progress bar, with a note that is shown next to it.
Advance = Callable[[str], None]


class TimesColumn(ProgressColumn):
    """The time since the start and the time left, each with its name."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{_clock(elapsed)} elapsed  {_clock(task.time_remaining)} left", style="progress.elapsed")


def _wrapped(text: str, width: int) -> str:
    """The text with lines of this width; a longer word, such as a path, stays whole, so that it can be copied."""
    wrap = partial(textwrap.wrap, width=width, break_long_words=False, break_on_hyphens=False)
    return "\n".join("\n".join(wrap(line)) for line in text.splitlines())


def _clock(seconds: float | None) -> str:
    """Minutes and seconds, with hours where there are some."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class NotedProgress(Progress):
    """A bar with a line below it for its note, so that a long note takes no width from the bar."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (
            Text(f"  {task.fields['note']}", no_wrap=True, overflow="ellipsis")
            for task in self.tasks
            if task.fields["note"]
        )


class SafeConsole(RichConsole):
    """A console that shows control characters of a text as escapes, takes no markup, and may be dead."""

    def __init__(self, **options: Any) -> None:
        # In a notebook rich writes neither to its file nor as to a terminal's stream, which FORCE_COLOR asks for there.
        notebook = {"force_jupyter": False} | ({"force_terminal": False} if in_notebook() else {})
        super().__init__(highlight=False, markup=False, emoji=False, **{**notebook, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except (OSError, ValueError):
            # A reader or terminal that is gone, a closed file, a full disk: the work goes on without the message.
            del self._buffer[:]


class Console:
    """Messages and progress on stderr, tables on stdout, all of them in the log file too."""

    def __init__(self, log: Path | None = None) -> None:
        """Write to the terminal, and append to `log` if given; only the main process writes."""
        quiet = not is_main()
        # Notebooks show stderr as errors.
        messages = sys.stdout if in_notebook() else sys.stderr
        self._err = SafeConsole(file=messages, quiet=quiet)
        self._out = SafeConsole(file=sys.stdout, quiet=quiet)
        self._file = log.open("a", encoding="utf-8", errors="backslashreplace") if log and not quiet else None
        self._log = SafeConsole(file=self._file, width=110, force_terminal=False) if self._file else None

    def say(self, text: str, command: str = "") -> None:
        """Print a message; on a terminal it is wrapped between words.

        Args:
            text: one line.
            command: what the user may type next, printed behind the text, and never wrapped, so that it can be copied.
        """
        line = f"{text}: {command}" if command else text
        shown = line
        if self._err.is_terminal:
            shown = (
                _wrapped(f"{text}:", self._err.width) + f"\n  {command}" if command else _wrapped(text, self._err.width)
            )
        self._err.print(shown, soft_wrap=True)
        self.log(line)

    def log(self, text: str) -> None:
        """Write one line with the time into the log file only."""
        if self._log:
            self._log.print(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}", soft_wrap=True)

    def show(self, table: RenderableType) -> None:
        """Print a table."""
        self._out.print(table)
        if self._log:
            self._log.print(table)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Show a progress bar on a terminal or in a notebook; elsewhere, and in the log, print twenty of the notes."""
        if not self._err.is_terminal and in_notebook() and is_main():
            yield self._noted(show_bar(title, total, done), self._logged_progress(title, total, done, self.log))
            return
        if not self._err.is_terminal:
            yield self._logged_progress(title, total, done, self.say)
            return
        log = self._logged_progress(title, total, done, self.log)
        # What is left of the line is the bar's.
        columns = [
            DESCRIPTION,
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimesColumn(table_column=Column(no_wrap=True)),
        ]
        with NotedProgress(*columns, console=self._err) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield self._noted(lambda note: bar.update(task, advance=1, note=note), log)

    @staticmethod
    def _noted(bar: Advance, log: Advance) -> Advance:
        """Count in the bar and in the log file."""

        def advance(note: str) -> None:
            bar(note)
            log(note)

        return advance

    def _logged_progress(self, title: str, total: int, done: int, write: Callable[[str], None]) -> Advance:
        interval = max(1, total // 20)
        count = done
        last_notice = time.perf_counter()

        def advance(note: str) -> None:
            nonlocal count, last_notice
            count += 1
            if note:
                due = count % interval == 0 or count == total
            else:
                due = time.perf_counter() - last_notice > NOTICE_SECONDS
            if due:
                last_notice = time.perf_counter()
                write(f"{title} {count}/{total}  {note}".rstrip())

        return advance

    def track(self, title: str) -> Callable[[Sequence[T]], Iterable[T]]:
        """A wrapper for a sequence that shows the progress of the loop over it."""

        def tracked(items: Sequence[T]) -> Iterable[T]:
            with self.progress(title, len(items)) as advance:
                for item in items:
                    yield item
                    advance("")

        return tracked

    @contextmanager
    def working(self, title: str) -> Iterator[None]:
        """Show a spinner and the time on a terminal; elsewhere, and in the log file, a line if the work takes long."""
        done = threading.Event()
        write = self.log if self._err.is_terminal else self.say
        notifier = threading.Thread(target=_notify, args=(title, done, write), daemon=True)
        notifier.start()
        with ExitStack() as stack:
            stack.callback(notifier.join)
            stack.callback(done.set)
            if self._err.is_terminal:
                columns = [SpinnerColumn(), DESCRIPTION, TimeElapsedColumn()]
                bar = stack.enter_context(Progress(*columns, console=self._err, transient=True))
                bar.add_task(title, total=None)
            yield

    @contextmanager
    def fetching(self, repository: str | None) -> Iterator[None]:
        """Show a download from the hub, if any: on a terminal by the hub's own bars, elsewhere as `working`."""
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

    def close(self) -> None:
        """Close the log file."""
        if self._file:
            with suppress(OSError):
                self._file.close()


def _notify(title: str, done: threading.Event, write: Callable[[str], None]) -> None:
    """Write the title once the work takes long, and again with the seconds until it is done."""
    if done.wait(FIRST_NOTICE_SECONDS):
        return
    write(title)
    seconds = FIRST_NOTICE_SECONDS
    while not done.wait(NOTICE_SECONDS):
        seconds += NOTICE_SECONDS
        write(f"{title} ({seconds:.0f} s)")
