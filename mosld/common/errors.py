"""Exit codes, the error for mistakes that the user can fix, the nearest valid name, why the hub refuses a download."""

from collections.abc import Iterable, Iterator
from enum import IntEnum

from mosld.common.network import hub_outage

# The share of a name's letters that may be wrong for another to be proposed.
MAX_EDITED = 0.3
HUB = "https://huggingface.co"


class ExitCode(IntEnum):
    """How a command ended. A bug keeps its traceback, and Python exits with 1."""

    FINISHED = 0
    FAULTS_FOUND = 1  # mosld.verify found something wrong
    USER_ERROR = 2
    DIVERGED = 3
    JOBS_FAILED = 4  # some jobs of a sweep did not finish
    INTERRUPTED = 75  # the same command resumes
    STOPPED = 130  # Ctrl-C before a run began
    UNREAD = 141  # the reader of a pipe is gone


class UserError(ValueError):
    """One or more mistakes of the user, each a whole message: what, where, the nearest valid name, what to change.

    Commands print the messages on stderr without a traceback and exit with code 2.
    """

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def nearest(name: str, valid: Iterable[str], shown: Iterable[str] | None = None) -> str:
    """A hint for a wrong name, such as ``did you mean 'rank'? Valid: alpha, rank.``.

    Args:
        name: the wrong name.
        valid: the names to search for the nearest.
        shown: the names to list, where they are not those to search.
    """
    names = sorted(valid)
    listed = sorted(names if shown is None else shown)
    if not listed:
        return "there is none to choose."
    close = _closest(name, names)
    hint = f"did you mean '{close}'? " if close else ""
    return f"{hint}Valid: {', '.join(listed)}."


def _closest(name: str, names: list[str]) -> str | None:
    """The most similar name; keys of one group are compared by their last part, since the rest is always alike."""
    parent, _, last = name.rpartition(".")
    by_last = {full.rpartition(".")[2]: full for full in reversed(names)}
    same_group = parent and all(full.startswith(f"{parent}.") for full in names)
    if not same_group and (match := closest(name, names)):
        return match
    if match := closest(last, by_last):
        return by_last[match]
    return next((full for full in names if len(last) > 2 and full.endswith(f"_{last}")), None)


def closest(name: str, names: Iterable[str]) -> str | None:
    """The name with the fewest edits to `name`, at most MAX_EDITED of its letters, or one that begins with it."""
    distances = {other: _edits(name, other) for other in names}
    if not distances:
        return None
    best = min(distances, key=lambda other: distances[other])
    begun = [other for other in distances if len(name) > 3 and other.startswith(name)]
    if begun and distances[best] > 1:
        return min(begun, key=len)
    longest = max(len(name), len(best))
    return best if longest > 2 and distances[best] <= max(1, MAX_EDITED * longest) else None


def _edits(first: str, second: str) -> int:
    """Optimal string alignment distance: insertions, deletions, substitutions and swaps of two neighbours."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        before, last, row = row, before, [i]
        for j, other in enumerate(second, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def format_value(value: object) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {format_value(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on CUDA or CPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def explain_hub_error(repository: str, error: BaseException, otherwise: str) -> str:
    """Explain why a repository of the hub cannot be fetched and what to do about it.

    Args:
        repository: owner/name of a model, datasets/owner/name of a data set.
        error: what the hub's library raised; it, or an error below it, says which kind. The library is not imported.
        otherwise: what to do without a network.
    """
    kinds = set(_class_names(error))
    page = f"{HUB}/{repository}"
    if "GatedRepoError" in kinds:
        advice = f"it is gated: accept its terms at {page}, then give a token of that account (`hf auth login`)"
    elif kinds & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        advice = (
            f"it is not there under this name and revision, or is private and needs a token (`hf auth login`): {page}"
        )
    else:
        advice = f"{otherwise}; if {page} asks for terms to be accepted, accept them and give a token (`hf auth login`)"
        if outage := hub_outage():
            return f"cannot be fetched: {advice}. {outage}"
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"cannot be fetched: {advice}. The hub said: {first_line}"


def _class_names(error: BaseException | None) -> Iterator[str]:
    """The names of the classes of an error and of all errors that caused it."""
    while error is not None:
        yield from (cls.__name__ for cls in type(error).__mro__)
        error = error.__cause__ or error.__context__
