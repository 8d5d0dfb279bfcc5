"""The metrics of results.json as `evaluate.Metric`s that are made here: `evaluate.load` would fetch a script.

The library takes seconds to import: the stages import this module when there is something to score.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from mosld.config import cache_directory
from mosld.evaluation.judging import likeliest, likeliest_per_character, same_number, same_text, share_right

OPTIONS = datasets.Features(
    {
        "predictions": datasets.List(datasets.Value("float64")),
        "references": {"answer": datasets.Value("int64"), "choices": datasets.List(datasets.Value("string"))},
    }
)
TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


class ShareRight(evaluate.Metric):
    """The share of items that are right, with its standard error; the kinds of items are its subclasses.

    ``compute(predictions=..., references=...)`` gives {"accuracy", "stderr", "n"}: the mean of the outcomes, a share of
    1; sqrt(p (1 - p) / (n - 1)), the error that lm-evaluation-harness prints; the number of items.
    """

    described = "The share of items that are right."
    item_features = OPTIONS

    def __init__(self, **options: Any) -> None:
        """Keep the items in memory, and the folder that the library makes in any case in the project's cache."""
        super().__init__(**{"keep_in_memory": True, "cache_dir": str(cache_directory() / "metrics"), **options})

    @staticmethod
    def right(prediction: Any, reference: Any) -> bool:
        """Whether one item is right."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.described,
            citation="",
            inputs_description=self.right.__doc__ or "",
            features=self.item_features,
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float | int]:
        return share_right([self.right(*item) for item in zip(predictions, references, strict=True)])


class ChoiceAccuracy(ShareRight):
    """Multiple choice by likelihood: the option that is likeliest as a whole (`acc` of lm-evaluation-harness)."""

    described = "The share of questions whose right option is the likeliest."

    @staticmethod
    def right(prediction: Sequence[float], reference: dict[str, Any]) -> bool:
        """prediction: log-likelihood of each option; reference: {"answer": index, "choices": their texts}."""
        return likeliest(prediction) == reference["answer"]


class NormalisedChoiceAccuracy(ShareRight):
    """Multiple choice by likelihood per character of the option (`acc_norm` of lm-evaluation-harness)."""

    described = "The share of questions whose right option is the likeliest per character of its text."

    @staticmethod
    def right(prediction: Sequence[float], reference: dict[str, Any]) -> bool:
        """prediction: log-likelihood of each option; reference: {"answer": index, "choices": their texts}."""
        return likeliest_per_character(prediction, reference["choices"]) == reference["answer"]


class FinalNumberMatch(ShareRight):
    """Worked solutions: the final number has the value that it should have, however it is written."""

    described = "The share of solutions whose final number has the right value."
    item_features = TEXTS

    @staticmethod
    def right(prediction: str | None, reference: str) -> bool:
        """prediction: the number as the model wrote it, "" or None where it wrote none; reference: the right one."""
        return same_number(prediction, reference)


class ReplyMatch(ShareRight):
    """Replies in free words: what the model wrote says what the response does."""

    described = "The share of replies that equal the response, case, white space and outer punctuation aside."
    item_features = TEXTS

    @staticmethod
    def right(prediction: str, reference: str) -> bool:
        """prediction: what the model wrote; reference: the response."""
        return same_text(prediction, reference)
