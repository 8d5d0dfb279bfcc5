"""What is taken for a secret, and what is not."""

import pytest

from mosld.common.secrets import redact, secrets_in

KEY = "0123456789abcdef0123456789abcdef01234567"

SECRET = {
    "a W&B key": KEY,
    "a hub token": "hf_abcdefghijklmnopqrstuvwxyz",
    "a hub token in a path": "/data/hf_abcdefghijklmnopqrstuvwxyz/rows",
    "a password in an address": "https://me:secret@example.org/rows",
    "a token as the user of an address": "https://x0123456789abcdef@example.org",
    "a token in a query": "https://example.org/rows?token=abcdefgh12",
    "a cloud key": "AKIAIOSFODNN7EXAMPLE",
}
HARMLESS = {
    "a path": "/home/me/runs/2026-01-01/mosld-r8-s0-0123abcd",
    "an address": "https://example.org/rows",
    "a repository": "meta-llama/Llama-2-7b-hf",
    "a team": "my-team",
    "a mail address": "me@example.org",
    "a partitioned path": "rows/key=train/token=1",
    "a number": 3,
    "nothing": None,
}


@pytest.mark.parametrize("kind", SECRET)
def test_secret_is_refused_and_not_repeated(kind):
    (message,) = secrets_in({"logger": {"entity": SECRET[kind]}})
    assert message.startswith("logger.entity: holds what looks like a secret")
    assert SECRET[kind] not in message


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_value_is_accepted(kind):
    assert secrets_in({"source": {"root": HARMLESS[kind]}, "list": [HARMLESS[kind]]}) == []


def test_commit_is_no_secret():
    assert secrets_in({"model": {"revision": KEY}}) == []


def test_secret_of_the_environment_is_redacted_anywhere(monkeypatch):
    monkeypatch.setenv("MY_DB_PASSWORD", "correct-horse-9")
    monkeypatch.setenv("MY_KEYBOARD", "harmless-value")
    assert redact("login correct-horse-9 failed") == "login *** failed"
    assert redact("harmless-value") == "harmless-value"
    assert len(secrets_in({"list": ["a", "x-correct-horse-9"]})) == 1
