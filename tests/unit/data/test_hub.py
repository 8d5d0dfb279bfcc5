"""The hub source: the published columns of each set become rows, at pinned revisions, downloaded once."""

import json
import re
from dataclasses import replace

import pytest
from datasets import Dataset
from datasets import load_dataset as load_published
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from mosld.common.errors import UserError
from mosld.config.schema import SourceConfig
from mosld.data.reading import hub
from mosld.data.reading.sources import read_splits
from mosld.data.tasks import TASKS

FOUR = {"text": ["sun", "moon", "sea", "sky"], "label": ["A", "B", "C", "D"]}
PUBLISHED = {
    "obqa": [{"id": "7-980", "question_stem": "The sun is", "choices": FOUR, "answerKey": "B"}],
    "csqa": [{"id": "075e", "question": "What?", "question_concept": "c", "choices": FOUR, "answerKey": "D"}],
    "race": [
        {"example_id": "high1.txt", "article": "A text.", "answer": "C", "question": "Who?", "options": list("wxyz")},
        {"example_id": "high1.txt", "article": "A text.", "answer": "A", "question": "Why?", "options": list("wxyz")},
    ],
    "mctest": [
        {
            "idx": {"story": 0, "question": 1}, "story": "One.\\newline\\newlineTwo.", "question": "Which?",
            "answer_options": {"A": "a", "B": "b", "C": "c", "D": "d"}, "answer": "D",
        },
    ],
    "arc_e": [
        {"id": "Mercury_1", "question": "Q?", "choices": FOUR, "answerKey": "A"},
        {"id": "NYSEDREGENTS_2", "question": "Q2?", "choices": {**FOUR, "label": list("1234")}, "answerKey": "3"},
    ],
    "gsm8k": [{"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 1,002"}],
    "openorca": [{"id": "flan.1", "system_prompt": "", "question": "Say hi.", "response": "Hi."}],
    "mmlu": [{"question": "Q\u00a0?", "subject": "anatomy", "choices": list("wxyz"), "answer": 2}],
}  # fmt: skip
PUBLISHED["arc_c"] = PUBLISHED["arc_e"]
RECORDS = {  # of train (mmlu: test)
    "obqa": [{"id": "7-980", "context": "", "question": "The sun is", "choices": FOUR["text"], "answer": 1}],
    "csqa": [{"id": "075e", "context": "", "question": "What?", "choices": FOUR["text"], "answer": 3}],
    "race": [
        {"id": "high1.txt/0", "context": "A text.", "question": "Who?", "choices": list("wxyz"), "answer": 2},
        {"id": "high1.txt/1", "context": "A text.", "question": "Why?", "choices": list("wxyz"), "answer": 0},
    ],
    "mctest": [
        {
            "id": f"{config}/train/0", "context": "One.\nTwo.", "question": "Which?", "choices": list("abcd"),
            "answer": 3,
        }
        for config in ("mc160", "mc500")
    ],
    "arc_e": [
        {"id": "Mercury_1", "context": "", "question": "Q?", "choices": FOUR["text"], "answer": 0},
        {"id": "NYSEDREGENTS_2", "context": "", "question": "Q2?", "choices": FOUR["text"], "answer": 2},
    ],
    "gsm8k": [
        {"id": "main/train/0", "question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 1,002", "final": "1002"},
    ],
    "openorca": [{"id": "flan.1", "system": "", "question": "Say hi.", "response": "Hi."}],
    "mmlu": [{"id": "anatomy/test/0", "context": "", "question": "Q ?", "choices": list("wxyz"), "answer": 2}],
}  # fmt: skip
RECORDS["arc_c"] = RECORDS["arc_e"]


