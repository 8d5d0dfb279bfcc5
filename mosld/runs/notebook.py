"""A progress bar in a notebook, which is shown anew in its place as often as a reader can follow."""

import html
import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS_BETWEEN_UPDATES = 0.2


@dataclass
class Bar:
    """A bar as a front end shows it, as HTML or as text."""

    title: str
    total: int
    done: int
    note: str = ""

    def __repr__(self) -> str:
        return f"{self.title} {self.done}/{self.total}  {self.note}".rstrip()

    def _repr_html_(self) -> str:
        bar = f"<progress max='{self.total}' value='{self.done}'></progress>"
        return f"{html.escape(self.title)} {bar} {self.done}/{self.total} &nbsp; {html.escape(self.note)}"


def show_bar(title: str, total: int, done: int) -> Callable[[str], None]:
    """Show a bar; what is returned counts one item, with a note."""
    # Only where a notebook has imported it.
    from IPython.display import display

    bar = Bar(title, total, done)
    handle = display(bar, display_id=True)
    shown = time.monotonic()

    def advance(note: str) -> None:
        nonlocal shown
        bar.done += 1
        bar.note = note or bar.note
        if bar.done == bar.total or time.monotonic() - shown > SECONDS_BETWEEN_UPDATES:
            shown = time.monotonic()
            handle.update(bar)

    return advance
