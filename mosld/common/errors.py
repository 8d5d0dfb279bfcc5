"""The one exception that means "you, dear user, can mend this", and the search for the name that was meant."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from enum import IntEnum
from typing import Any

# PART: The one exception that means "you, dear user, can mend this", and the search for the name that was meant.


class ExitCode(IntEnum):
    """How a command ended. A bug keeps its traceback, and Python exits with 1."""

    FINISHED = 0
    USER_ERROR = 2
    DIVERGED = 3
    JOBS_FAILED = 4  # some jobs of a sweep did not finish
    INTERRUPTED = 75  # the same command resumes
    STOPPED = 130  # Ctrl-C before a run began
    UNREAD = 141  # the reader of a pipe is gone


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


# PART: Why a repository of the Hugging Face Hub cannot be had, and what to do about it.


PAGE = "https://huggingface.co"


def no_access(repository: str, error: BaseException, otherwise: str) -> str:
    """What to do, by the kind of the error that the hub's own library raised, or that lies below it.

    Args:
        repository: owner/name of a model, datasets/owner/name of a set.
        error: what was raised; the library is not imported to tell its kind.
        otherwise: what to do without a network.
    """
    kinds, page = set(_kinds(error)), f"{PAGE}/{repository}"
    if "GatedRepoError" in kinds:
        todo = f"it is gated: accept its terms at {page}, then give a token of that account (`hf auth login`)"
    elif kinds & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        todo = (
            f"it is not there under this name and revision, or is private and needs a token (`hf auth login`): {page}"
        )
    else:
        todo = f"{otherwise}; if {page} asks for terms to be accepted, accept them and give a token (`hf auth login`)"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"cannot be fetched: {todo}. The hub said: {first}"


def _kinds(error: BaseException | None) -> Iterator[str]:
    """The names of the classes of an error and of all errors below it."""
    while error is not None:
        yield from (kind.__name__ for kind in type(error).__mro__)
        error = error.__cause__ or error.__context__
