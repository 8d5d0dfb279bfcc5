"""One call that scores a model on a split of every task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mosld.config.schema import EvaluationConfig
from mosld.data.prompts import Encoded, PromptEncoder, Tokenizer
from mosld.data.rows import AnyRow
from mosld.data.splits import TaskData, sample
from mosld.data.tasks import Task
from mosld.distributed.processes import processes
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import Progress
from mosld.evaluation.generation import generate_answers
from mosld.evaluation.multiple_choice import score_choices
from mosld.evaluation.scores import Outcome, Score, average, by_subject, task_score


@dataclass(frozen=True)
class Evaluation:
    """Predictions and scores by task."""

    predictions: dict[str, list[Outcome]]
    scores: dict[str, Score]

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """The predictions as JSON objects, by task."""
        return {task: [prediction.as_json() for prediction in found] for task, found in self.predictions.items()}

    @property
    def average(self) -> float | None:
        """Mean accuracy over tasks; None where no task is scored."""
        return average(self.scores) if self.scores else None


class Questions:
    """The questions of a split of every task, tokenised once and scored as often as needed."""

    def __init__(self, tasks: Mapping[str, TaskData], split: str, limit: int | None, encoder: PromptEncoder) -> None:
        """Take `limit` items per task (all where None; the same ones for every run) and tokenise them.

        A task that is trained on alone has none.
        """
        self.style = encoder.style
        self.tasks: dict[str, Task] = {name: data.task for name, data in tasks.items() if data.task.scored}
        rows: dict[str, Sequence[AnyRow]] = {
            name: sample(getattr(tasks[name], split), limit, split) for name in self.tasks
        }
        self.by_task: dict[str, list[Encoded]] = {
            # What is to be generated has no options to compare.
            name: encoder.encode(found, keep=(lambda _: ()) if self.tasks[name].generated else None)
            for name, found in rows.items()
        }
        self._most_shots = max(map(len, encoder.examples.values()), default=0)

    def of_kind(self, generated: bool) -> list[Encoded]:
        """The questions whose answers are generated, or those whose answers are chosen, task after task."""
        found = [questions for name, questions in self.by_task.items() if self.tasks[name].generated == generated]
        return [question for questions in found for question in questions]

    @property
    def cut(self) -> int:
        """Questions whose passage was shortened to fit."""
        return sum(question.cut for questions in self.by_task.values() for question in questions)

    @property
    def fewer_shots(self) -> int:
        """Questions before which fewer examples stand than were asked for, as more would not fit."""
        asked = [found for name, found in self.by_task.items() if self.tasks[name].examples_split]
        return sum(question.shots < self._most_shots for questions in asked for question in questions)

    def shortened(self, split: str) -> Iterator[str]:
        """What was done to questions that are longer than their task's cutoff, in lines for a person."""
        if self.cut:
            yield f"{self.cut} {split} rows had their passage cut to the task's cutoff"
        if self.fewer_shots:
            yield f"{self.fewer_shots} {split} questions have fewer examples: more would pass the task's cutoff"


def evaluate(
    model: Any,
    questions: Questions,
    tokenizer: Tokenizer,
    config: EvaluationConfig,
    progress: Progress = iter,
    use: ExpertUse | None = None,
) -> Evaluation:
    """Score a model on questions; the tasks of a kind share batches, so that few are padded.

    To be called in all processes of a run, with the same questions; they share the work and all know the outcome.
    """
    chosen, generated = questions.of_kind(generated=False), questions.of_kind(generated=True)
    batch_tokens, answers = config.batch_tokens, dict[bool, Iterator[Outcome]]()
    if chosen:
        answers[False] = iter(score_choices(model, chosen, tokenizer.pad_token_id, batch_tokens, progress, use))
    if generated:
        answers[True] = iter(
            generate_answers(model, generated, tokenizer, config.max_new_tokens, batch_tokens, progress, use)
        )
    if use is not None:
        use.add_up(processes())
    predictions = {
        name: [next(answers[questions.tasks[name].generated]) for _ in found]
        for name, found in questions.by_task.items()
    }
    scores = {
        name: _score(questions.tasks[name], [question.row for question in found], predictions[name], questions.style)
        for name, found in questions.by_task.items()
    }
    return Evaluation(predictions, scores)


def _score(task: Task, rows: Sequence[AnyRow], outcomes: Sequence[Outcome], style: str) -> Score:
    """The numbers of one task for results.json, also by subject where the task has subjects."""

    def part(places: Sequence[int]) -> Score:
        """The numbers of some of its questions."""
        return task_score([rows[i] for i in places], [outcomes[i] for i in places], style)

    score = part(range(len(rows)))
    return {**score, **by_subject([row.id for row in rows], part)} if task.subjects else score
