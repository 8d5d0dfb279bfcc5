"""Generated answers: where one ends, what of it is compared; batches and padding change nothing."""

import copy
from types import SimpleNamespace

import pytest
import torch

from mosld.adapters.load import Model
from mosld.data.rows import AnyRow, Reply, Solution
from mosld.data.tokens.prompts import PromptEncoder
from mosld.evaluation.forward import adapter_config, by_prompt
from mosld.evaluation.generation import (
    AnswerEnds,
    Ending,
    GeneratedPrediction,
    SolutionPrediction,
    generate,
    generate_answers,
)  # fmt: skip
from mosld.models.tiny import byte_tokenizer
from tests.helpers.methods import BY_NAME, ROWS, over

PROMPTS = [[5, 6, 7], list(range(40, 60)), [8], list(range(100, 107))]


def solution(number: int, final: str = "72") -> Solution:
    return Solution("gsm8k", f"row{number}", "", "How many? " * (1 + number % 4), f"#### {final}", final)


@pytest.fixture
def encode(tokenizer):
    """Rows as prompts without options."""
    return lambda *rows: PromptEncoder(tokenizer, "letter").encode(rows, keep=lambda _: ())


@pytest.fixture
def model_answering(tiny, tokenizer):
    """A model that answers the i-th prompt of a batch with the i-th of these texts, byte by byte, and then with x.

    A list is an answer as tokens.
    """

    def build(*texts: str | list[int]) -> Model:
        forward, steps = tiny.forward, []

        def answer(**inputs: torch.Tensor) -> SimpleNamespace:
            out = forward(**inputs)
            if inputs["input_ids"].shape[1] > 1:
                steps.clear()
            for i, text in enumerate(texts[: len(out.logits)]):
                answer = tokenizer(text).input_ids if isinstance(text, str) else text
                tokens = [*answer, *tokenizer("x").input_ids * 99]
                out.logits[i, -1] = torch.nn.functional.one_hot(torch.tensor(tokens[len(steps)]), out.logits.shape[-1])
            steps.append(None)
            return out

        tiny.forward = answer
        return tiny

    return build


# What a model writes, and how much of it is generated for a trained solution and for the base model's reply.
ENDINGS = {
    "end of the text": (" It is 72.</s> More", " It is 72.", " It is 72."),
    "line of the final number": ("7\n#### 72\nMore</s>", "7\n#### 72\n", "7\n#### 72\nMore"),
    "line of a number at first": ("####  -1,234.5 \nMore</s>", "####  -1,234.5 \n", "####  -1,234.5 \nMore"),
    "heading with a number": ("#### Step 1\n#### 2. So\n9</s>", *["#### Step 1\n#### 2. So\n9"] * 2),
    "number line that a window cuts": (f"x{'y' * 24}#### 7\nMore</s>", *[f"x{'y' * 24}#### 7\nMore"] * 2),
    "deeper heading": ("##### 7\nMore</s>", "##### 7\nMore", "##### 7\nMore"),
    "another question": ("It is 72.\nQuestion: How</s>", "It is 72.\nQuestion: How", "It is 72.\nQuestion:"),
    "the word question within a line": ("The Question: 3</s>", "The Question: 3", "The Question: 3"),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_answer_ends_at(ending, model_answering, tokenizer):
    text, *answers = ENDINGS[ending]
    model = model_answering(text)
    generated = [
        generate(model, [[5, 6, 7]], tokenizer, 60, [one])[0]
        for one in (Ending(final_number=True), Ending(next_question=True))
    ]
    assert tokenizer.batch_decode(generated) == answers


def test_an_answer_ends_with_the_last_token_that_the_model_reads(model_answering, tokenizer):
    model = model_answering("a", "b")
    model.config.max_position_embeddings = 9
    assert [len(tokens) for tokens in generate(model, [[5], [6, 7, 8]], tokenizer, 60)] == [8, 6]


def test_an_answer_ends_with_the_end_of_a_turn_in_the_chat_template(model_answering):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<unk>' }}{% endfor %}"
    assert tokenizer.batch_decode(generate(model_answering("Yes<unk>No"), [[5]], tokenizer, 60)) == ["Yes"]


@pytest.mark.parametrize("text", ["With </s> and <pad>.", "<s>old</s>"])
def test_special_tokens_that_are_spelled_out_stay_in_the_text(text, model_answering, tokenizer, encode):
    spelled = tokenizer(text, split_special_tokens=True).input_ids
    model = model_answering([*spelled, tokenizer.bos_token_id, tokenizer.eos_token_id])
    expected = Reply("openorca", "1", "", "Which?", text)
    assert generate_answers(model, encode(expected), tokenizer, 60, 999) == [GeneratedPrediction("1", text, True)]


def test_an_answer_ends_after_max_new_tokens(model_answering, tokenizer):
    assert [len(tokens) for tokens in generate(model_answering("a", "b"), [[5], [6]], tokenizer, 7)] == [7, 7]


def test_a_finished_answer_does_not_end_the_others_of_its_batch(model_answering, tokenizer):
    texts = ["#### 1\n", "a long one\n#### 23\n"]
    endings = [Ending(final_number=True)] * 2
    assert tokenizer.batch_decode(generate(model_answering(*texts), [[5], [6, 7]], tokenizer, 60, endings)) == texts


def test_each_sequence_of_a_batch_has_its_own_ending(tokenizer):
    texts = ["#### 7\nmore", "#### 7\nmore", "x\nQuestion: "]
    width = max(map(len, texts))
    ids = tokenizer([text.ljust(width) for text in texts], return_tensors="pt").input_ids
    ends = AnswerEnds(tokenizer, 0, [Ending(final_number=True), Ending(), Ending(next_question=True)])
    assert ends(ids, torch.empty(0)).tolist() == [True, False, True]


ONE_LINE = Reply("openorca", "1", "", "Capital of France?", "Paris.")
TWO_LINES = Reply("openorca", "2", "", "Count.", "one\ntwo")
ANSWERS = [
    (solution(0), "#### 72</s>", "72", True),
    (solution(0), "#### $72.00</s>", "$72.00", True),
    (solution(0), "It is 72.</s>", "72", True),
    (solution(0), "It is 72.\nQuestion: 5", "72", True),
    (solution(0), "#### 73</s>", "73", False),
    (solution(0), "no idea</s>", None, False),
    (ONE_LINE, " Paris\nIt lies in France.</s>", "Paris", True),
    (ONE_LINE, " Paris\nQuestion: And of Italy?", "Paris", True),
    (ONE_LINE, " Rome</s>", "Rome", False),
    (TWO_LINES, " one\ntwo\nQuestion: next", "one\ntwo", True),
    (TWO_LINES, " one</s>", "one", False),
]


@pytest.mark.parametrize(("asked", "text", "answer", "correct"), ANSWERS)
def test_solutions_are_compared_by_number_and_replies_by_text(
    asked: AnyRow, text, answer, correct, model_answering, tokenizer, encode
):
    base = "Question:" in text
    (prediction,) = generate_answers(model_answering(text), encode(asked), tokenizer, 60, 999, stop_at_question=base)
    assert (prediction.id, prediction.prediction, prediction.correct) == (asked.id, answer, correct)


def test_predictions_are_in_the_order_of_the_questions(model_answering, tokenizer, encode):
    # The longest prompt comes first in a batch: 13, 11, 10.
    questions = encode(solution(0, "10"), solution(3, "13"), solution(1, "11"))
    model = model_answering("#### 13\n", "#### 11\n", "#### 10\n")
    assert generate_answers(model, questions, tokenizer, 60, 999) == [
        SolutionPrediction(f"row{i}", f"1{i}", correct=True, strict=True, flexible=True) for i in (0, 3, 1)
    ]


@over(ROWS)
def test_an_answer_depends_on_neither_its_batch_nor_padding_in_fp32(row, tokenizer):
    model = row.adapted()
    with torch.inference_mode():
        together = generate(model, PROMPTS, tokenizer, 12)
        alone = [generate(model, [prompt], tokenizer, 12)[0] for prompt in PROMPTS]
        error, margin = rounding(model, PROMPTS, together)
    # No token is nearly tied with another: 16 times the fp32 error of a plain pass does not reach from one to the next.
    assert margin > 16 * error
    assert together == alone


def rounding(model: Model, prompts: list[list[int]], answers: list[list[int]]) -> tuple[float, float]:
    """The largest fp32 error of a logit on this CPU, and the smallest margin of a generated token, both by fp64."""
    exact = copy.deepcopy(model).double()
    errors, margins = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer])
        options = prompt_options(model, ids, len(prompt))
        logits, exact_logits = (m(input_ids=ids, **options).logits[0, len(prompt) - 1 : -1] for m in (model, exact))
        best, second = exact_logits.topk(2).values.T
        errors.append((logits - exact_logits).abs().max().item())
        margins.append((best - second).min().item())
    return max(errors), min(margins)


