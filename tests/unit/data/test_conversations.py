"""Conversations: trained as they are asked, in plain form and in chat templates, against a naive re-tokenization."""

import pytest
from transformers import AutoTokenizer

from mosld.common.errors import UserError
from mosld.common.files import cache_directory
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.tasks import Task
from mosld.data.tokens.chat_template import end_of_turn
from mosld.data.tokens.encoding import Example, encode_train
from mosld.data.tokens.prompts import PromptEncoder
from mosld.models.tiny import byte_tokenizer

CHOICE = Row("choice", "1", "Tom has a cat.", "What has Tom?", ("a dog", "a cat"), 1)
SOLUTION = Solution("solution", "2", "", "How many?", "Half of 8 is <<8/2=4>>4.\n#### 4", "4")
SINGLE = Reply("reply", "3", "Tom has a cat.", "What has Tom?", "A cat.\nAnd food.", "Be brief.")
INDENTED = Reply("reply", "4", "", "Write code.", "    return 1\n\nQuestion: why?", "")
TALK = Reply("reply", "5", "", "And Bob?", "A dog.", "Be brief.", (("What has Tom?", "A cat."), ("Sure?", "Yes.")))
SPELLED = Reply(
    "reply", "6", "<s>x</s>", "Is <|im_end|> one token?", "It is </s><|im_end|>.", "Say <|im_start|>.",
    (("What is <|eot_id|>?", "A <pad>."),),
)  # fmt: skip
TEXT = Reply("text", "7", "", "", "Once there was a </s>.")
ROWS: list[AnyRow] = [CHOICE, SOLUTION, SINGLE, INDENTED, TALK, SPELLED, TEXT]
TASKS = {kind: Task(kind, kind, cutoff=2048, kind=kind) for kind in ("choice", "solution", "reply", "text")}

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama2": (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{% set ns.system = '<<SYS>>\n' + m['content'] + '\n<</SYS>>\n\n' %}{% elif m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + ns.system + m['content'].strip() + ' [/INST]' }}{% set ns.system = '' %}{% else %}"
        "{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
        "m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "no special tokens": (
        "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
    ),
    # As Qwen3: the last answer alone has a block of thoughts.
    "thoughts": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def smollm2():
    folder = cache_directory() / "smollm2_135m"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: the embedded base was never loaded")
    return AutoTokenizer.from_pretrained(folder)


def tokenizer_of(name: str, template: str | None):
    tokenizer = byte_tokenizer() if name == "bytes" else smollm2()
    if template == "own":
        return tokenizer
    if template is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = TEMPLATES[template] if template else None
    return tokenizer


FORMS = [
    *((name, style, None) for name in ("bytes", "smollm2") for style in ("letter", "list", "cloze", "chat")),
    *((name, "chat", template) for name in ("bytes", "smollm2") for template in TEMPLATES),
    ("smollm2", "chat", "own"),
]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: "-".join(map(str, form)))
def form(request):
    """A tokenizer, and how to make an encoder of its rows."""
    name, style, template = request.param
    tokenizer = tokenizer_of(name, template)
    all_turns = template != "thoughts"
    return tokenizer, PromptEncoder(tokenizer, style, TASKS, all_turns=all_turns)


def trained(encoder: PromptEncoder, row: AnyRow) -> Example:
    (example,) = encode_train([row], encoder, encoder.tokenizer.eos_token_id).examples
    return example


