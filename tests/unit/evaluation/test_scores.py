"""Accuracy with its standard error, by task and by subject, and as an `evaluate.Metric`."""

import math

import pytest

from mosld.evaluation.correctness import likeliest, likeliest_per_character
from mosld.evaluation.generation import GeneratedPrediction
from mosld.evaluation.multiple_choice import ChoicePrediction
from mosld.evaluation.scores import accuracy_score, add_subjects, average, task_score

CHOICES = ["a", "a long one", "mid"]


def test_the_standard_error_is_that_of_the_mean_of_a_sample():
    sample_variance = sum((outcome - 0.3) ** 2 for outcome in [1] * 3 + [0] * 7) / 9
    assert accuracy_score([True] * 3 + [False] * 7) == {
        "accuracy": pytest.approx(0.3), "stderr": pytest.approx(math.sqrt(sample_variance / 10)), "n": 10,
    }  # fmt: skip


def test_a_single_item_has_a_standard_error_of_zero():
    assert accuracy_score([True]) == {"accuracy": 1, "stderr": 0, "n": 1}


def test_options_are_compared_as_a_whole_or_per_character_and_the_first_of_equals_is_chosen():
    # Per character -2, -0.5 and -1.
    assert likeliest([-2.0, -5.0, -3.0]) == 0
    assert likeliest_per_character([-2.0, -5.0, -3.0], CHOICES) == 1
    assert likeliest([-2.0] * 3) == 0


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
def test_the_score_of_generated_answers_is_their_share_of_correct_ones_in_every_prompt_format(style):
    predictions = [GeneratedPrediction(str(i), "7", i < 1) for i in range(4)]
    assert task_score(predictions, style) == {"accuracy": 0.25, "stderr": pytest.approx(0.25), "n": 4}


def test_choices_by_letter_have_one_accuracy_and_choices_by_text_the_raw_one_besides():
    predictions = [ChoicePrediction(str(i), 0, i < 1, 1, i < 2, [0.0, 0.0]) for i in range(4)]
    raw = {"accuracy": 0.25, "stderr": pytest.approx(0.25), "n": 4}
    assert task_score(predictions, "letter") == raw
    cloze = task_score(predictions, "cloze")
    assert (cloze["accuracy"], cloze["n"]) == (0.5, 4)
    assert (cloze["accuracy_raw"], cloze["stderr_raw"]) == (raw["accuracy"], raw["stderr"])


def test_the_average_counts_each_task_once_and_is_none_without_a_task():
    assert average({"a": accuracy_score([True]), "b": accuracy_score([False] * 9)}) == 0.5
    assert average({}) is None


def test_scores_by_subject_and_category_are_those_of_their_questions():
    ids = ["anatomy/test/0", "virology/test/0", "anatomy/test/1", "astronomy/test/0"]
    correct = [True, True, False, False]
    score = add_subjects(accuracy_score(correct), ids, correct, accuracy_score)
    assert (score["accuracy"], score["n"]) == (0.5, 4)
    assert {name: (part["accuracy"], part["n"]) for name, part in score["by_subject"].items()} == {
        "anatomy": (0.5, 2), "astronomy": (0.0, 1), "virology": (1.0, 1),
    }  # fmt: skip
    assert [(name, part["accuracy"], part["n"]) for name, part in score["by_category"].items()] == [
        ("STEM", 0.0, 1), ("other", pytest.approx(2 / 3), 3),
    ]  # fmt: skip


def test_the_metric_computes_accuracy_as_a_whole_and_per_character_and_leaves_no_file(tmp_path, monkeypatch):
    from mosld.evaluation.metrics import ChoiceAccuracy

    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path))
    # Questions may differ in their number of options.
    predictions = [[-2.0, -5.0, -3.0], [-1.0, -2.0]]
    references = [{"answer": 1, "choices": CHOICES}, {"answer": 0, "choices": ["x", "y"]}]
    whole = ChoiceAccuracy().compute(predictions=predictions, references=references)
    per_character = ChoiceAccuracy().compute(predictions=predictions, references=references, per_character=True)
    assert whole == {"accuracy": 0.5, "stderr": 0.5, "n": 2}
    assert per_character == {"accuracy": 1.0, "stderr": 0.0, "n": 2}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
