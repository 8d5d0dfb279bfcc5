"""The prompt formats as text, and their tokens: prompt and option as one text, BOS, and the cutoff."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mosld.data.rows import Reply, Row, Solution
from mosld.data.tasks import TASKS
from mosld.data.tokens.literal_text import LiteralText
from mosld.data.tokens.prompts import Encoded, PromptEncoder, render
from mosld.models.tiny import byte_tokenizer

STYLES = ["letter", "list", "cloze"]
PLAIN = Row("arc_e", "1", "", "Which is hot?", ("ice", "the sun", "snow"), 1)
FIVE = Row("csqa", "2", "", "Where is a bed?", ("bank", "street", "bedroom", "sea", "sky"), 2)
STEM = Row("obqa", "3", "", "The sun is", ("hot", "cold"), 0)
PASSAGE = Row("race", "4", "Tom has a cat.", "What has Tom?", ("a cat", "a dog", "a cow", "a hen"), 0)
BRACES = Row("obqa", "5", "", "What is {question} in {0}?", ("{}", "%s"), 0)
ROWS = [PLAIN, FIVE, STEM, PASSAGE, BRACES]


def solution(answer: str, final: str = "72") -> Solution:
    return Solution("gsm8k", "1", "", "What?", answer, final)


LETTERS = ["A", "B", "C", "D", "E"]
TEXTS: list[tuple[str, Row, str, list[str]]] = [
    ("letter", PLAIN, "Question: Which is hot?\nA. ice\nB. the sun\nC. snow\nAnswer:", LETTERS[:3]),
    (
        "letter",
        FIVE,
        "Question: Where is a bed?\nA. bank\nB. street\nC. bedroom\nD. sea\nE. sky\nAnswer:",
        LETTERS,
    ),
    (
        "letter",
        PASSAGE,
        "Tom has a cat.\n\nQuestion: What has Tom?\nA. a cat\nB. a dog\nC. a cow\nD. a hen\nAnswer:",
        LETTERS[:4],
    ),
    ("list", PLAIN, "Question: Which is hot?\n- ice\n- the sun\n- snow\nAnswer:", [*PLAIN.choices]),
    (
        "list",
        PASSAGE,
        "Tom has a cat.\n\nQuestion: What has Tom?\n- a cat\n- a dog\n- a cow\n- a hen\nAnswer:",
        [*PASSAGE.choices],
    ),
    ("cloze", PLAIN, "Question: Which is hot?\nAnswer:", [*PLAIN.choices]),
    ("cloze", PASSAGE, "Tom has a cat.\n\nQuestion: What has Tom?\nAnswer:", [*PASSAGE.choices]),
    ("cloze", STEM, "The sun is", ["hot", "cold"]),
    ("cloze", BRACES, "What is {question} in {0}?", ["{}", "%s"]),
]
WORKED = "24+48 = <<24+48=72>>72\n#### 72"
FREE_TEXTS: dict[str, tuple[Solution | Reply, str, str]] = {  # the same in every format
    "calculator marks": (solution(WORKED), "", " 24+48 = 72\n#### 72"),
    "no marks": (solution("24+48 = 72\n#### 72"), "", " 24+48 = 72\n#### 72"),
    "no number at the end": (solution("24+48 = 72."), "", " 24+48 = 72.\n#### 72"),
    "the number only": (solution("#### 72"), "", " #### 72"),
    "thousands": (solution("600*2 = 1,200\n#### 1,200", "1200"), "", " 600*2 = 1,200\n#### 1200"),
    "a heading like the number": (solution("#### Sum 1\n70+2\n#### 72"), "", " #### Sum 1\n70+2\n#### 72"),
    "a passage": (Solution("gsm8k", "1", "Tom has 24.", "What?", "#### 72", "72"), "Tom has 24.\n\n", " #### 72"),
    "a reply": (Reply("openorca", "1", "", "What?", "Hi.\nBye."), "", " Hi.\nBye."),
    "a system prompt": (Reply("openorca", "1", "", "What?", "Hi.", "Be brief."), "Be brief.\n\n", " Hi."),
}


def bpe(rows: list[Row], across_words: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the rows' own texts; with `across_words` its merges cross word borders."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 if across_words else 600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [
        prompt + option
        for style in STYLES
        for row in rows
        for prompt, options in [render(row, style)]
        for option in options
    ]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def with_bos() -> PreTrainedTokenizerFast:
    """The byte tokenizer, opening each text with <s> as LLaMA's does."""
    tokenizer = byte_tokenizer()
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", special_tokens=[bos]
    )
    return tokenizer


