"""The kinds of rows: a choice among options, a solution that ends in a number, and a reply in free text."""

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
        """The texts that identify the question; the order of the choices does not matter."""
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
        final: the number it ends in, as text.
    """

    task: str
    id: str
    context: str
    question: str
    answer: str
    final: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question."""
        return self.context, self.question


@dataclass(frozen=True, slots=True)
class Reply:
    """A question, or an instruction, and the response to it.

    Attributes:
        task: name of the task it belongs to.
        id: unique within its task.
        context: a passage, or "".
        question: the question.
        response: the answer to learn.
        system: how to answer, at the start of the prompt, or "".
    """

    task: str
    id: str
    context: str
    question: str
    response: str
    system: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question."""
        return self.context, self.question


AnyRow = Row | Solution | Reply
