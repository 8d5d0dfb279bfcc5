"""What is taken for a secret, and what is not."""

import json

import pytest
import yaml

from mosld.common.errors import UserError
from mosld.common.secrets import redact, secrets_in
from mosld.config.compose import load_config

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


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"model": {"shape": {"x": [{"a": "SECRET"}]}}}, "model.shape.x.a"),
        ({"model": {"shape": {"x": [[1, ["SECRET"]]]}}}, "model.shape.x"),
        ({"model": {"shape": {"SECRET": 1}}}, "model.shape.***"),
        ({"model": {"shape": {"x": [{"SECRET": {"a": 1}}]}}}, "model.shape.x.***"),
        ({"data": {"columns": {"obqa": {"answer": ["a", "SECRET"]}}}}, "data.columns.obqa.answer"),
    ],
)
@pytest.mark.parametrize("kind", SECRET)
def test_secret_is_found_at_any_depth_and_in_names(tree, key, kind):
    tree = yaml.safe_load(yaml.safe_dump(tree).replace("SECRET", json.dumps(SECRET[kind])))
    (message,) = secrets_in(tree)
    assert message.startswith(f"{key}: holds what looks like a secret")
    assert SECRET[kind] not in message


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("HOME", True), ("SCRATCH", True), ("SLURM_JOB_ID", True), ("MOSLD_CACHE", True), ("PATH", False),
        ("WANDB_API_KEY", False), ("MOSLD_TOKEN", False), ("DB_URL", False), ("home", False),
    ],
)  # fmt: skip
def test_only_places_and_names_of_the_machine_are_read_from_the_environment(name, allowed, monkeypatch):
    monkeypatch.setenv(name, "somewhere")
    override = f"logger.group=${{oc.env:{name}}}"
    if allowed:
        assert load_config([override]).logger.group == "somewhere"
    else:
        with pytest.raises(UserError, match=f"{name} is not among the variables") as refused:
            load_config([override])
        assert "somewhere" not in str(refused.value)
