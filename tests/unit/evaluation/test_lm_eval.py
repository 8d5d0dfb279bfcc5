"""Our scoring against lm-evaluation-harness by its own task files: the untrained tiny base, item by item in fp32."""

import pytest

import mosld
from mosld.common.errors import UserError
from mosld.data.rows import Row
from mosld.data.tokens.prompts import Encoded, PromptEncoder, render
from mosld.evaluation.multiple_choice import score_choices
from mosld.evaluation.scores import accuracy_score, task_score

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")

from mosld.evaluation.lm_eval.build import group_on_subjects, published_task, task_manager, task_on_rows
from mosld.evaluation.lm_eval.evaluate import LmEvalResult, merge_subjects, run_lm_eval
from mosld.evaluation.lm_eval.model import batch_indices
from mosld.evaluation.lm_eval.tasks import TASK_MAPPINGS, check_tasks

# Lm-eval adds the log-probabilities of an option in fp32: up to 25 additions of numbers below 256 round by 2**-17 each,
# 1.9e-4 in all. The forward passes differ by about 1e-5.
SUM_BOUND = 2e-4
# No two are equal: which of two equally likely options lm-eval chooses depends on their place in its batches.
OPTIONS = ["an apple", "a very long answer indeed", "no", "the third: of them", "H₂O at 100 °C", "not a one"]
STYLES = {"arc_easy": "cloze", "arc_challenge": "cloze", "openbookqa": "cloze", "commonsense_qa": "letter"}
SUBJECTS = ("anatomy", "virology", "astronomy")


def rows(name: str, count: int = 24) -> list[Row]:
    """Questions with 3 to 6 options; five where the task file has five letters."""
    sizes = [5] * count if name == "commonsense_qa" else [3 + i % 4 for i in range(count)]
    return [
        Row(TASK_MAPPINGS[name].task, f"row{i}", "", f"What, {'in truth, ' * (i % 5)}is number {i}?",
            tuple(OPTIONS[(i + k) % 6] for k in range(size)), i % 3)
        for i, size in enumerate(sizes)
    ]  # fmt: skip


def subject_row(subject: str, split: str, i: int) -> Row:
    choices = tuple(OPTIONS[(i + k) % 4] for k in range(4))
    return Row("mmlu", f"{subject}/{split}/{i}", "", f"What{', in truth' * i} is {subject} {i}?", choices, i % 4)


MMLU_ROWS = [subject_row(subject, "test", i) for i in range(6) for subject in SUBJECTS]
EXAMPLES = {subject: [subject_row(subject, "dev", i) for i in range(3)] for subject in SUBJECTS}


@pytest.fixture(scope="module")
def base():
    """The tiny random model in fp32, and its tokenizer."""
    return mosld.load_base("tiny", dtype="float32")


@pytest.fixture(scope="module")
def mmlu():
    return task_manager(["mmlu"])


def assert_clear(scores: list[float], row: Row, style: str) -> None:
    """Rounding cannot change which option is the best, as a whole or per character of its text."""
    lengths = [1] * len(scores) if style == "letter" else [len(choice) for choice in row.choices]
    for values in (scores, [score / length for score, length in zip(scores, lengths, strict=True)]):
        assert sorted(values)[-1] - sorted(values)[-2] > 2 * SUM_BOUND


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize(("their_batch_tokens", "our_batch_tokens"), [(1, 5000), (700, 1)])
def test_the_untrained_base_is_scored_as_lm_eval_scores_it(name, their_batch_tokens, our_batch_tokens, base):
    model, tokenizer = base
    style, manager, asked = STYLES[name], task_manager([name]), rows(name)
    result = run_lm_eval(model, tokenizer, [task_on_rows(name, manager, {"test": asked})], manager, their_batch_tokens)
    ours = score_choices(model, PromptEncoder(tokenizer, style).encode(asked), tokenizer.pad_token_id, our_batch_tokens)
    for row, mine, theirs in zip(asked, ours, result.records[name], strict=True):
        assert_clear(mine.scores, row, style)
        assert mine.scores == pytest.approx(theirs.pop("scores"), abs=SUM_BOUND)
        assert {key: getattr(mine, key) for key in theirs} == theirs
    assert result.scores[name] == pytest.approx(task_score(ours, style))


def test_a_task_on_our_rows_has_the_prompt_and_metrics_of_its_file():
    manager = task_manager(["arc_easy"])
    task = task_on_rows("arc_easy", manager, {"test": rows("arc_easy")})
    assert task.config.doc_to_text == manager.task_index["arc_easy"].cfg["doc_to_text"]
    assert [metric["metric"] for metric in task.config.metric_list] == ["acc", "acc_norm"]


def test_a_model_in_training_mode_is_left_in_training_mode_and_only_our_progress_bar_is_drawn(base, capfd):
    model, tokenizer = base
    manager = task_manager(["arc_easy"])
    batches = []

    def progress(items):
        for item in items:
            yield item
            batches.append(item)

    task = task_on_rows("arc_easy", manager, {"test": rows("arc_easy", 4)})
    run_lm_eval(model.train(), tokenizer, [task], manager, 200, progress=progress)
    assert model.training
    model.eval()
    assert len(batches) > 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shots", [0, 2])
