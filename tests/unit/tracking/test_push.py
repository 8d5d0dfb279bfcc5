"""Pushing to the hub: private, refused without a token, and a failure does not fail the run."""

import json
from typing import ClassVar

import huggingface_hub
import pytest

from mosld import train as train_command


@pytest.fixture
def arguments(toy_root, tmp_path):
    return [
        "method=lora", "model=tiny", "source=local", f"source.root={toy_root}", "data.tasks=[obqa]", "debug=fast",
        "logger=files", f"output_dir={tmp_path / 'run'}", "hub.push_to=me/mine",
    ]  # fmt: skip


class FakeHub:
    """Stands in for huggingface_hub.HfApi and remembers what it was asked."""

    calls: ClassVar[list[tuple]] = []

    def create_repo(self, name, private, exist_ok):
        self.calls.append((name, private, exist_ok))
        return f"https://hub.example/{name}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))


def test_push_without_a_token_is_refused_before_the_run_starts(arguments, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert train_command.main(arguments) == 2
    assert "hub.push_to=me/mine: needs a hub token" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_adapter_and_card_are_pushed_to_a_private_repository(arguments, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_planted_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    FakeHub.calls = []
    assert train_command.main(arguments) == 0
    created, sent = FakeHub.calls
    assert created == ("me/mine", True, True)
    assert sent[0] == "me/mine"
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "config.yaml"} <= set(sent[1])
    assert json.loads((tmp_path / "run" / "results.json").read_text())["pushed_to"] == "https://hub.example/me/mine"
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"hf_planted_secret" not in path.read_bytes()


@pytest.mark.slow
def test_failed_push_does_not_fail_the_run(arguments, monkeypatch, tmp_path, capsys):
    class Down(FakeHub):
        def create_repo(self, *_, **__):
            raise OSError("the hub is down")

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_planted_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", Down)
    assert train_command.main(arguments) == 0
    assert "not pushed to me/mine: the hub is down" in capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "finished"
    assert results["pushed_to"] is None
