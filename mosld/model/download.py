"""A hub model's files, fetched before the model is made, so that their bytes can be counted."""

import json
from pathlib import Path

from transformers.utils.hub import cached_file, cached_files

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def download(hub: str, revision: str | None) -> None:
    """Fetch the weights that the cache lacks; what else a model needs is small and comes with it.

    A repository without safetensors is left to the loading, which refuses it.

    Raises:
        OSError: the hub cannot be reached, or refuses.
    """
    index = cached_file(hub, INDEX, revision=revision, _raise_exceptions_for_missing_entries=False)
    names = set(json.loads(Path(index).read_text())["weight_map"].values()) if index else {WHOLE}
    cached_files(hub, sorted(names), revision=revision, _raise_exceptions_for_missing_entries=False)
