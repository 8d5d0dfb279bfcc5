"""The one exception that means "you, dear user, can mend this", and the search for the name that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(ValueError):
    """One or more mistakes of the user, each a whole message: what, where, the nearest valid name, what to change.

    Entry points print the messages on stderr without a traceback and exit with code 2.
    """

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def nearest(name: str, valid: Iterable[str], shown: Iterable[str] | None = None) -> str:
    """A hint such as ``did you mean 'rank'? Valid: alpha, rank.`` for a wrong name (no hint where none is near).

    `shown` are the names to list where they are not those to search.
    """
    names = sorted(valid)
    listed = sorted(names if shown is None else shown)
    if not listed:
        return "there is none to choose."
    close = _closest(name, names)
    hint = f"did you mean '{close}'? " if close else ""
    return f"{hint}Valid: {', '.join(listed)}."


def _closest(name: str, names: list[str]) -> str | None:
    """The name that was meant: among keys of one group by their last part, since the group itself is always alike."""
    parent, _, last = name.rpartition(".")
    by_last = {full.rpartition(".")[2]: full for full in reversed(names)}
    siblings = parent and all(full.startswith(f"{parent}.") for full in names)
    if not siblings:
        whole = get_close_matches(name, names, n=1, cutoff=0.7)
        if whole:
            return whole[0]
    found = get_close_matches(last, by_last, n=1, cutoff=0.7)
    if found:
        return by_last[found[0]]
    return next((full for full in names if len(last) > 2 and full.endswith(f"_{last}")), None)


def typed(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {typed(entry)}' for key, entry in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
