"""The kinds of rows: a choice among options, a solution that ends in a number, and a reply in free words."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A multiple-choice question.

    Attributes:
        task: name of the task it belongs to.
        id: unique within its task.
        context: a passage, or "".
        question: the question or stem.
        choices: at least two options.
        answer: index of the right option, from 0.
    """

    task: str
    id: str
    context: str
    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def texts(self) -> tuple[str, ...]:
        """What makes two rows the same item to a reader: the order of the choices does not."""
        return self.context, self.question, *sorted(choice.lower() for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Solution:
    """A question whose answer is worked out in free text.

    Attributes:
        task: name of the task it belongs to.
        id: unique within its task.
        context: a passage, or "".
        question: the question.
        answer: the worked solution, as published.
        final: the number that it ends in, as text.
    """

    task: str
    id: str
    context: str
    question: str
    answer: str
    final: str

    @property
    def texts(self) -> tuple[str, ...]:
        """What makes two rows the same item to a reader."""
        return self.context, self.question


@dataclass(frozen=True, slots=True)
class Reply:
    """A question, or an instruction, and the response to it.

    Attributes:
        task: name of the task it belongs to.
        id: unique within its task.
        context: a passage, or "".
        question: the question.
        response: the answer, as it should be given.
        system: how to answer, put before all else, or "".
    """

    task: str
    id: str
    context: str
    question: str
    response: str
    system: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What makes two rows the same item to a reader."""
        return self.context, self.question


AnyRow = Row | Solution | Reply
