"""mmlu: its subjects and categories, the examples before a question, and that it is for evaluation only."""

import json
from pathlib import Path

import pytest

from mosld.common.errors import UserError
from mosld.config.rerun import rerun_config
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.bundled import generate
from mosld.data.dataset import load_dataset
from mosld.data.rows import Row
from mosld.data.splits import TaskData
from mosld.data.subjects import CATEGORIES, CATEGORY, subject_of
from mosld.data.tasks import TASKS
from mosld.data.tokens.prompts import PromptEncoder
from mosld.data.tokens.too_long import messages
from mosld.evaluation.evaluate import Questions

MMLU = DataConfig(tasks=["mmlu"])
QUESTION = Row("mmlu", "anatomy/test/0", "", "Which?", ("w", "x", "y", "z"), 1)
EXAMPLES = [Row("mmlu", f"anatomy/dev/{i}", "", f"Example {i}?", ("a", "b"), i % 2) for i in range(5)]


def encoder(tokenizer, style: str, count: int = 5) -> PromptEncoder:
    return PromptEncoder(tokenizer, style, examples={"anatomy": EXAMPLES[:count]})


def root(tmp_path: Path, dev: int = 5, subject: str = "anatomy") -> SourceConfig:
    """A local source with one subject."""
    (tmp_path / "mmlu").mkdir()
    for split, count in (("dev", dev), ("test", 4)):
        rows = [
            {"id": f"{subject}/{split}/{i}", "question": f"{split} {i}?", "choices": ["a", "b"], "answer": 0}
            for i in range(count)
        ]
        (tmp_path / "mmlu" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(name="local", root=str(tmp_path))


def test_there_are_57_subjects_each_in_one_category():
    assert {name: len(subjects) for name, subjects in CATEGORIES.items()} == {
        "STEM": 18, "humanities": 13, "social sciences": 12, "other": 14,
    }  # fmt: skip
    assert len(CATEGORY) == 57


def test_bundled_subjects_are_among_them():
    assert {subject_of(row["id"]) for row in generate("mmlu")["test"]} < set(CATEGORY)


def test_published_mmlu_has_all_subjects():
    path = Path(__file__).parents[4] / "shared" / "data" / "mmlu" / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"needs {path.parent}, real copies of the published sets")
    assert {subject_of(json.loads(line)["id"]) for line in path.open()} == set(CATEGORY)


def test_training_on_mmlu_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match=r"mmlu is for evaluation only.*mosld.eval run=RUN data=mmlu"):
        load_dataset(MMLU, SourceConfig(name="local", root="/nowhere"))


def test_examples_of_a_subject_are_its_first_dev_rows(tmp_path):
    dataset = load_dataset(MMLU, root(tmp_path), training=False, shots=3)
    assert [row.id for row in dataset.examples["anatomy"]] == [f"anatomy/dev/{i}" for i in range(3)]
    assert len(dataset.tasks["mmlu"].test) == 4


def test_dev_file_is_needed_for_shots_only(tmp_path):
    source = root(tmp_path)
    (tmp_path / "mmlu" / "dev.jsonl").unlink()
    assert load_dataset(MMLU, source, training=False).examples == {}
    with pytest.raises(UserError, match=r"dev.jsonl is missing"):
        load_dataset(MMLU, source, training=False, shots=5)


def test_more_shots_than_examples_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"evaluation.shots=5: the dev split has 2 rows of anatomy"):
        load_dataset(MMLU, root(tmp_path, dev=2), training=False, shots=5)


def test_unknown_subject_is_a_bad_row(tmp_path):
    with pytest.raises(UserError, match=r"test.jsonl:1: id 'astrology/test/0' must begin with one of MMLU's subjects"):
        load_dataset(MMLU, root(tmp_path, subject="astrology"), training=False)


def test_rerun_config_has_data_and_shots():
    config = rerun_config(
        {"model": {"name": "tiny", "kind": "random"}, "method": {"name": "m"}}, ["data=mmlu", "evaluation.shots=5"]
    )
    assert (config.data.tasks, config.evaluation.shots) == (["mmlu"], 5)


SOLVED = {
    "letter": "Question: Example 0?\nA. a\nB. b\nAnswer: A\n\nQuestion: Example 1?\nA. a\nB. b\nAnswer: B\n\n",
    "list": "Question: Example 0?\n- a\n- b\nAnswer: a\n\nQuestion: Example 1?\n- a\n- b\nAnswer: b\n\n",
    "cloze": "Question: Example 0?\nAnswer: a\n\nQuestion: Example 1?\nAnswer: b\n\n",
}


@pytest.mark.parametrize("style", SOLVED)
def test_solved_examples_stand_before_the_question_in_its_own_format(style, tokenizer):
    (plain,) = PromptEncoder(tokenizer, style).encode([QUESTION])
    (question,) = encoder(tokenizer, style, 2).encode([QUESTION])
    assert tokenizer.decode(question.prompt) == SOLVED[style] + tokenizer.decode(plain.prompt)
    assert (question.options, question.shots) == (plain.options, 2)


def test_question_of_another_subject_has_no_examples(tokenizer):
    row = Row("mmlu", "virology/test/0", "", "Which?", ("w", "x"), 1)
    assert encoder(tokenizer, "letter").encode([row])[0].shots == 0


def test_last_examples_are_dropped_to_fit_the_cutoff(tokenizer):
    long = Row("mmlu", "anatomy/test/1", "", "W" * 1900, ("w", "x"), 1)
    (question,) = encoder(tokenizer, "letter").encode([long])
    assert 0 < question.shots < 5
    assert question.length <= 2048
    assert "Example 0" in tokenizer.decode(question.prompt)
    assert f"Example {question.shots}" not in tokenizer.decode(question.prompt)


def test_question_longer_than_the_cutoff_is_kept_whole_without_examples(tokenizer):
    long = Row("mmlu", "anatomy/test/1", "", "W" * 3000, ("w", "x"), 1)
    (question,) = encoder(tokenizer, "letter").encode([long])
    alone = PromptEncoder(tokenizer, "letter").encode([long])[0]
    assert (question.prompt, question.options, question.shots) == (alone.prompt, alone.options, 0)


def test_the_log_says_before_how_many_questions_there_are_fewer_examples(tokenizer):
    long = Row("mmlu", "anatomy/test/1", "", "W" * 1900, ("w", "x"), 1)
    other = Row("obqa", "2", "", "Which?", ("w", "x"), 1)
    tasks = {
        "mmlu": TaskData(TASKS["mmlu"], [], [], [QUESTION, long]),
        "obqa": TaskData(TASKS["obqa"], [], [], [other]),
    }
    made = Questions(tasks, "test", None, encoder(tokenizer, "letter"))
    assert list(messages(made.too_long)) == [
        "mmlu: 1 of 2 test rows is longer than 2,048 tokens (longest 2,140): 1 with fewer examples (data.too_long, "
        "data.cutoff)"
    ]
