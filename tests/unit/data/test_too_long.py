"""Rows longer than their task's cutoff, or than the model reads: what becomes of them, and that it is said."""

import pytest

from mosld.common.errors import UserError
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.splits import TaskData
from mosld.data.tasks import Task
from mosld.data.tokens.encoding import TrainRows, encode_train
from mosld.data.tokens.prompts import PromptEncoder
from mosld.data.tokens.too_long import messages
from mosld.evaluation.evaluate import Questions
from mosld.models.tiny import byte_tokenizer

LIMIT = 200
TASKS = {kind: Task(kind, kind, cutoff=LIMIT, kind=kind) for kind in ("choice", "solution", "reply", "text")}
SHORT: dict[str, AnyRow] = {
    "choice": Row("choice", "short", "", "Why?", ("so", "not so"), 0),
    "solution": Solution("solution", "short", "", "How many?", "#### 4", "4"),
    "reply": Reply("reply", "short", "", "Why?", "So."),
    "text": Reply("text", "short", "", "", "Once."),
}
TURN = ("Is it so? " * 6, "Yes. ")
# A row, the text that is trained on (None: dropped), and the prompt that is asked.
LONG: dict[str, tuple[AnyRow, str | None, str]] = {
    "question": (
        Row("choice", "1", "", "x" * 200, ("so", "no"), 1), None,
        f"Question: {'x' * 200}\nA. so\nB. no\nAnswer:",
    ),
    "choice": (
        Row("choice", "2", "", "Why?", ("x" * 200, "no"), 1), None,
        f"Question: Why?\nA. {'x' * 200}\nB. no\nAnswer:",
    ),
    "context of a choice": (
        Row("choice", "3", "x" * 300, "Why?", ("so", "no"), 1),
        f"{'x' * 162}\n\nQuestion: Why?\nA. so\nB. no\nAnswer: B</s>",
        f"{'x' * 162}\n\nQuestion: Why?\nA. so\nB. no\nAnswer:",
    ),
    "solution": (
        Solution("solution", "4", "", "How many?", "x" * 200 + "\n#### 4", "4"), None, "Question: How many?\nAnswer:",
    ),
    "context of a solution": (
        Solution("solution", "5", "x" * 300, "How many?", "So.\n#### 4", "4"),
        f"{'x' * 160}\n\nQuestion: How many?\nAnswer: So.\n#### 4</s>",
        f"{'x' * 171}\n\nQuestion: How many?\nAnswer:",
    ),
    # As case a12: the prompt stays, the response is truncated and has no end.
    "response": (
        Reply("reply", "6", "Minutes. ", "Why?", "x" * 300, "Be brief."),
        f"Be brief.\n\nMinutes. \n\nQuestion: Why?\nAnswer: {'x' * 155}",
        "Be brief.\n\nMinutes. \n\nQuestion: Why?\nAnswer:",
    ),
    "context of a reply": (
        Reply("reply", "7", "x" * 300, "Why?", "So."),
        f"{'x' * 172}\n\nQuestion: Why?\nAnswer: So.</s>",
        f"{'x' * 176}\n\nQuestion: Why?\nAnswer:",
    ),
    "context and response": (
        Reply("reply", "8", "x" * 300, "Why?", "y" * 300),
        f"{'x' * 126}\n\nQuestion: Why?\nAnswer: {'y' * 49}",
        f"{'x' * 176}\n\nQuestion: Why?\nAnswer:",
    ),
    "question of a reply": (Reply("reply", "9", "", "x" * 200, "So."), None, f"Question: {'x' * 200}\nAnswer:"),
    "earliest turns": (
        Reply("reply", "10", "", "Why?", "So.", "Be brief.", (TURN, TURN, TURN)),
        f"Be brief.\n\nQuestion: {TURN[0]}\nAnswer: {TURN[1]}</s>\n\nQuestion: Why?\nAnswer: So.</s>",
        f"Be brief.\n\nQuestion: {TURN[0]}\nAnswer: {TURN[1]}</s>\n\nQuestion: Why?\nAnswer:",
    ),
    "text": (Reply("text", "11", "", "", "x" * 300), "x" * 200, ""),
}  # fmt: skip


def train(*rows: AnyRow, too_long: str = "truncate", context_length: int | None = None) -> TrainRows:
    tokenizer = byte_tokenizer()
    encoder = PromptEncoder(tokenizer, "letter", TASKS, context_length=context_length)
    return encode_train(rows, encoder, tokenizer.eos_token_id, too_long)


