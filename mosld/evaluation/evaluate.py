"""One call that scores a model on a split of every task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mosld.data.prompts import Encoded, PromptEncoder
from mosld.data.rows import Row
from mosld.data.splits import TaskData, sample
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.metrics import average, task_score
from mosld.evaluation.multiple_choice import Prediction, Progress, predict


@dataclass(frozen=True)
class Evaluation:
    """Predictions and scores by task."""

    predictions: dict[str, list[Prediction]]
    scores: dict[str, dict[str, float | int]]

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """The predictions as JSON objects, by task."""
        return {task: [prediction.as_json() for prediction in found] for task, found in self.predictions.items()}

    @property
    def average(self) -> float:
        """Mean accuracy over tasks."""
        return average(self.scores)


class Questions:
    """The questions of a split of every task, tokenised once and scored as often as needed."""

    def __init__(self, tasks: Mapping[str, TaskData], split: str, limit: int | None, encoder: PromptEncoder) -> None:
        """Take `limit` items per task (all where None; the same ones for every run) and tokenise them."""
        self.style = encoder.style
        rows: dict[str, Sequence[Row]] = {
            name: sample(getattr(data, split), limit, split) for name, data in tasks.items()
        }
        self.by_task: dict[str, list[Encoded]] = {name: encoder.encode(found) for name, found in rows.items()}

    @property
    def cut(self) -> int:
        """Questions whose passage was shortened to fit."""
        return sum(question.cut for questions in self.by_task.values() for question in questions)


def evaluate(
    model: Any,
    questions: Questions,
    pad: int,
    batch_tokens: int,
    progress: Progress = iter,
    use: ExpertUse | None = None,
) -> Evaluation:
    """Score a model on questions; all tasks share batches, so that few are padded."""
    flat = [question for found in questions.by_task.values() for question in found]
    answers = iter(predict(model, flat, pad, batch_tokens, progress, use))
    predictions = {name: [next(answers) for _ in found] for name, found in questions.by_task.items()}
    scores = {name: task_score(found, questions.style) for name, found in predictions.items()}
    return Evaluation(predictions, scores)
