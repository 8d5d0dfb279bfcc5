"""Score a model on a split of every task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

from transformers import PreTrainedTokenizerBase

from mosld.adapters.load import Model
from mosld.common.errors import UserError
from mosld.config.schema import EvaluationConfig
from mosld.data.rows import AnyRow
from mosld.data.splits import TaskData, sample
from mosld.data.tasks import Task
from mosld.data.tokens.prompts import Encoded, PromptEncoder
from mosld.data.tokens.too_long import SHOWN_ROWS, TooLong, refuse
from mosld.distributed.processes import processes
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import Progress
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
        template: the chat template in which questions are put; None: a plain form.
        tasks: the tasks that have a test, by name.
        by_task: the questions as tokens, by task.
        too_long: the rows that are longer than their task's limit.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskData],
        split: str,
        limit: int | None,
        encoder: PromptEncoder,
        too_long: str = "truncate",
    ) -> None:
        """Tokenize `limit` rows of each task, the same ones in every run; all rows where it is None.

        Args:
            limit: most rows of a task.
            too_long: what becomes of rows that are too long: truncate, drop or error.

        Raises:
            UserError: rows that are too long for the model, or for `too_long`.
        """
        self.style = encoder.style
        self.template = encoder.template
        self.tasks: dict[str, Task] = {name: data.task for name, data in tasks.items() if data.task.scored}
        rows: dict[str, Sequence[AnyRow]] = {
            name: sample(getattr(tasks[name], split), limit, split) for name in self.tasks
        }
        self.by_task: dict[str, list[Encoded]] = {
            # No options are needed where the answer is generated.
            name: encoder.encode(task_rows, keep=(lambda _: ()) if self.tasks[name].generated else None)
            for name, task_rows in rows.items()
        }
        self.too_long = [
            one for name, questions in self.by_task.items() if (one := _too_long(name, split, questions, encoder))
        ]
        if too_long == "error":
            refuse(self.too_long)
        if too_long == "drop":
            self._drop(split)
        elif unreadable := list(_unreadable(self.by_task, split, encoder)):
            raise UserError(*unreadable)

    def of_kind(self, generated: bool) -> list[Encoded]:
        """The questions whose answers are generated, or those with options, task after task."""
        return [
            question
            for name, questions in self.by_task.items()
            if self.tasks[name].generated == generated
            for question in questions
        ]

    def _drop(self, split: str) -> None:
        """Leave out the rows that are too long."""
        self.by_task = {
            name: [question for question in questions if not question.untruncated]
            for name, questions in self.by_task.items()
        }
        self.too_long = [replace(one, outcomes={"dropped": one.count}) for one in self.too_long]
        if empty := [one for one in self.too_long if not self.by_task[one.task]]:
            raise UserError(*(f"{one.message()}; no {split} row is left." for one in empty))


def _too_long(name: str, split: str, questions: Sequence[Encoded], encoder: PromptEncoder) -> TooLong | None:
    """The questions of one task that are longer than its limit."""
    longer = [question for question in questions if question.untruncated]
    if not longer:
        return None
    limit = encoder.limit(name, training=False)
    whole = sum(question.length > limit for question in longer)
    truncated = sum(question.cut and question.length <= limit for question in longer)
    outcomes = {
        "truncated": truncated, "with fewer examples": len(longer) - whole - truncated, "scored whole": whole,
    }  # fmt: skip
    return TooLong(
        name,
        split,
        rows=len(questions),
        count=len(longer),
        limit=limit,
        first=[question.row.id for question in longer[:SHOWN_ROWS]],
        longest=max(question.untruncated for question in longer),
        outcomes=outcomes,
        keys=encoder.limit_key(name),
    )


def _unreadable(by_task: Mapping[str, Sequence[Encoded]], split: str, encoder: PromptEncoder) -> Iterator[str]:
    """Messages about questions that the model cannot read even after they are truncated."""
    most = encoder.context_length
    if most is None:
        return
    for name, questions in by_task.items():
        # A generated answer needs a position of its own.
        longer = [one for one in questions if one.length + (not one.options) > most]
        if longer:
            rows = f"{len(longer):,} of {len(questions):,} {split} rows"
            longest = max(one.length for one in longer)
            ids = ", ".join(one.row.id for one in longer[:SHOWN_ROWS])
            yield (
                f"{name}: {rows} are longer than the {most:,} tokens that the model reads (longest "
                f"{longest:,}), the first: {ids}. Shorten them, or leave them out with data.too_long=drop."
            )


def evaluate(
    model: Model,
    questions: Questions,
    tokenizer: PreTrainedTokenizerBase,
    config: EvaluationConfig,
    progress: Progress = iter,
    expert_use: ExpertUse | None = None,
    trained: bool = True,
) -> Evaluation:
    """Score a model on questions; tasks of one kind share batches, which need less padding then.

    All processes of a run call this with the same questions. They share the work, and each gets the whole result.
    `trained` is False for a base model, which does not know where an answer ends.
    """
    answers: dict[bool, Iterator[Prediction]] = {}
    if choices := questions.of_kind(generated=False):
        answers[False] = iter(
            score_choices(model, choices, tokenizer.pad_token_id, config.batch_tokens, progress, expert_use)
        )
    if prompts := questions.of_kind(generated=True):
        answers[True] = iter(
            generate_answers(
                model,
                prompts,
                tokenizer,
                config.max_new_tokens,
                config.batch_tokens,
                progress,
                expert_use,
                stop_at_question=questions.template is None and not trained,
                lead=questions.template.lead if questions.template else "",
            )
        )
    predictions = {
        name: list(islice(answers[questions.tasks[name].generated], len(encoded)))
        for name, encoded in questions.by_task.items()
    }
    if expert_use is not None:
        expert_use.all_reduce(processes())
    scores = {
        name: score_task(answered, questions.style, bool(questions.tasks[name].subjects))
        for name, answered in predictions.items()
    }
    return Evaluation(predictions, scores)


def score_task(predictions: Sequence[Prediction], style: str, by_subject: bool) -> Score:
    """The score of one task, also by subject where it has subjects."""
    score = task_score(predictions, style)
    if not by_subject:
        return score
    return add_subjects(score, [one.id for one in predictions], predictions, lambda part: task_score(part, style))
