"""The published sets on the Hugging Face Hub, at pinned revisions.

Each set is downloaded once, its columns are converted to the project's records, and these are written to the cache as
<task>/<split>.jsonl, which is read and checked like the user's files.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from mosld.common.errors import UserError, explain_hub_error
from mosld.common.files import JsonObject, build_once, cache_directory
from mosld.common.network import hub_outage
from mosld.data.reading.bad_rows import RowError
from mosld.data.reading.records import write_records
from mosld.data.splits import needed_splits
from mosld.data.tasks import TASKS, HubSet, Task

if TYPE_CHECKING:
    from datasets import Dataset


def _choice(row_id: str, context: str, question: str, choices: Sequence[str], answer: int | None) -> JsonObject:
    texts = [_clean(choice) for choice in choices]
    return {"id": row_id, "context": _clean(context), "question": _clean(question), "choices": texts, "answer": answer}


def _clean(text: str) -> str:
    return text.replace("\u00a0", " ").strip()


def _answer_index(label: str, labels: Sequence[str]) -> int | None:
    """The index of the right label; None, which the reader of the records reports, where the label is hidden."""
    return list(labels).index(label) if label in list(labels) else None


def _labelled(columns: JsonObject, _: str, question: str = "question") -> JsonObject:
    choices = columns["choices"]
    answer = _answer_index(columns["answerKey"], choices["label"])
    return _choice(columns["id"], "", columns[question], choices["text"], answer)


def _race(columns: JsonObject, row_id: str) -> JsonObject:
    # The questions on one passage share its id: the row's number makes them differ.
    number = row_id.rpartition("/")[2]
    answer = _answer_index(columns["answer"], "ABCD")
    return _choice(
        f"{columns['example_id']}/{number}", columns["article"], columns["question"], columns["options"], answer
    )


def _mctest(columns: JsonObject, row_id: str) -> JsonObject:
    story = re.sub(r"(\\newline)+", "\n", columns["story"])
    letters = sorted(columns["answer_options"])
    choices = [columns["answer_options"][letter] for letter in letters]
    return _choice(row_id, story, columns["question"], choices, _answer_index(columns["answer"], letters))


def _gsm8k(columns: JsonObject, row_id: str) -> JsonObject:
    final = columns["answer"].rpartition("####")[2].strip().replace(",", "")
    return {"id": row_id, "question": _clean(columns["question"]), "answer": columns["answer"].strip(), "final": final}


def _openorca(columns: JsonObject, _: str) -> JsonObject:
    texts = {key: _clean(columns[key]) for key in ("question", "response")}
    return {"id": columns["id"], "system": _clean(columns["system_prompt"]), **texts}


def _mmlu(columns: JsonObject, row_id: str) -> JsonObject:
    subject_id = f"{columns['subject']}/{row_id.partition('/')[2]}"
    return _choice(subject_id, "", columns["question"], columns["choices"], columns["answer"])


# What makes a record of a published row and its id "<config>/<split>/<number>".
Converter = Callable[[JsonObject, str], JsonObject]
_LABELLED: tuple[Converter, set[str]] = (_labelled, {"question", "choices", "answerKey"})
# By task, its converter and the columns by which a row in the hub's own form is known.
PUBLISHED: dict[str, tuple[Converter, set[str]]] = {
    "obqa": (partial(_labelled, question="question_stem"), {"question_stem", "choices", "answerKey"}),
    "csqa": _LABELLED,
    "race": (_race, {"example_id", "article", "question", "options", "answer"}),
    "mctest": (_mctest, {"story", "question", "answer_options", "answer"}),
    "arc_e": _LABELLED,
    "arc_c": _LABELLED,
    "gsm8k": (_gsm8k, {"question", "answer"}),
    "openorca": (_openorca, {"id", "system_prompt", "question", "response"}),
    "mmlu": (_mmlu, {"question", "subject", "choices", "answer"}),
}


def converted(task: Task, record: object, split: str, number: int) -> object:
    """A row in the hub's own form as the project's record, with the id that it has there; any other as it is.

    Args:
        task: the benchmark.
        record: a row of a file.
        split: its published split.
        number: of the row in the split, from 0.

    Raises:
        ValueError: the row has the hub's columns, but not their values.
    """
    assert task.hub
    convert, columns = PUBLISHED[task.name]
    if not isinstance(record, dict) or not columns <= set(record):
        return record
    # The project's own form of these two has the same columns and more.
    if {"gsm8k": "final", "openorca": "system"}.get(task.name) in record:
        return record
    try:
        return convert(record, f"{task.hub.configs[0]}/{split}/{number}")
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        names = ", ".join(sorted(columns))
        raise RowError(
            f"has the hub's columns ({names}), but not their form ({type(error).__name__}: {error})"
        ) from error


def hub_root(tasks: Iterable[str]) -> Path:
    """The directory with the rows of these tasks, each downloaded on first use.

    Raises:
        UserError: a set cannot be downloaded, and what to do about it.
    """
    version = hashlib.sha256(Path(__file__).read_bytes() + repr([task.hub for task in TASKS.values()]).encode())
    root = cache_directory() / f"hub-{version.hexdigest()[:12]}"
    for name in tasks:
        build_once(root / name, partial(_download, TASKS[name]))
    return root


def _download(task: Task, target: Path) -> None:
    source = task.hub
    assert source
    print(f"fetching {source.repository} once", file=sys.stderr)
    target.mkdir()
    convert, _ = PUBLISHED[task.name]
    for split in needed_splits(task, task.trained, shots=1):
        sample = source.train_sample if split == "train" else None
        records = [
            convert(columns, f"{config}/{split}/{number}")
            for config in source.configs
            for number, columns in _sampled(fetch(source, config, split), sample)
        ]
        write_records(target / f"{split}.jsonl", records)


def fetch(source: HubSet, config: str, split: str) -> "Dataset":
    """The published rows of one split, read by `datasets`: data files only, no loading script is run.

    Raises:
        UserError: they cannot be downloaded.
    """
    # Asked before `datasets` is imported, which would try for half a minute.
    hub_outage()
    # Takes seconds, and only the first run needs it.
    import datasets

    # The command shows that it reads.
    datasets.disable_progress_bars()
    try:
        if source.parquet:
            files = f"hf://datasets/{source.repository}@refs%2Fconvert%2Fparquet/{config}/{split}/*.parquet"
            return datasets.load_dataset("parquet", data_files=files, split="train")
        return datasets.load_dataset(source.repository, config, split=split, revision=source.revision)
    except Exception as error:
        # The libraries below raise a dozen types: no network, no such set, no access.
        reason = explain_hub_error(
            f"datasets/{source.repository}",
            error,
            "without a network take source=bundled or source=local source.root=DIR",
        )
        raise UserError(f"source=hub: {source.repository} (revision {source.revision}) {reason}") from error


def _sampled(rows: "Dataset", count: int | None) -> Iterable[tuple[int, JsonObject]]:
    """The rows with their numbers: all, or `count` of them without reading the others."""
    if count is None or len(rows) <= count:
        return enumerate(rows)
    return ((number, rows[number]) for number in sorted(Random("mosld").sample(range(len(rows)), count)))