TOKENIZERS = {
    "bytes": byte_tokenizer(),
    "words": bpe(ROWS, across_words=False),
    "across words": bpe(ROWS, across_words=True),
    "bytes with BOS": with_bos(),
}
CASES = [(name, style) for name in TOKENIZERS for style in STYLES]


def encode(name: str, style: str) -> list[Encoded]:
    return PromptEncoder(TOKENIZERS[name], style).encode(ROWS)


def joint(name: str, style: str, row: Row) -> list[list[int]]:
    """Each option's whole text, tokenised as the tokenizer itself does."""
    prompt, options = render(row, style)
    return [TOKENIZERS[name](prompt + option).input_ids for option in options]


@pytest.mark.parametrize(("style", "row", "prompt", "options"), TEXTS)
def test_prompt_format_is_exactly_this_text(style, row, prompt, options):
    assert render(row, style) == (prompt, [f" {option}" for option in options])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", FREE_TEXTS)
def test_solution_or_reply_has_this_text_in_every_format(kind, style):
    row, before, answer = FREE_TEXTS[kind]
    assert render(row, style) == (f"{before}Question: What?\nAnswer:", [answer])


@pytest.mark.parametrize("style", STYLES)
def test_one_tokenizer_merges_across_the_border_of_prompt_and_option(style: str):
    alone = [TOKENIZERS["across words"](render(row, style)[0]).input_ids for row in ROWS]
    joined = [joint("across words", style, row)[0] for row in ROWS]
    assert any(whole[: len(prompt)] != prompt for prompt, whole in zip(alone, joined, strict=True))


@pytest.mark.parametrize(("name", "style"), CASES)
def test_prompt_and_option_are_the_tokens_of_the_joint_text(name: str, style: str):
    joined = [[e.prompt + option for option in e.options] for e in encode(name, style)]
    assert joined == [joint(name, style, row) for row in ROWS]


@pytest.mark.parametrize(("name", "style"), CASES)
def test_no_token_that_reaches_into_an_option_is_in_the_prompt(name: str, style: str):
    wrong = []
    for e in encode(name, style):
        prompt, options = render(e.row, style)
        for option in options:
            offsets = TOKENIZERS[name](prompt + option, return_offsets_mapping=True)["offset_mapping"]
            first = next(i for i, (_, end) in enumerate(offsets) if end > len(prompt))
            if len(e.prompt) > first:
                wrong.append((prompt, option))
    assert wrong == []


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["bytes", "words", "bytes with BOS"])
def test_whole_prompt_is_shared_without_a_merge_across_the_border(name: str, style: str):
    for e in encode(name, style):
        prompt, _ = render(e.row, style)
        assert e.prompt == TOKENIZERS[name](prompt).input_ids


@pytest.mark.parametrize("style", STYLES)
def test_prompt_begins_with_bos_once_if_the_tokenizer_adds_it(style: str):
    bos = TOKENIZERS["bytes with BOS"].bos_token_id
    assert [(e.prompt[0], (e.prompt + e.options[0]).count(bos)) for e in encode("bytes with BOS", style)] == [
        (bos, 1)
    ] * len(ROWS)


def test_tokenizer_without_bos_gets_none():
    assert PromptEncoder(TOKENIZERS["bytes"], "letter").bos == []


def test_keep_encodes_the_wanted_options_only():
    (question,) = PromptEncoder(TOKENIZERS["bytes"], "list").encode([FIVE], keep=lambda row: [row.answer])
    assert TOKENIZERS["bytes"].decode(question.prompt + question.options[0]).endswith("Answer: bedroom")
    (question,) = PromptEncoder(TOKENIZERS["bytes"], "letter").encode([solution(WORKED)], keep=lambda row: ())
    assert (TOKENIZERS["bytes"].decode(question.prompt), question.options) == ("Question: What?\nAnswer:", [])


def test_no_rows_give_no_questions():
    assert PromptEncoder(TOKENIZERS["bytes"], "letter").encode([]) == []


