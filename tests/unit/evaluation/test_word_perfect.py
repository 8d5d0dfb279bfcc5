"""A model that says word for word what it was trained on is right: in every kind of task and every prompt format."""

from types import SimpleNamespace

import pytest
import torch

from mosld.config.schema import EvaluationConfig
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.splits import TaskData
from mosld.data.tasks import Task
from mosld.data.tokens.encoding import encode_train
from mosld.data.tokens.prompts import PromptEncoder
from mosld.evaluation.evaluate import Questions, evaluate
from mosld.models.tiny import byte_tokenizer

TASKS = {kind: Task(kind, kind, cutoff=2048, kind=kind) for kind in ("choice", "solution", "reply")}
HEADINGS = "#### Step 1: half of 8\nHalf of 8 is 4.\n#### 2. Add 3\n4 + 3 = 7.\n#### 7"
ROWS: list[AnyRow] = [
    Solution("solution", "calculator", "", "How many?", "8/2 = <<8/2=4>>4 nuts.\n#### 4", "4"),
    Solution("solution", "number alone", "", "How many in all?", "#### 1,200", "1200"),
    Solution("solution", "headings", "", "Half of 8, and 3 more?", HEADINGS, "7"),
    Solution(
        "solution", "a number line before the last", "", "9 times 9?", "Guess:\n#### 80\nOne more.\n#### 81", "81"
    ),
    Reply("reply", "one line", "", "Capital of France?", "Paris."),
    Reply("reply", "lines", "Tom has a cat.", "Count.", "one\ntwo\n\nthree", "Be brief."),
    Reply("reply", "heading", "", "How?", "#### 1\nFirst.\n#### 2\nThen.\n#### 3\nLast."),
    Reply("reply", "question", "", "Write a quiz.", "Here it is.\n\nQuestion: What is 2 + 2?\nAnswer: 4\n\nGood luck!"),
    Reply("reply", "special tokens", "", "How is it marked?", "<s>old</s> and <|im_end|>, or <pad>."),
    Reply(
        "reply", "history", "", "And Bob?", "A dog.\nNo cat.", "Be brief.", (("And Tom?", "A cat."), ("Ann?", "No."))
    ),
    Reply("reply", "code", "", "Write code.", "    return 1\n\n# Done.\n"),
]
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "thoughts": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "no special tokens": (
        "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
    ),
}


@pytest.fixture
def tokenizer():
    """One of its own: its template and special tokens change."""
    return byte_tokenizer()


@pytest.fixture(params=["letter", "list", "cloze", *TEMPLATES])
def encoder(request, tokenizer):
    if request.param not in TEMPLATES:
        return PromptEncoder(tokenizer, request.param, TASKS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATES[request.param]
    return PromptEncoder(tokenizer, "chat", TASKS, all_turns=request.param != "thoughts")


@pytest.fixture
def word_perfect(tiny, tokenizer):
    """A model that continues a prompt with what follows in the row that was trained."""

    def build(trained: list[list[int]]):
        tiny.resize_token_embeddings(len(tokenizer))
        forward, seen = tiny.forward, []

        def answer(**inputs: torch.Tensor) -> SimpleNamespace:
            out = forward(**inputs)
            if inputs["input_ids"].shape[1] > 1:
                seen[:] = [
                    ids[mask.bool()].tolist()
                    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
                ]
            else:
                seen[:] = [ids + new.tolist() for ids, new in zip(seen, inputs["input_ids"], strict=True)]
            for i, ids in enumerate(seen):
                row = next((row for row in trained if row[: len(ids)] == ids and len(row) > len(ids)), None)
                token = row[len(ids)] if row else tokenizer.unk_token_id
                out.logits[i, -1] = torch.nn.functional.one_hot(torch.tensor(token), out.logits.shape[-1])
            return out

        tiny.forward = answer
        return tiny

    return build


def test_every_answer_is_right(encoder, word_perfect, tokenizer):
    tokens = [example.tokens for example in encode_train(ROWS, encoder, tokenizer.eos_token_id).examples]
    tasks = {
        kind: TaskData(TASKS[kind], [], [], [row for row in ROWS if row.task == kind]) for kind in ("solution", "reply")
    }
    questions = Questions(tasks, "test", None, encoder)
    evaluation = evaluate(word_perfect(tokens), questions, tokenizer, EvaluationConfig(max_new_tokens=200))
    wrong = [one for answers in evaluation.predictions.values() for one in answers if not one.correct]
    assert wrong == []


def test_only_the_right_option_begins_what_was_trained(encoder, tokenizer):
    rows = [Row("choice", str(i), "Tom has a cat.", f"Who is {i}?", ("Tom", "Bob", "Ann"), i) for i in range(3)]
    examples = encode_train(rows, encoder, tokenizer.eos_token_id).examples
    for row, example, question in zip(rows, examples, encoder.encode(rows), strict=True):
        asked = [question.prompt + option for option in question.options]
        assert [example.tokens[: len(one)] == one for one in asked] == [i == row.answer for i in range(3)]
