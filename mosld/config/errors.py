"""The one exception that means "you, dear user, can mend this", and the search for the name that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """One or more mistakes of the user, each a whole message: what, where, the nearest valid name, what to change.

    Entry points print the messages on stderr without a traceback and exit with code 2.
    """

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as ``did you mean 'rank'? Valid: alpha, rank`` for a wrong name (no hint where none is near)."""
    names = sorted(valid)
    # The last part alone is compared too: `method.rnk` is near `method.rank`, and so is a bare `rank`.
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        close = [n for n in names if n.split(".")[-1] == name.split(".")[-1]][:1]
    hint = f"did you mean '{close[0]}'? " if close else ""
    shown = ", ".join(names) if len(names) <= 24 else ", ".join(names[:24]) + ", ..."
    return f"{hint}Valid: {shown}."
