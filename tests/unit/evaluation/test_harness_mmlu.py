"""MMLU by lm-evaluation-harness on own rows: its group, prompts and examples; its scores as one; longer batches."""

import pytest

import mosld
from mosld.common.errors import UserError
from mosld.data.prompts import Encoded, render
from mosld.data.rows import Row
from mosld.evaluation.correctness import share_right
from mosld.evaluation.multiple_choice import score_choices

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")

from mosld.evaluation.lm_eval import evaluate as harness
from mosld.evaluation.lm_eval.mmlu import on_subjects, together
from mosld.evaluation.lm_eval.model import _parts
from mosld.evaluation.lm_eval.tasks import KNOWN, check_tasks, published, task_manager, task_on_rows

SUBJECTS = ("anatomy", "virology", "astronomy")
WORDS = ["an apple", "a very long answer indeed", "H₂O at 100 °C", "no"]


def row(subject: str, split: str, i: int) -> Row:
    choices = tuple(WORDS[(i + k) % 4] for k in range(4))
    return Row("mmlu", f"{subject}/{split}/{i}", "", f"What{', in truth' * i} is {subject} {i}?", choices, i % 4)


ROWS = [row(subject, "test", i) for i in range(6) for subject in SUBJECTS]
EXAMPLES = {subject: [row(subject, "dev", i) for i in range(3)] for subject in SUBJECTS}


@pytest.fixture(scope="module")
def base():
    """The tiny random model in fp32, and its tokenizer."""
    return mosld.load_base("tiny", dtype="float32")


@pytest.fixture(scope="module")
def index():
    return task_manager(["mmlu"])


@pytest.mark.parametrize("shots", [0, 2])
def test_the_harness_s_prompts_are_scored_here_as_it_scores_them(shots, base, index):
    model, tokenizer = base
    group = on_subjects(index, ROWS, EXAMPLES, shots)
    verdict = harness.judge(model, tokenizer, [group], index, 3000)
    by_id = {one.id: one for one in ROWS}
    for task in group.get_all_tasks():
        asked, found = [], verdict.records[task.task_name]
        for record, first in zip(found, range(0, len(task.instances), 4), strict=True):
            texts = [one.args for one in task.instances[first : first + 4]]
            assert [option for _, option in texts] == [" A", " B", " C", " D"]
            prompt = tokenizer(texts[0][0], add_special_tokens=False).input_ids
            options = [tokenizer(option, add_special_tokens=False).input_ids for _, option in texts]
            asked.append(Encoded(by_id[record["id"]], prompt, options))
        ours = score_choices(model, asked, tokenizer.pad_token_id, 1)
        for mine, theirs in zip([one.as_json() for one in ours], found, strict=True):
            assert mine.pop("scores") == pytest.approx(theirs["scores"], abs=2e-4)
            assert all(mine[key] == theirs[key] for key in ("id", "prediction", "correct"))


@pytest.mark.parametrize("shots", [0, 2])
def test_its_prompt_is_ours_under_a_heading_and_without_the_word_question(shots, index, base):
    group = on_subjects(index, ROWS[:1], EXAMPLES, shots)
    harness.judge(*base, [group], index, 3000)
    [task] = group.get_all_tasks()
    heading = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    examples = [render(one, "letter")[0] + " " + "ABCD"[one.answer] + "\n\n" for one in EXAMPLES["anatomy"][:shots]]
    ours = "".join(examples) + render(ROWS[0], "letter")[0]
    assert task.instances[0].args[0] == heading + ours.replace("Question: ", "")


def test_all_subjects_are_one_score(base, index):
    group = on_subjects(index, ROWS, {}, 0)
    verdict = harness.judge(*base, [group], index, 3000)
    whole = together(verdict)
    assert (list(whole.scores), list(whole.records)) == (["mmlu"], ["mmlu"])
    right = {one["id"]: one["correct"] for one in whole.records["mmlu"]}
    assert sorted(right) == sorted(one.id for one in ROWS)
    score = whole.scores["mmlu"]
    assert {key: score[key] for key in ("accuracy", "stderr", "n")} == share_right(list(right.values()))
    assert score["accuracy"] == pytest.approx(verdict.reported["mmlu"]["acc,none"])
    for subject, part in score["by_subject"].items():
        assert part["accuracy"] == verdict.scores[f"mmlu_{subject}"]["accuracy"]
    assert {name: part["n"] for name, part in score["by_category"].items()} == {"STEM": 6, "other": 12}
    # The one subject that the harness has in another category: anatomy, with astronomy.
    assert verdict.reported["mmlu_stem"]["sample_len"] == 12


def test_rows_of_the_published_set_are_named_by_their_subject():
    found = {"correct": True, "prediction": 0, "scores": [0.0]}
    records = {name: [{"id": str(i), **found} for i in range(2)] for name in ("mmlu_anatomy", "mmlu_virology")}
    verdict = together(harness.LmEvalResult({"arc_easy": {"accuracy": 1.0}}, {"arc_easy": [], **records}, {}, {}))
    assert [one["id"] for one in verdict.records["mmlu"]] == [
        "anatomy/test/0", "anatomy/test/1", "virology/test/0", "virology/test/1",
    ]  # fmt: skip
    assert list(verdict.scores) == list(verdict.records) == ["arc_easy", "mmlu"]


def test_examples_of_the_published_set_are_as_many_as_asked_for(index):
    class Loading:
        """In place of the index, which would fetch: its group on own rows."""

        def load(self, names):
            assert names == ["mmlu"]
            group = on_subjects(index, ROWS, EXAMPLES, 0)
            return {"groups": {"mmlu": group}, "tasks": {task.task_name: task for task in group.get_all_tasks()}}

    group = published("mmlu", Loading(), 3)
    assert {task.config.num_fewshot for task in group.get_all_tasks()} == {3}
    assert published("gsm8k", Loading(), None) == "gsm8k"


def test_batches_hold_no_more_tokens_than_allowed_however_long_one_is(base, index):
    sizes = [(length, str(length)) for length in (900, 10, 12, 300, 2500, 11, 300)]
    parts = _parts(sizes, 1000)
    assert sorted(place for part in parts for place in part) == list(range(7))
    assert all(len(part) * max(sizes[i][0] for i in part) <= 1000 for part in parts if len(part) > 1)
    assert parts == [[4], [0], [3, 6, 2], [5, 1]] or parts == [[4], [0], [6, 3, 2], [5, 1]]


def test_its_bars_are_ours(base, index, capfd):
    shown = []
    asked = [Row("arc_e", f"row{i}", "", f"What is {i}?", ("yes", "no", "maybe"), 0) for i in range(4)]

    def progress(items):
        for one in items:
            yield one
            shown.append(one)

    task = task_on_rows("arc_easy", task_manager(["arc_easy"]), {"test": asked})
    harness.judge(*base, [task], index, 200, progress=progress)
    assert len(shown) > 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["mmlu", "mmlu_anatomy"], "mmlu_anatomy is part of mmlu"),
        (["mmlu", "mmlu_social_sciences"], "mmlu_social_sciences is part of mmlu"),
        (["arc_easy", "arc_easy"], "arc_easy is named twice"),
    ],
)
def test_no_question_is_asked_twice(names, said):
    with pytest.raises(UserError, match=said):
        check_tasks(names, "hub")


def test_every_subject_has_its_task_in_the_harness(index):
    assert {name for name, known in KNOWN.items() if known.subject} <= set(index.all_tasks)
    assert len([name for name, known in KNOWN.items() if known.subject]) == 57
