"""The accuracy of multiple choice as an `evaluate.Metric`, for use outside mosld.

A module of its own because `evaluate` and `datasets` take seconds to import.
"""

from collections.abc import Mapping, Sequence

import datasets
import evaluate

from mosld.common.files import cache_directory
from mosld.evaluation.correctness import likeliest, likeliest_per_character
from mosld.evaluation.scores import Score, accuracy_score

ITEMS = {
    "predictions": datasets.List(datasets.Value("float64")),
    "references": {"answer": datasets.Value("int64"), "choices": datasets.List(datasets.Value("string"))},
}


class ChoiceAccuracy(evaluate.Metric):
    """The share of questions whose right option is the likeliest, with its standard error.

    `compute` takes predictions (the log-likelihood of each option) and references ({"answer": 1, "choices": ["no",
    "yes"]}). With `per_character=True` it divides by the length of the option's text: acc_norm in place of acc.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**{"keep_in_memory": True, "cache_dir": str(cache_directory() / "metrics"), **options})

    def _info(self) -> evaluate.MetricInfo:
        text = str(self.__doc__)
        return evaluate.MetricInfo(text, citation="", inputs_description=text, features=datasets.Features(ITEMS))

    def _compute(
        self, predictions: Sequence[list[float]], references: Sequence[Mapping], per_character: bool = False
    ) -> Score:
        correct = []
        for scores, row in zip(predictions, references, strict=True):
            choice = likeliest_per_character(scores, row["choices"]) if per_character else likeliest(scores)
            correct.append(choice == row["answer"])
        return accuracy_score(correct)
