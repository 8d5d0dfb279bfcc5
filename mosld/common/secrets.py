"""Secrets: what looks like one is refused in the config and hidden in messages, so that none reaches a file.

A key belongs in the environment or in the library's own login file: everything in the config is written into
config.yaml, results.json and the dashboard.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
SHORTEST = 8  # a shorter value of an environment variable is no key, and may be part of any word
LOOKS_SECRET = re.compile(
    r"\bhf_\w{20,}|\bwandb_v\d_\w{20,}|\blocal-[0-9a-f]{40}\b|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bsk-[\w-]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b|(?<=://)[^/@\s]*:[^/@\s]+(?=@)|(?<=://)[^/@:\s]{16,}(?=@)"
    r"|(?<=[?&]token=)\w{8,}|(?<=[?&]api_key=)\w{8,}|(?<=[?&]access_token=)\w{8,}"
)
WANDB_KEY = re.compile(r"[0-9a-f]{40}")  # also what a commit looks like


def secrets_in(tree: dict[str, Any]) -> list[str]:
    """One message for each key of a config tree whose value holds what looks like a secret; it does not repeat it."""
    return [
        f"{key}: holds what looks like a secret (a key, or a password in an address), and would be written into files "
        "and to the dashboard; give it in the environment, or by `wandb login` or `hf auth login`."
        for key in _keys(tree, "")
    ]


def _keys(tree: dict[str, Any], where: str) -> Iterator[str]:
    for key, value in tree.items():
        path = f"{where}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{path}.")
        elif any(_is_secret(path, entry) for entry in (value if isinstance(value, list) else [value])):
            yield path


def hidden(text: str) -> str:
    """The text with every secret in it replaced by ***."""
    for value in _environment():
        text = text.replace(value, "***")
    return LOOKS_SECRET.sub("***", text)


def _is_secret(key: str, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    commit = key == "model.revision"
    return hidden(value) != value or (not commit and WANDB_KEY.fullmatch(value) is not None)


def _environment() -> list[str]:
    """The values of the environment variables that hold secrets, the longest first."""
    found = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    return sorted(found, key=len, reverse=True)
