"""Train rows of solutions and replies as tokens: where the loss is, and what exceeds the cutoff."""

import re
from pathlib import Path

import pytest

from mosld.data.reading.bad_rows import BadRows
from mosld.data.reading.sources import read_rows
from mosld.data.rows import AnyRow, Reply, Solution
from mosld.data.tasks import TASKS
from mosld.data.tokens.encoding import TrainRows, encode_train
from mosld.data.tokens.prompts import PromptEncoder, render

REAL = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"
SOLUTION = Solution("gsm8k", "1", "", "How many?", "24+48 = <<24+48=72>>72\n#### 72", "72")
REPLY = Reply("openorca", "1", "", "Say hi.", "Hi.\nBye.", "Be brief.")


def encode(tokenizer, *rows: AnyRow) -> TrainRows:
    return encode_train(rows, PromptEncoder(tokenizer, "letter"), tokenizer.eos_token_id)


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        (SOLUTION, "Question: How many?\nAnswer:", " 24+48 = 72\n#### 72</s>"),
        (REPLY, "Be brief.\n\nQuestion: Say hi.\nAnswer:", " Hi.\nBye.</s>"),
    ],
)
def test_loss_is_on_the_answer_and_the_end_only(row, prompt, answer, tokenizer):
    (example,) = encode(tokenizer, row).examples
    assert tokenizer.decode(example.tokens[: example.answer_start]) == prompt
    assert tokenizer.decode(example.tokens[example.answer_start :]) == answer


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is missing: the published rows are not part of the project")
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_published_solution_ends_in_its_number(split):
    bad = BadRows()
    rows = read_rows([REAL / f"{split}.jsonl"], TASKS["gsm8k"], split, bad)
    assert (len(rows), bad.count) == ({"train": 7473, "test": 1319}[split], 0)
    texts = [(row, render(row, "letter")[1][0]) for row in rows if isinstance(row, Solution)]
    wrong = [row.id for row, text in texts if not re.search(rf"[^#\n]\n#### {row.final}\Z", text) or "<<" in text]
    assert wrong == []