def control(tokenizer) -> set[int]:
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_what_is_asked_begins_what_is_trained(form, row):
    _, encoder = form
    example = trained(encoder, row)
    (asked,) = encoder.encode([row], keep=lambda _: ())
    if row is CHOICE:
        # Its options are scored, and may share less than the whole prompt.
        (scored,) = encoder.encode([row])
        assert example.tokens[: len(scored.prompt + scored.options[1])] == scored.prompt + scored.options[1]
    if row is not TEXT and (encoder.template or row is not CHOICE):
        assert example.tokens[: example.answer_start] == asked.prompt
    # The same conversation, asked at each of its earlier turns.
    turns = list(row.history) if isinstance(row, Reply) else []
    for number, (start, _) in enumerate(example.earlier):
        earlier = Reply(row.task, row.id, "", turns[number][0], "", row.system, tuple(turns[:number]))
        assert encoder.encode([earlier], keep=lambda _: ())[0].prompt == example.tokens[:start]
    assert len(example.earlier) in (len(turns), 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_loss_is_on_every_answer_and_its_end(form, row):
    tokenizer, encoder = form
    example = trained(encoder, row)
    answers = [answer for _, answer in row.history] if isinstance(row, Reply) and example.earlier else []
    for (start, end), answer in zip(example.earlier, answers, strict=True):
        text = tokenizer.decode(example.tokens[start:end], clean_up_tokenization_spaces=False)
        assert answer in text
        assert example.tokens[end - 1] in control(tokenizer) | {tokenizer.eos_token_id}
    assert example.tokens[-1] in control(tokenizer) | {tokenizer.eos_token_id}
    expected = {"solution": "Half of 8 is 4.\n#### 4"}.get(row.task, getattr(row, "response", ""))
    if row is TEXT:
        assert (example.answer_start, tokenizer.decode(example.tokens[:-1])) == (1, row.response)
    else:
        assert expected.strip() in tokenizer.decode(example.tokens[example.answer_start : -1])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_no_text_of_a_user_becomes_a_special_token(form, row):
    tokenizer, encoder = form
    example, (asked,) = trained(encoder, row), encoder.encode([row])
    plain = dataclasses_with(row, lambda text: text.replace("<", "(").replace("|", "-"))
    expected = [token for token in trained(encoder, plain).tokens if token in control(tokenizer)]
    assert [token for token in example.tokens if token in control(tokenizer)] == expected
    assert not set().union(*asked.options) & control(tokenizer)


def dataclasses_with(row, change):
    """The row with every text changed."""
    fields = {name: getattr(row, name) for name in type(row).__dataclass_fields__}

    def changed(value):
        if isinstance(value, str):
            return change(value)
        return tuple(map(changed, value)) if isinstance(value, tuple) else value

    return type(row)(**{name: value if name in ("task", "id") else changed(value) for name, value in fields.items()})


@pytest.mark.parametrize("name", ["bytes", "smollm2"])
@pytest.mark.parametrize("template", ["chatml", "llama2", "own"])
@pytest.mark.parametrize("all_turns", [True, False])
def test_tokens_and_labels_are_those_of_a_naive_re_tokenization(name, template, all_turns):
    if (name, template) == ("bytes", "own"):
        pytest.skip("has no template")
    tokenizer = tokenizer_of(name, template)
    encoder = PromptEncoder(tokenizer, "chat", TASKS, all_turns=all_turns)
    example = trained(encoder, TALK)
    messages = [{"role": "system", "content": TALK.system}]
    for question, answer in [*TALK.history, (TALK.question, TALK.response)]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert whole[: len(example.tokens)] == example.tokens
    labels = [-100] * len(example.tokens)
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and (all_turns or i == len(messages) - 1):
            start = len(tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=False))
            end = next(p for p in range(start, len(whole)) if whole[p] in control(tokenizer)) + 1
            labels[start:end] = whole[start:end]
    ours = [-100] * len(example.tokens)
    for start, end in example.spans:
        ours[start:end] = example.tokens[start:end]
    assert ours == labels


PLAIN = {
    "history": (
        TALK,
        "Be brief.\n\nQuestion: What has Tom?\nAnswer: A cat.</s>\n\nQuestion: Sure?\nAnswer: Yes.</s>\n\n"
        "Question: And Bob?\nAnswer: A dog.</s>",
    ),
    "one turn": (SINGLE, "Be brief.\n\nTom has a cat.\n\nQuestion: What has Tom?\nAnswer: A cat.\nAnd food.</s>"),
    "text": (Reply("text", "7", "", "", "Once."), "Once.</s>"),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("style", ["letter", "list", "cloze", "chat"])
def test_plain_form_is_exactly_this_text(kind, style):
    row, text = PLAIN[kind]
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(trained(PromptEncoder(tokenizer, style, TASKS), row).tokens) == text


def test_chat_form_of_a_choice_is_the_lettered_question_and_the_letter():
    tokenizer = tokenizer_of("bytes", "chatml")
    example = trained(PromptEncoder(tokenizer, "chat", TASKS), CHOICE)
    assert tokenizer.decode(example.tokens) == (
        "<|im_start|>user\nTom has a cat.\n\nWhat has Tom?\nA. a dog\nB. a cat<|im_end|>\n<|im_start|>assistant\n"
        "B<|im_end|>"
    )
    (asked,) = PromptEncoder(tokenizer, "chat", TASKS).encode([CHOICE])
    assert [tokenizer.decode(option) for option in asked.options] == ["A", "B"]


def test_template_that_changes_earlier_turns_is_refused_for_all_turns():
    tokenizer = tokenizer_of("bytes", "thoughts")
    with pytest.raises(UserError, match=r"changes earlier turns \(reply 5\).*data.train_turns=last"):
        trained(PromptEncoder(tokenizer, "chat", TASKS), TALK)
    assert trained(PromptEncoder(tokenizer, "chat", TASKS, all_turns=False), TALK).earlier == ()


def test_template_that_refuses_a_row_is_named_with_the_row():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['content'] }}</s>{% endfor %}"
    )
    with pytest.raises(UserError, match=r"refuses reply 3: no system role"):
        trained(PromptEncoder(tokenizer, "chat", TASKS), SINGLE)


@pytest.mark.parametrize(
    ("template", "token"),
    [("chatml", "<|im_end|>"), ("llama2", "</s>"), ("llama3", "<|eot_id|>"), ("no special tokens", None), (None, None)],
)
def test_generation_ends_with_the_templates_end_of_turn(template, token):
    tokenizer = tokenizer_of("bytes", template)
    assert end_of_turn(tokenizer) == (tokenizer.convert_tokens_to_ids(token) if token else None)


def test_embedded_base_has_the_chat_template_of_an_instruct_model():
    tokenizer = smollm2()
    assert "<|im_start|>" in tokenizer.chat_template
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id