def ask(*rows: AnyRow, too_long: str = "truncate", context_length: int | None = None) -> Questions:
    encoder = PromptEncoder(byte_tokenizer(), "letter", TASKS, context_length=context_length)
    return Questions({rows[0].task: TaskData(TASKS[rows[0].task], [], [], list(rows))}, "test", None, encoder, too_long)


@pytest.mark.parametrize("part", LONG)
def test_train_row_is_truncated_or_dropped_and_said(part):
    row, text, _ = LONG[part]
    rows = train(SHORT[row.task], row)
    kept = {example.row.id: byte_tokenizer().decode(example.tokens) for example in rows.examples}
    assert kept.get(row.id) == text
    assert kept.keys() >= {"short"}
    (message,) = messages(rows.too_long)
    assert message.startswith(f"{row.task}: 1 of 2 train rows is longer than 200 tokens (longest ")
    assert message.endswith(f"): 1 {'truncated' if text else 'dropped'} (data.too_long, data.cutoff)")


@pytest.mark.parametrize("part", LONG)
def test_test_row_is_truncated_or_scored_whole_and_said(part):
    row, _, prompt = LONG[part]
    made = ask(SHORT[row.task], row)
    question = made.by_task[row.task][1]
    if row.task != "text":
        assert byte_tokenizer().decode(question.prompt) == prompt
    outcome = "truncated" if question.cut else "scored whole"
    expected = [] if len(prompt) + len(" A") * (row.task == "choice") <= LIMIT and not question.cut else [outcome]
    assert [message.split(": ")[2] for message in messages(made.too_long)] == [
        f"1 {words} (data.too_long, data.cutoff)" for words in expected
    ]


@pytest.mark.parametrize("part", LONG)
def test_too_long_train_row_is_left_out_with_drop_and_refused_with_error(part):
    row, *_ = LONG[part]
    dropped = train(SHORT[row.task], row, too_long="drop")
    assert [example.row.id for example in dropped.examples] == ["short"]
    assert [message.split("): ")[1] for message in messages(dropped.too_long)] == [
        "1 dropped (data.too_long, data.cutoff)"
    ]
    with pytest.raises(UserError) as error:
        train(SHORT[row.task], row, too_long="error")
    (message,) = error.value.messages
    assert message.startswith(f"data.too_long=error: {row.task}: 1 of 2 train rows is longer than 200 tokens (longest ")
    assert f"the first: {row.id}." in message


@pytest.mark.parametrize("part", ["question", "choice", "context of a choice", "question of a reply"])
def test_too_long_test_row_is_left_out_with_drop_and_refused_with_error(part):
    row, *_ = LONG[part]
    made = ask(SHORT[row.task], row, too_long="drop")
    assert [question.row.id for question in made.by_task[row.task]] == ["short"]
    assert "1 of 2 test rows is longer" in next(messages(made.too_long))
    with pytest.raises(UserError, match=r"no test row is left"):
        ask(row, too_long="drop")
    with pytest.raises(UserError, match=r"data.too_long=error: .*1 of 2 test rows is longer than 200 tokens"):
        ask(SHORT[row.task], row, too_long="error")


@pytest.mark.parametrize("context_length", [150, 200, 201, 300])
@pytest.mark.parametrize("part", LONG)
def test_no_row_is_longer_than_the_model_reads(part, context_length):
    row, *_ = LONG[part]
    rows = train(SHORT[row.task], row, context_length=context_length)
    assert max(len(example.tokens) for example in rows.examples) <= context_length
    try:
        made = ask(SHORT[row.task], row, context_length=context_length)
    except UserError as error:
        (message,) = error.messages
        assert f"longer than the {context_length:,} tokens that the model reads (longest " in message
        assert "data.too_long=drop" in message
    else:
        assert max(question.length for question in made.by_task[row.task]) <= context_length


def test_the_message_names_the_model_where_it_is_the_limit():
    (message,) = messages(train(*LONG["response"][:1], context_length=150).too_long)
    assert message == (
        "reply: 1 of 1 train rows is longer than 149 tokens (longest 346): 1 truncated (data.too_long, "
        "the model reads 150)"
    )


def test_row_that_fits_exactly_is_left_alone():
    row = Reply("reply", "1", "", "Why?", "x" * (LIMIT - len("Question: Why?\nAnswer: ")))
    (example,) = train(row).examples
    assert (len(example.tokens), train(row).too_long) == (LIMIT + 1, [])
