"""Secrets: refused in the config and redacted in messages, so that none reaches a file.

A key belongs in the environment or in the login file of its library: everything in the config is written into
config.yaml, results.json and the dashboard.
"""

import os
import re
from collections.abc import Iterator, Mapping

SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
# The environment variables that ${oc.env:NAME} may put into the config: places and names of a machine.
OPEN_VARIABLES = (
    "HOME",
    "USER",
    "LOGNAME",
    "HOSTNAME",
    "PWD",
    "TMPDIR",
    "SCRATCH",
    "WORK",
    "DATA",
    "CUDA_VISIBLE_DEVICES",
)
OPEN_PREFIXES = ("MOSLD_", "SLURM_")
# A shorter value of an environment variable is no key, and may be part of any word.
MIN_SECRET_CHARACTERS = 8
LOOKS_SECRET = re.compile(
    r"\bhf_\w{20,}|\bwandb_v\d_\w{20,}|\blocal-[0-9a-f]{40}\b|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bsk-[\w-]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b|(?<=://)[^/@\s]*:[^/@\s]+(?=@)|(?<=://)[^/@:\s]{16,}(?=@)"
    r"|(?<=[?&]token=)\w{8,}|(?<=[?&]api_key=)\w{8,}|(?<=[?&]access_token=)\w{8,}"
)
# Git commits look like this too.
WANDB_KEY = re.compile(r"[0-9a-f]{40}")


def secrets_in(tree: Mapping[str, object]) -> list[str]:
    """One message per key of a config tree whose value looks like a secret; the message does not repeat the value."""
    return [
        f"{key}: holds what looks like a secret (a key, or a password in an address), and would be written into files "
        "and to the dashboard; give it in the environment, or by `wandb login` or `hf auth login`."
        for key in dict.fromkeys(_secret_keys(tree, ""))
    ]


def may_enter_config(name: str) -> bool:
    """Whether `${oc.env:NAME}` may be used: what it gives is written into files and to the dashboard."""
    return (name in OPEN_VARIABLES or name.startswith(OPEN_PREFIXES)) and not SECRET_NAME.search(name)


def redact(text: str) -> str:
    """Replace every secret in a text by ***: values of environment variables, and what looks like a key."""
    for value in _environment_secrets():
        text = text.replace(value, "***")
    return LOOKS_SECRET.sub("***", text)


def _secret_keys(value: object, key: str) -> Iterator[str]:
    """The keys at and below `key` that hold a secret, or whose name is one."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            secret = _is_secret(key, str(name))
            below = f"{key}.{'***' if secret else name}".lstrip(".")
            if secret:
                yield below
            yield from _secret_keys(entry, below)
    elif isinstance(value, list):
        for entry in value:
            yield from _secret_keys(entry, key)
    elif not isinstance(value, bool) and _is_secret(key, str(value)):
        yield key


def _is_secret(key: str, text: str) -> bool:
    may_be_commit = key == "model.revision"
    return redact(text) != text or (not may_be_commit and WANDB_KEY.fullmatch(text) is not None)


def _environment_secrets() -> list[str]:
    """The values of the environment variables with names of secrets, longest first."""
    values = {
        value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= MIN_SECRET_CHARACTERS
    }
    return sorted(values, key=len, reverse=True)
