"""Score a model on a split of every task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from mosld.config.schema import EvaluationConfig
from mosld.data.prompts import Encoded, PromptEncoder
from mosld.data.rows import AnyRow
from mosld.data.splits import TaskData, sample
from mosld.data.tasks import Task
from mosld.distributed.processes import processes
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import Model, Progress
from mosld.evaluation.generation import generate_answers
from mosld.evaluation.multiple_choice import score_choices
from mosld.evaluation.scores import Prediction, Score, add_subjects, average, task_score


@dataclass(frozen=True)
class Evaluation:
    """Predictions and scores by task."""

    predictions: dict[str, list[Prediction]]
    scores: dict[str, Score]

    def records(self) -> dict[str, list[dict[str, object]]]:
        """The predictions as JSON objects, by task."""
        return {task: [asdict(one) for one in predictions] for task, predictions in self.predictions.items()}

    @property
    def average(self) -> float | None:
        """Mean accuracy over tasks; None where no task is scored."""
        return average(self.scores)


class Questions:
    """The questions of a split of every task, tokenized once and scored as often as needed.

    Attributes:
        style: the prompt format.
        tasks: the tasks that have a test, by name.
        by_task: the questions as tokens, by task.
    """

    def __init__(self, tasks: Mapping[str, TaskData], split: str, limit: int | None, encoder: PromptEncoder) -> None:
        """Tokenize `limit` rows of each task, the same ones in every run; all rows where it is None."""
        self.style = encoder.style
        self.tasks: dict[str, Task] = {name: data.task for name, data in tasks.items() if data.task.scored}
        rows: dict[str, Sequence[AnyRow]] = {
            name: sample(getattr(tasks[name], split), limit, split) for name in self.tasks
        }
        self.by_task: dict[str, list[Encoded]] = {
            # No options are needed where the answer is generated.
            name: encoder.encode(task_rows, keep=(lambda _: ()) if self.tasks[name].generated else None)
            for name, task_rows in rows.items()
        }
        self._shots = max(map(len, encoder.examples.values()), default=0)

    def of_kind(self, generated: bool) -> list[Encoded]:
        """The questions whose answers are generated, or those with options, task after task."""
        return [
            question
            for name, questions in self.by_task.items()
            if self.tasks[name].generated == generated
            for question in questions
        ]

    def shortened(self, split: str) -> Iterator[str]:
        """Messages about questions that were shortened to fit their task's cutoff."""
        for name, questions in self.by_task.items():
            task = self.tasks[name]
            cutoff = f"{task.cutoff} tokens (data.cutoff)"
            if truncated := sum(question.cut for question in questions):
                yield f"{truncated} {split} rows of {name} had their passage truncated to {cutoff}"
            fewer = sum(question.shots < self._shots for question in questions) if task.examples_split else 0
            if fewer:
                yield (
                    f"{fewer} {split} questions of {name} have fewer than {self._shots} examples: more would exceed "
                    f"{cutoff}"
                )


def evaluate(
    model: Model,
    questions: Questions,
    tokenizer: PreTrainedTokenizerBase,
    config: EvaluationConfig,
    progress: Progress = iter,
    expert_use: ExpertUse | None = None,
) -> Evaluation:
    """Score a model on questions; tasks of one kind share batches, which need less padding then.

    All processes of a run call this with the same questions. They share the work, and each gets the whole result.
    """
    answers: dict[bool, Iterator[Prediction]] = {}
    if choices := questions.of_kind(generated=False):
        answers[False] = iter(
            score_choices(model, choices, tokenizer.pad_token_id, config.batch_tokens, progress, expert_use)
        )
    if prompts := questions.of_kind(generated=True):
        answers[True] = iter(
            generate_answers(
                model, prompts, tokenizer, config.max_new_tokens, config.batch_tokens, progress, expert_use
            )
        )
    predictions = {
        name: list(islice(answers[questions.tasks[name].generated], len(encoded)))
        for name, encoded in questions.by_task.items()
    }
    if expert_use is not None:
        expert_use.all_reduce(processes())
    scores = {name: _score(questions.tasks[name], predictions[name], questions.style) for name in predictions}
    return Evaluation(predictions, scores)


def _score(task: Task, predictions: Sequence[Prediction], style: str) -> Score:
    score = task_score(predictions, style)
    if not task.subjects:
        return score
    return add_subjects(score, [one.id for one in predictions], predictions, lambda part: task_score(part, style))
