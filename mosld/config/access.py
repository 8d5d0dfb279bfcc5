"""Why a repository of the Hugging Face Hub cannot be had, and what to do about it."""

from collections.abc import Iterator

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