def test_length_counts_the_prompt_and_the_longest_option():
    (question,) = PromptEncoder(TOKENIZERS["bytes"], "cloze").encode([STEM])
    assert question.length == len("The sun is cold")


STORY = "".join(f"Sentence {i} of the story. " for i in range(60)).strip()
LONG = Row("race", "6", STORY, "What is sentence 3?", ("of the story", "none"), 0)
LONG_ONLY = Row("race", "7", "Short.", "Why? " * 200, ("so", "not so"), 0)


@pytest.fixture(params=["bytes", "words", "bytes with BOS"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    return request.param


def test_end_of_a_long_passage_is_truncated_and_no_more_than_needed(name, style):
    (cut,) = PromptEncoder(TOKENIZERS[name], style).encode([LONG])
    assert TASKS["race"].cutoff - 8 < cut.length <= TASKS["race"].cutoff
    assert (cut.cut, cut.row) == (True, LONG)
    prompt, options = render(LONG, style)
    question = prompt.removeprefix(LONG.context)
    texts = [TOKENIZERS[name].decode(cut.prompt + option) for option in cut.options]
    assert [text.endswith(question + option) for text, option in zip(texts, options, strict=True)] == [True] * 2
    text = TOKENIZERS[name].decode(cut.prompt, skip_special_tokens=True)
    assert LONG.context.startswith(text.split("\n\n")[0])


def test_row_that_fits_is_not_truncated(name: str, style: str):
    assert not PromptEncoder(TOKENIZERS[name], style).encode([PASSAGE])[0].cut


def test_long_row_without_a_passage_stays_as_it_is(style: str):
    row = Row("obqa", "8", "", "Why? " * 200, ("so", "not so"), 0)
    (question,) = PromptEncoder(TOKENIZERS["bytes"], style).encode([row])
    assert (question.cut, question.length > TASKS["obqa"].cutoff) == (False, True)


def test_passage_is_left_out_if_the_question_alone_is_too_long(style: str):
    (question,) = PromptEncoder(TOKENIZERS["bytes"], style).encode([LONG_ONLY])
    assert (question.cut, TOKENIZERS["bytes"].decode(question.prompt).startswith("Question: Why?")) == (True, True)


def test_truncation_never_leaves_half_a_character(style: str):
    for count in range(3):  # the cut falls on every byte of a three-byte character
        row = Row("race", "9", "x" * count + "\u20ac" * 300, "How much?", ("one", "two"), 0)
        (question,) = PromptEncoder(TOKENIZERS["bytes"], style).encode([row])
        assert "\ufffd" not in TOKENIZERS["bytes"].decode(question.prompt)


@pytest.mark.parametrize("task", TASKS)
def test_space_before_an_answer_belongs_to_the_answer(task: str, style: str):
    prompt, options = render(Row(task, "1", "", "What?", ("x", "y"), 0), style)
    assert (prompt[-1].isspace(), {option[0] for option in options}) == (False, {" "})


@pytest.mark.parametrize("name", TOKENIZERS)
def test_borders_between_words_are_told_from_those_within(name: str):
    tokenizer = TOKENIZERS[name]
    literal = LiteralText(tokenizer)
    whole = tokenizer.backend_tokenizer.encode
    pairs = [
        ("Answer:", " yes"), ("Answer:", " 4"), ("Answer:", "  yes"), ("Answer:", " \n"), ("It is ", "hot"),
        ("It is", "n't"), ("\n\n", "Hi"), ("12", "3"), ("a", "b"), ("é", "\u0301"), ("", "Hi"), ("x...", "... y"),
    ]  # fmt: skip
    told = [pair for pair in pairs if literal.splits_between(*pair)]
    assert all(
        whole(a + b, add_special_tokens=False).ids
        == whole(a, add_special_tokens=False).ids + whole(b, add_special_tokens=False).ids
        for a, b in told
    )
    assert (("Answer:", " yes") in told) == (name != "across words")
    assert ("a", "b") not in told


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_have_the_tokens_of_the_tokenizers_own_call(name: str):
    texts = ["Question: What?\nAnswer: </s> x", "", "\u20ac <pad>"]
    tokenizer = TOKENIZERS[name]
    assert (
        LiteralText(tokenizer).tokens(texts)
        == tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    )