@pytest.mark.parametrize("task", PUBLISHED)
def test_local_files_in_the_columns_of_the_hub_give_its_rows(task, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda source, config, split: Dataset.from_list(PUBLISHED[task]))
    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path / "cache"))
    training = TASKS[task].trained
    for split in ("train", "validation", "test", "dev"):
        path = tmp_path / "root" / task / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(PUBLISHED[task]).to_json(path)
    read = {
        name: read_splits([task], SourceConfig(name=name, root=str(tmp_path / "root")), training)[task].splits
        for name in ("local", "hub")
    }
    # The hub's rows of a set in two configurations are those of both.
    configs = len(TASKS[task].hub.configs)
    for split, rows in read["local"].items():
        assert rows == read["hub"][split][: len(rows)]
        assert len(read["hub"][split]) == configs * len(rows) == configs * len(PUBLISHED[task])


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A hub of parquet files in an empty cache; yields what was asked of it."""
    calls = []

    def fetch(source, config, split):
        task = next(task.name for task in TASKS.values() if task.hub is source)
        calls.append((task, config, split))
        path = tmp_path / f"{task}.parquet"
        Dataset.from_list(PUBLISHED[task]).to_parquet(path)
        return load_published("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "datasets"))

    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "fetch", fetch)
    return calls


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("task", hub.PUBLISHED)
def test_published_columns_become_records(task, asked):
    split = "test" if task == "mmlu" else "train"
    assert read(hub.hub_root([task]) / task / f"{split}.jsonl") == RECORDS[task]
    splits = {"csqa": 2, "gsm8k": 2, "openorca": 1, "mmlu": 2}.get(task, 3)
    assert len(asked) == splits * len(TASKS[task].hub.configs)


def test_hidden_label_is_left_to_the_reader(asked, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "csqa", [{**PUBLISHED["csqa"][0], "answerKey": ""}])
    assert read(hub.hub_root(["csqa"]) / "csqa" / "train.jsonl")[0]["answer"] is None


def test_set_is_downloaded_once(asked):
    hub.hub_root(["obqa"])
    asked.clear()
    hub.hub_root(["obqa"])
    assert asked == []


def test_large_split_is_sampled_in_its_order(asked, monkeypatch):
    many = [{**PUBLISHED["race"][0], "question": f"Q{i}"} for i in range(40)]
    monkeypatch.setitem(PUBLISHED, "race", many)
    race = TASKS["race"]
    monkeypatch.setitem(TASKS, "race", replace(race, hub=replace(race.hub, train_sample=10)))
    first = read(hub.hub_root(["race"]) / "race" / "train.jsonl")
    numbers = [int(row["id"].rpartition("/")[2]) for row in first]
    assert len(set(numbers)) == 10
    assert numbers == sorted(numbers) != list(range(10))
    assert all(row["question"] == f"Q{number}" for row, number in zip(first, numbers, strict=True))
    assert len(read(hub.hub_root(["race"]) / "race" / "test.jsonl")) == 40


def test_revisions_are_pinned_commits():
    assert all(re.fullmatch(r"[0-9a-f]{40}", task.hub.revision) for task in TASKS.values())
    assert hub.PUBLISHED.keys() == TASKS.keys()


def test_missing_network_is_one_message_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"allenai/openbookqa .* cannot be fetched.*source=bundled") as caught:
        hub.hub_root(["obqa"])
    assert len(caught.value.messages) == 1
    assert "\n" not in caught.value.messages[0]
    assert not list(tmp_path.glob("hub-*/obqa"))


def refused(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    """An error as the hub's library raises it."""
    return kind(
        f"{status} Client Error.",
        response=httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co")),
    )


HUB_SAYS = {
    GatedRepoError: ["it is gated", "https://huggingface.co/datasets/allenai/openbookqa", "hf auth login"],
    RepositoryNotFoundError: ["not there under this name", "https://huggingface.co/datasets/allenai/openbookqa"],
    RevisionNotFoundError: ["not there under this name and revision"],
    LocalEntryNotFoundError: ["source=bundled", "hf auth login"],
    OfflineModeIsEnabled: ["source=bundled"],
}


@pytest.mark.parametrize("kind", HUB_SAYS)
def test_refused_set_says_how_to_get_access(kind, tmp_path, monkeypatch):
    error = refused(kind, 403) if issubclass(kind, HfHubHTTPError) else kind("no")

    def load(*_: object, **__: object) -> None:
        raise DatasetNotFoundError("Dataset is not to be had.") from error

    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError) as caught:
        hub.hub_root(["obqa"])
    (message,) = caught.value.messages
    assert [words for words in HUB_SAYS[kind] if words not in message] == []
