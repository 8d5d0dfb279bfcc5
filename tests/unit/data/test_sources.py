"""Every task from the bundled source, and from copies of the published sets if they are beside the project."""

from pathlib import Path

import pytest

from mosld.common.errors import UserError
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import Reply, Row, Solution
from mosld.data.tasks import TASKS

REAL = Path(__file__).parents[4] / "shared" / "data"
KINDS = {"choice": Row, "solution": Solution, "reply": Reply}
PUBLISHED = {  # rows of train, validation, test under the official policy; race and mctest may not be copied
    "obqa": (4957, 500, 500), "csqa": (8767, 974, 1221), "arc_e": (2251, 570, 2376), "arc_c": (1119, 299, 1172),
    "gsm8k": (6726, 747, 1319), "openorca": (837, 0, 0), "mmlu": (0, 0, 5700),
}  # fmt: skip


def load(task: str, source: SourceConfig, **keys) -> Dataset:
    shots = 0 if TASKS[task].trained else 5
    return load_dataset(DataConfig(tasks=[task], **keys), source, TASKS[task].trained, shots)


@pytest.mark.parametrize("policy", ["official", "paper"])
@pytest.mark.parametrize("task", TASKS)
def test_bundled_source_has_good_rows_of_every_task(task, policy):
    dataset = load(task, SourceConfig(), split_policy=policy)
    data = dataset.tasks[task]
    assert {type(row) for row in [*data.train, *data.test]} == {KINDS[TASKS[task].kind]}
    assert (bool(data.train), bool(data.test)) == (TASKS[task].trained, TASKS[task].scored)
    assert dataset.notes == []
    assert dataset.describe()["split_policy"] == policy


@pytest.mark.parametrize("task", PUBLISHED)
@pytest.mark.slow
def test_published_sets_have_no_bad_row(task):
    if not REAL.is_dir():
        pytest.skip(f"needs {REAL}, real copies of the published sets")
    assert tuple(load(task, SourceConfig(name="local", root=str(REAL))).counts()[task].values()) == PUBLISHED[task]


def test_data_cutoff_applies_to_the_tasks():
    assert load("gsm8k", SourceConfig(), cutoff=99).known["gsm8k"].cutoff == 99


def test_rows_without_published_labels_are_reported(tmp_path):
    hidden = REAL / "csqa" / "test_unlabelled.jsonl"
    if not hidden.is_file():
        pytest.skip(f"needs {hidden}, a real copy")
    (tmp_path / "csqa").mkdir()
    (tmp_path / "csqa" / "validation.jsonl").write_bytes(hidden.read_bytes())
    with pytest.raises(UserError) as caught:
        load_dataset(DataConfig(tasks=["csqa"]), SourceConfig(name="local", root=str(tmp_path)), training=False)
    (message, _) = caught.value.messages
    assert message.endswith("validation.jsonl:1: 'answer' is hidden (null); 1,140 such rows, the first 1, 2, 3")
