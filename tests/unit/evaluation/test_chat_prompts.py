"""A chat puts a question as training put it: in every prompt format, with the turns before it."""

import pytest

from mosld.data.rows import AnyRow, Reply, Row
from mosld.data.tasks import Task
from mosld.data.tokens.encoding import encode_train
from mosld.data.tokens.prompts import PromptEncoder
from mosld.models.tiny import byte_tokenizer
from mosld.recipes.chat import Session
from mosld.recipes.generate import Answer, Answerer

CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
TASKS = {"mine": Task("mine", "mine", cutoff=2048, kind="reply")}
HISTORY = (("What has Tom?", "A cat."), ("And </s>?", "A <pad>."))
TYPED: list[tuple[str, str, str, tuple, AnyRow]] = [
    ("letter", "question", "Is </s> hot?", (), Reply("mine", "1", "", "Is </s> hot?", "Yes.")),
    ("letter", "question", "Is it? | yes | no", (), Row("mine", "1", "", "Is it?", ("yes", "no"), 0)),
    ("list", "question", "Is it? | yes | no", (), Row("mine", "1", "", "Is it?", ("yes", "no"), 0)),
    ("cloze", "question", "Is it? | yes | no", (), Reply("mine", "1", "", "Is it? | yes | no", "Yes.")),
    ("chat", "question", "And Bob?", HISTORY, Reply("mine", "1", "", "And Bob?", "A dog.", "", HISTORY)),
    ("letter", "chat", "And Bob?", HISTORY, Reply("mine", "1", "", "And Bob?", "A dog.", "", HISTORY)),
]  # fmt: skip


@pytest.fixture
def tokenizer():
    """One of its own: its template and special tokens change."""
    return byte_tokenizer()


@pytest.mark.parametrize("template", [CHATML, None])
@pytest.mark.parametrize(("style", "form", "typed", "history", "row"), TYPED)
def test_prompt_begins_the_trained_row(style, form, typed, history, row, template, tiny, tokenizer):
    if form == "chat" and template is None:
        pytest.skip("is refused without a template")
    tokenizer.chat_template = template
    encoder = PromptEncoder(tokenizer, "chat" if form == "chat" else style, TASKS)
    (trained,) = encode_train([row], encoder, tokenizer.eos_token_id).examples
    prompt = Answerer(tiny, tokenizer, style, form).encode(typed, history).prompt
    assert trained.tokens[: len(prompt)] == prompt
    assert len(prompt) == trained.answer_start


def test_earliest_turns_that_do_not_fit_are_left_out(tiny, tokenizer):
    tiny.config.max_position_embeddings = 80
    question = Answerer(tiny, tokenizer, "chat").encode("And Bob?", (("x" * 60, "y"), ("Tom?", "A cat.")))
    assert question.cut
    assert tokenizer.decode(question.prompt) == "Question: Tom?\nAnswer: A cat.</s>\n\nQuestion: And Bob?\nAnswer:"


class Echo:
    """An answerer that says how many turns it read."""

    form, style, converses = "question", "chat", True
    model, tokenizer = None, None

    def answer(self, text, controls, history):
        return Answer([], [], f"{text} after {len(history)}")


@pytest.mark.parametrize("new", ["/reset", "/new"])
@pytest.mark.parametrize(("interactive", "turns"), [(True, [0, 1, 2, 0]), (False, [0, 0, 0, 0])])
def test_turns_at_a_terminal_form_a_conversation_until_a_new_one(interactive, turns, new):
    session = Session(Echo(), "lora", show_experts=False, interactive=interactive)
    answers = []
    for line in ("a", "b", "c", new, "d"):
        session.answer_all([line])
        answers.append(session.last.text)
    assert [text.rpartition(" ")[2] for text in answers[:3] + answers[4:]] == list(map(str, turns))