def test_mmlu_has_our_prompt_under_a_heading_and_the_same_scores(shots, base, mmlu):
    model, tokenizer = base
    group = group_on_subjects("mmlu", mmlu, MMLU_ROWS, EXAMPLES, shots)
    result = run_lm_eval(model, tokenizer, [group], mmlu, 3000)
    by_id = {row.id: row for row in MMLU_ROWS}
    for task in group.get_all_tasks():
        asked, records = [], result.records[task.task_name]
        for record, first in zip(records, range(0, len(task.instances), 4), strict=True):
            texts = [one.args for one in task.instances[first : first + 4]]
            assert [option for _, option in texts] == [" A", " B", " C", " D"]
            prompt = tokenizer(texts[0][0], add_special_tokens=False).input_ids
            options = [tokenizer(option, add_special_tokens=False).input_ids for _, option in texts]
            asked.append(Encoded(by_id[record["id"]], prompt, options))
        ours = score_choices(model, asked, tokenizer.pad_token_id, 1)
        for question, mine, theirs in zip(asked, ours, records, strict=True):
            assert_clear(mine.scores, question.row, "letter")
            assert mine.scores == pytest.approx(theirs["scores"], abs=SUM_BOUND)
            assert (mine.id, mine.prediction, mine.correct) == tuple(theirs[k] for k in ("id", "prediction", "correct"))
    [task] = [task for task in group.get_all_tasks() if task.task_name == "mmlu_anatomy"]
    heading = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    examples = [render(one, "letter")[0] + " " + "ABCD"[one.answer] + "\n\n" for one in EXAMPLES["anatomy"][:shots]]
    prompt = "".join(examples) + render(MMLU_ROWS[0], "letter")[0]
    assert task.instances[0].args[0] == heading + prompt.replace("Question: ", "")


def test_merged_subjects_are_one_score_by_subject_and_category(base, mmlu):
    result = run_lm_eval(*base, [group_on_subjects("mmlu", mmlu, MMLU_ROWS, {}, 0)], mmlu, 3000)
    merged = merge_subjects(result)
    assert (list(merged.scores), list(merged.records)) == (["mmlu"], ["mmlu"])
    correct = {record["id"]: record["correct"] for record in merged.records["mmlu"]}
    assert sorted(correct) == sorted(row.id for row in MMLU_ROWS)
    score = merged.scores["mmlu"]
    assert {key: score[key] for key in ("accuracy", "stderr", "n")} == accuracy_score(list(correct.values()))
    assert score["accuracy"] == pytest.approx(result.reported["mmlu"]["acc,none"])
    for subject, part in score["by_subject"].items():
        assert part["accuracy"] == result.scores[f"mmlu_{subject}"]["accuracy"]
    assert {name: part["n"] for name, part in score["by_category"].items()} == {"STEM": 6, "other": 12}
    # The one subject that lm-eval has in another category: anatomy, with astronomy.
    assert result.reported["mmlu_stem"]["sample_len"] == 12


def test_merged_rows_of_the_published_set_are_named_by_their_subject():
    record = {"correct": True, "prediction": 0, "scores": [0.0]}
    records = {name: [{"id": str(i), **record} for i in range(2)] for name in ("mmlu_anatomy", "mmlu_virology")}
    merged = merge_subjects(LmEvalResult({"arc_easy": {"accuracy": 1.0}}, {"arc_easy": [], **records}, {}, {}))
    assert [one["id"] for one in merged.records["mmlu"]] == [
        "anatomy/test/0", "anatomy/test/1", "virology/test/0", "virology/test/1",
    ]  # fmt: skip
    assert list(merged.scores) == list(merged.records) == ["arc_easy", "mmlu"]


def test_a_published_task_takes_the_number_of_examples_asked_for(mmlu):
    class Manager:
        """In place of lm-eval's, which would download: the group on our rows."""

        def load(self, names):
            assert names == ["mmlu"]
            group = group_on_subjects("mmlu", mmlu, MMLU_ROWS, EXAMPLES, 0)
            return {"groups": {"mmlu": group}, "tasks": {task.task_name: task for task in group.get_all_tasks()}}

    group = published_task("mmlu", Manager(), 3)
    assert {task.config.num_fewshot for task in group.get_all_tasks()} == {3}
    assert published_task("gsm8k", Manager(), None) == "gsm8k"


def test_batches_hold_at_most_the_token_budget_or_one_request():
    keys = [(length, str(i)) for i, length in enumerate((900, 10, 12, 300, 2500, 11, 300))]
    assert batch_indices(keys, 1000) == [[4], [0], [6, 3, 2], [5, 1]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mmlu", "mmlu_anatomy"], "mmlu_anatomy is part of mmlu"),
        (["mmlu", "mmlu_social_sciences"], "mmlu_social_sciences is part of mmlu"),
        (["arc_easy", "arc_easy"], "arc_easy is named 2 times"),
    ],
)
def test_tasks_that_repeat_questions_are_rejected(names, message):
    with pytest.raises(UserError, match=message):
        check_tasks(names, "hub")


def test_every_subject_has_a_task_in_lm_eval(mmlu):
    subjects = {name for name, mapping in TASK_MAPPINGS.items() if mapping.subject}
    assert len(subjects) == 57
    assert subjects <= set(mmlu.all_tasks)
