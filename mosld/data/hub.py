"""The published sets on the Hugging Face Hub: their columns read into the project's own rows, at pinned revisions.

Every set is fetched once, written as <task>/<split>.jsonl into the cache, and then read and checked like anybody's.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mosld.common.errors import UserError, explain_hub_error
from mosld.common.files import cache_directory

Columns = dict[str, Any]


@dataclass(frozen=True)
class HubSet:
    """One published set.

    Attributes:
        repository: on the hub.
        revision: the commit that is read.
        configs: its parts; their rows are joined.
        splits: our splits by the published ones' names.
        row: makes our row of a published one, given the place "<config>/<split>/<number>" of the row.
        sampled: rows taken of each part of a split, the same ones every time; the others are left out.
        parquet: whether the repository holds a script, so that its converted files are read in place.
    """

    repository: str
    revision: str
    configs: tuple[str, ...]
    splits: dict[str, str]
    row: Callable[[Columns, str], Columns]
    sampled: dict[str, int] = field(default_factory=dict)
    parquet: bool = False


def _choice(name: str, context: str, question: str, choices: Sequence[str], answer: int | None) -> Columns:
    texts = [_clean(choice) for choice in choices]
    return {"id": name, "context": _clean(context), "question": _clean(question), "choices": texts, "answer": answer}


def _clean(text: str) -> str:
    return text.replace("\u00a0", " ").strip()


def _labelled(columns: Columns, place: str, question: str = "question") -> Columns:
    choices = columns["choices"]
    answer = _place(columns["answerKey"], choices["label"])
    return _choice(columns["id"], "", columns[question], choices["text"], answer)


def _place(label: str, labels: Sequence[str]) -> int | None:
    """Where the right label stands; None, which the reader of the rows reports, where it is hidden."""
    return list(labels).index(label) if label in list(labels) else None


def _obqa(columns: Columns, place: str) -> Columns:
    return _labelled(columns, place, "question_stem")


def _race(columns: Columns, place: str) -> Columns:
    number = place.rpartition("/")[2]  # several questions stand on one passage, under one id
    answer = _place(columns["answer"], "ABCD")
    name = f"{columns['example_id']}/{number}"
    return _choice(name, columns["article"], columns["question"], columns["options"], answer)


def _mctest(columns: Columns, place: str) -> Columns:
    story = re.sub(r"(\\newline)+", "\n", columns["story"])
    letters = sorted(columns["answer_options"])
    choices = [columns["answer_options"][letter] for letter in letters]
    return _choice(place, story, columns["question"], choices, _place(columns["answer"], letters))


def _gsm8k(columns: Columns, place: str) -> Columns:
    final = columns["answer"].rpartition("####")[2].strip().replace(",", "")
    return {"id": place, "question": _clean(columns["question"]), "answer": columns["answer"].strip(), "final": final}


def _openorca(columns: Columns, place: str) -> Columns:
    texts = {key: _clean(columns[key]) for key in ("question", "response")}
    return {"id": columns["id"], "system": _clean(columns["system_prompt"]), **texts}


def _mmlu(columns: Columns, place: str) -> Columns:
    name = f"{columns['subject']}/{place.partition('/')[2]}"
    return _choice(name, "", columns["question"], columns["choices"], columns["answer"])


ALL = {"train": "train", "validation": "validation", "test": "test"}
ARC = ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453")
HUB = {
    "obqa": HubSet("allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454", ("main",), ALL, _obqa),
    "csqa": HubSet(
        "tau/commonsense_qa", "94630fe30dad47192a8546eb75f094926d47e155", ("default",),
        {"train": "train", "validation": "validation"}, _labelled,
    ),
    "race": HubSet(
        "ehovy/race", "2fec9fd81f1dc971569a9b729c43f2f0e6436637", ("all",), ALL, _race,
        sampled={"train": 10_083},  # the size of the paper's own sample, which it does not disclose
    ),
    "mctest": HubSet(
        "sagnikrayc/mctest", "0183bcd8760435c2c2655fec82c0bceb15a01c07", ("mc160", "mc500"), ALL, _mctest, parquet=True,
    ),
    "arc_e": HubSet(*ARC, ("ARC-Easy",), ALL, _labelled),
    "arc_c": HubSet(*ARC, ("ARC-Challenge",), ALL, _labelled),
    "gsm8k": HubSet(
        "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", ("main",), {"train": "train", "test": "test"},
        _gsm8k,
    ),
    "openorca": HubSet(
        "Open-Orca/OpenOrca", "e9c87b4abb2609913751f9b26553fdb9c061796c", ("default",), {"train": "train"}, _openorca,
        sampled={"train": 22_000},  # the largest amount of the paper's fig. 6
    ),
    "mmlu": HubSet(
        "cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", ("all",), {"dev": "dev", "test": "test"}, _mmlu,
    ),
}  # fmt: skip


def hub_root(tasks: Iterable[str]) -> Path:
    """The directory with the rows of these tasks, each fetched on first use.

    Raises:
        UserError: a set cannot be fetched, and what to do about it.
    """
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    root = cache_directory() / f"hub-{code}"
    for task in tasks:
        if task in HUB and not (root / task).is_dir():
            _fetch_task(HUB[task], root / task)
    return root


def _fetch_task(source: HubSet, target: Path) -> None:
    print(f"fetching {source.repository} once", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "rows"
        made.mkdir()
        for ours, theirs in source.splits.items():
            rows = [
                source.row(columns, f"{config}/{ours}/{number}")
                for config in source.configs
                for number, columns in _sampled(fetch(source, config, theirs), source.sampled.get(ours))
            ]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (made / f"{ours}.jsonl").write_text(text, encoding="utf-8")
        try:
            made.rename(target)
        except OSError:  # another process was faster; its rows are the same
            if not target.is_dir():
                raise


def fetch(source: HubSet, config: str, split: str) -> Any:
    """The published rows of one split, as the hub's own library reads them: data files alone, no script is run.

    Raises:
        UserError: they cannot be had.
    """
    import datasets  # takes seconds, and only the first run needs it

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if source.parquet:
            files = f"hf://datasets/{source.repository}@refs%2Fconvert%2Fparquet/{config}/{split}/*.parquet"
            return datasets.load_dataset("parquet", data_files=files, split="train")
        return datasets.load_dataset(source.repository, config, split=split, revision=source.revision)
    except Exception as error:  # the libraries below raise a dozen kinds: no network, no such set, no access
        why = explain_hub_error(
            f"datasets/{source.repository}",
            error,
            "without a network take source=bundled or source=local source.root=DIR",
        )
        raise UserError(f"source=hub: {source.repository} (revision {source.revision}) {why}") from error


def _sampled(rows: Any, count: int | None) -> Iterable[tuple[int, Columns]]:
    """The rows with their numbers; where a count is given so many of them, without reading the others."""
    if count is None or len(rows) <= count:
        return enumerate(rows)
    return ((number, rows[number]) for number in sorted(Random("mosld").sample(range(len(rows)), count)))