def prompt_options(model: Model, ids: torch.Tensor, length: int) -> dict[str, torch.Tensor]:
    """What the forward of a mixture of domains takes besides: only the prompt chooses the expert."""
    return (
        {"prompt_mask": (torch.arange(ids.shape[1]) < length).long()[None]} if by_prompt(adapter_config(model)) else {}
    )


@pytest.mark.parametrize("method", ["mosld", "moa", "prefix"])
def test_answers_are_those_of_whole_forward_passes_without_a_cache(method, tokenizer):
    model, prompt = BY_NAME[method].adapted(), list(range(40, 50))
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        for _ in range(8):
            options = prompt_options(model, ids, len(prompt))
            ids = torch.cat([ids, model(input_ids=ids, **options).logits[:, -1:].argmax(-1)], dim=1)
        answer = ids[0, len(prompt) :].tolist()
        error, margin = rounding(model, [prompt], [answer])
    assert margin > 16 * error
    assert generate(model, [prompt], tokenizer, 8) == [answer]


def test_the_models_generation_config_does_not_change_an_answer(tokenizer):
    model, prompts = BY_NAME["lora"].adapted(), [[5, 6, 7], [9]]
    expected = generate(model, prompts, tokenizer, 12)
    options = {"do_sample": True, "temperature": 9.0, "top_p": 0.5, "repetition_penalty": 3.0, "num_beams": 2}
    model.generation_config.update(**options, no_repeat_ngram_size=1)
    assert generate(model, prompts, tokenizer, 12) == expected


def test_a_model_in_training_mode_is_scored_in_eval_mode_and_left_in_training_mode(tokenizer, encode):
    model, questions = BY_NAME["mosld"].adapted(), encode(solution(0), solution(1))
    expected = generate_answers(model, questions, tokenizer, 12, 999)
    assert generate_answers(model.train(), questions, tokenizer, 12, 999) == expected
    assert model.training


def test_a_model_can_be_trained_after_it_was_scored(tokenizer, encode):
    model = BY_NAME["moa"].adapted().train()
    generate_answers(model, encode(solution(0)), tokenizer, 4, 999)
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids, labels=ids, domain=torch.tensor([1])).loss.backward()
    assert any(p.grad is not None for p in model.parameters())
