"""The metrics: what is right, standard errors, and that they come from nowhere but the package."""

import math

import evaluate
import pytest

from mosld.evaluation.scores import ChoiceAccuracy, FinalNumberMatch, NormalisedChoiceAccuracy

CHOICES = ["a", "a long one", "mid"]


def compute(metric, items):
    predictions, references = zip(*items, strict=True)
    return metric().compute(predictions=list(predictions), references=list(references))


def question(answer: int) -> dict:
    return {"answer": answer, "choices": CHOICES}


@pytest.mark.parametrize("metric", [ChoiceAccuracy, NormalisedChoiceAccuracy, FinalNumberMatch])
def test_a_metric_is_one_of_the_library_and_says_what_it_takes(metric):
    made = metric()
    assert isinstance(made, evaluate.Metric)
    assert "prediction:" in made.inputs_description
    assert made.description


def test_an_option_is_compared_as_a_whole_or_per_character():
    scores = [-2.0, -5.0, -3.0]  # per character -2, -0.5, -1
    assert [compute(ChoiceAccuracy, [(scores, question(i))])["accuracy"] for i in range(3)] == [1, 0, 0]
    assert [compute(NormalisedChoiceAccuracy, [(scores, question(i))])["accuracy"] for i in range(3)] == [0, 1, 0]


def test_of_equal_options_the_first_is_taken():
    assert [compute(ChoiceAccuracy, [([-2.0] * 3, question(i))])["accuracy"] for i in range(3)] == [1, 0, 0]


def test_questions_may_differ_in_their_number_of_options():
    items = [([-1.0, -2.0], {"answer": 0, "choices": ["x", "y"]}), ([-2.0, -1.0, -3.0], question(1))]
    assert compute(ChoiceAccuracy, items)["accuracy"] == 1


@pytest.mark.parametrize(
    ("written", "right"),
    [("72", True), ("72.0", True), ("$72", True), ("72.00%", True), ("73", False), ("", False), ("seventy", False)],
)
def test_a_number_is_compared_by_value(written: str, right: bool):
    assert compute(FinalNumberMatch, [(written, "72")])["accuracy"] == right


def test_thousands_are_the_same_with_and_without_a_comma():
    assert compute(FinalNumberMatch, [("$1,200", "1200")])["accuracy"] == 1


def test_the_error_is_that_of_the_mean_of_a_sample():
    found = compute(FinalNumberMatch, [("7", "7")] * 3 + [("7", "8")] * 7)
    sample_variance = sum((outcome - 0.3) ** 2 for outcome in [1] * 3 + [0] * 7) / 9
    assert found == {"accuracy": pytest.approx(0.3), "stderr": pytest.approx(math.sqrt(sample_variance / 10)), "n": 10}


def test_one_item_has_no_error_that_could_be_estimated():
    assert compute(FinalNumberMatch, [("7", "7")]) == {"accuracy": 1, "stderr": 0, "n": 1}


def test_a_metric_leaves_no_items_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path))
    compute(FinalNumberMatch, [("7", "7")] * 20)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
