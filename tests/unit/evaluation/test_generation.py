"""Solutions by generation: where an answer ends, what counts; neither batch nor padding changes anything."""

from typing import Any

import pytest
import torch

import mosld
from mosld.config.groups import group_options
from mosld.data.prompts import PromptEncoder
from mosld.data.rows import Solution
from mosld.evaluation.generation import NumberPrediction, generate, generate_answers
from mosld.evaluation.scores import task_score

METHODS = [name for name in group_options()["method"] if not name.endswith("_authors")]


def row(number: int, final: str = "72") -> Solution:
    return Solution("gsm8k", f"row{number}", "", "How many? " * (1 + number % 4), f"#### {final}", final)


def adapted(method: str = "mosld") -> Any:
    """The method on the tiny base, every trained weight moved off its initial value."""
    options = {"domains": ["obqa", "gsm8k"]} if method == "moa" else {}
    model = mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def encode(tokenizer):
    """Rows as prompts to be answered."""
    return lambda *rows: PromptEncoder(tokenizer, "letter").encode(rows, keep=lambda _: ())


@pytest.fixture
def saying(tiny, tokenizer):
    """A model that answers the i-th row of a batch with the i-th of these texts, byte by byte, and goes on with x."""

    def make(*texts: str) -> Any:
        real, taken = tiny.forward, []

        def forward(**inputs: Any) -> Any:
            out = real(**inputs)
            if inputs["input_ids"].shape[1] > 1:
                taken.clear()
            for i, text in enumerate(texts[: len(out.logits)]):
                tokens = tokenizer(text).input_ids
                token = tokens[len(taken)] if len(taken) < len(tokens) else tokenizer("x").input_ids[0]
                out.logits[i, -1] = torch.nn.functional.one_hot(torch.tensor(token), out.logits.shape[-1]) * 9.0
            taken.append(None)
            return out

        tiny.forward = forward
        return tiny

    return make


ENDS = {
    "at the end of the text": (" It is 72.</s> More", " It is 72."),
    "with the line of the final number": ("7\n#### 72\nMore", "7\n#### 72\n"),
    "not within the number": ("#### 72.5 in all\nMore", "#### 72.5 in all\n"),
    "not with a line that gives none": ("#### So\n1</s>", "#### So\n1"),
    "where another question begins": ("It is 72.\nQuestion: How", "It is 72.\nQuestion:"),
    "not at the word alone": ("The Question: 3</s>", "The Question: 3"),
}


@pytest.mark.parametrize("place", ENDS)
def test_an_answer_ends(place: str, saying, tokenizer):
    said, answer = ENDS[place]
    (found,) = generate(saying(said), [[5, 6, 7]], tokenizer, 60)
    assert tokenizer.decode(found) == answer


def test_an_answer_ends_after_the_most_tokens_allowed(saying, tokenizer):
    assert [len(found) for found in generate(saying("a", "b"), [[5], [6]], tokenizer, 7)] == [7, 7]


def test_an_answer_that_is_done_waits_for_the_others_of_its_batch(saying, tokenizer):
    found = generate(saying("#### 1\n", "a long one\n#### 23\n"), [[5], [6, 7]], tokenizer, 60)
    assert tokenizer.batch_decode(found) == ["#### 1\n", "a long one\n#### 23\n"]


JUDGED = {
    "#### 72</s>": ("72", True),
    "#### $72.00</s>": ("$72.00", True),
    "It is 72.</s>": ("72", True),
    "It is 72.\nQuestion: 5": ("72", True),
    "#### 73</s>": ("73", False),
    "no idea</s>": (None, False),
}


@pytest.mark.parametrize("said", JUDGED)
def test_the_final_number_is_compared_by_value(said: str, saying, tokenizer, encode):
    number, correct = JUDGED[said]
    assert generate_answers(saying(said), encode(row(0)), tokenizer, 60, 999) == [
        NumberPrediction("row0", number, correct)
    ]


def test_answers_belong_to_the_questions_in_the_order_given(saying, tokenizer, encode):
    questions = encode(row(0, "10"), row(3, "13"), row(1, "11"))  # a batch has the longest first: 13, 11, 10
    found = generate_answers(saying("#### 13\n", "#### 11\n", "#### 10\n"), questions, tokenizer, 60, 999)
    assert found == [NumberPrediction(f"row{i}", f"1{i}", True) for i in (0, 3, 1)]


def test_a_prediction_holds_no_text():
    assert NumberPrediction("a", "7", True).as_json() == {"id": "a", "prediction": "7", "correct": True}


def test_the_score_of_solutions_is_the_share_of_right_numbers_in_every_prompt_format():
    rows, found = (
        [row(i) for i in range(4)],
        [NumberPrediction(f"row{i}", "72" if i < 1 else "7", i < 1) for i in range(4)],
    )
    wanted = {"accuracy": 0.25, "stderr": pytest.approx(0.25), "n": 4}
    assert [task_score(rows, found, style) for style in ("letter", "list", "cloze")] == [wanted] * 3


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_depends_on_neither_its_batch_nor_padding_in_fp32(method: str, tokenizer):
    model = adapted(method)
    prompts = [[5, 6, 7], list(range(40, 60)), [8], list(range(100, 107))]
    with torch.inference_mode():
        together = generate(model, prompts, tokenizer, 12)
        alone = [generate(model, [prompt], tokenizer, 12)[0] for prompt in prompts]
    assert together == alone


@pytest.mark.parametrize("method", ["mosld", "moa", "prefix"])
def test_answers_are_those_of_whole_forward_passes_without_a_cache(method: str, tokenizer):
    model, prompt = adapted(method), list(range(40, 50))
    ids = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(8):
            told = {}
            if method == "moa":  # the prompt alone decides
                told = {"prompt_mask": (torch.arange(ids.shape[1]) < len(prompt)).long()[None]}
            ids = torch.cat([ids, model(input_ids=ids, **told).logits[:, -1:].argmax(-1)], dim=1)
    assert generate(model, [prompt], tokenizer, 8) == [ids[0, len(prompt) :].tolist()]


def test_the_models_own_generation_config_changes_nothing(tokenizer):
    model, prompts = adapted("lora"), [[5, 6, 7], [9]]
    wanted = generate(model, prompts, tokenizer, 12)
    own = {"do_sample": True, "temperature": 9.0, "top_p": 0.5, "repetition_penalty": 3.0, "num_beams": 2}
    model.generation_config.update(**own, no_repeat_ngram_size=1)
    assert generate(model, prompts, tokenizer, 12) == wanted


def test_scoring_is_in_eval_mode_and_restores_the_mode(tokenizer, encode):
    model, questions = adapted("mosld"), encode(row(0), row(1))
    wanted = generate_answers(model, questions, tokenizer, 12, 999)
    assert generate_answers(model.train(), questions, tokenizer, 12, 999) == wanted
    assert model.training


def test_a_model_can_be_trained_after_it_was_scored(tokenizer, encode):
    model = adapted("moa").train()
    generate_answers(model, encode(row(0)), tokenizer, 4, 999)
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids, labels=ids, domain=torch.tensor([1])).loss.backward()
    assert any(p.grad is not None for p in model.parameters())
