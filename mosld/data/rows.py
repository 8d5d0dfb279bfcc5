"""The kinds of rows: a choice among options, a solution that ends in a number, and a reply in free text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Question:
    """What all rows have.

    Attributes:
        task: name of the task it belongs to.
        id: unique within its task.
        context: a passage, or "".
        question: the question or stem.
    """

    task: str
    id: str
    context: str
    question: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question."""
        return self.context, self.question


@dataclass(frozen=True, slots=True)
class Row(_Question):
    """A multiple-choice question.

    Attributes:
        choices: at least two options.
        answer: index of the right option, from 0.
    """

    choices: tuple[str, ...]
    answer: int

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question; the order of the choices does not matter."""
        return self.context, self.question, *sorted(choice.lower() for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Solution(_Question):
    """A question whose answer is worked out in free text.

    Attributes:
        answer: the worked solution, as published.
        final: the number it ends in, as text.
    """

    answer: str
    final: str


@dataclass(frozen=True, slots=True)
class Reply(_Question):
    """A question, or an instruction, and the response to it: the last turn of a conversation.

    Attributes:
        response: the answer to learn.
        system: how to answer, at the start of the prompt, or "".
        history: the turns before the question, each what the user wrote and what the assistant answered.
    """

    response: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that identify the question."""
        return self.context, *(text for turn in self.history for text in turn), self.question


AnyRow = Row | Solution | Reply
