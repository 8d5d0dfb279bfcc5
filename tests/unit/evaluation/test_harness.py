"""Own scoring against lm-evaluation-harness by its own task files: the untrained tiny base, item by item in fp32."""

import pytest

import mosld
from mosld.data.prompts import PromptEncoder
from mosld.data.rows import Row
from mosld.evaluation.multiple_choice import score_choices
from mosld.evaluation.scores import task_score

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")

from mosld.evaluation.lm_eval import evaluate as harness
from mosld.evaluation.lm_eval.tasks import KNOWN, task_manager, task_on_rows

OPTIONS = ["an apple", "a very long answer indeed", "no", "the third: of them", "H₂O at 100 °C", "no"]
STYLES = {"arc_easy": "cloze", "arc_challenge": "cloze", "openbookqa": "cloze", "commonsense_qa": "letter"}


def rows(name: str, count: int = 24) -> list[Row]:
    """Questions with 3 to 6 options, two of which may be equal; five where the task file has five letters."""
    sizes = [5] * count if name == "commonsense_qa" else [3 + i % 4 for i in range(count)]
    return [
        Row(KNOWN[name].task, f"row{i}", "", f"What, {'in truth, ' * (i % 5)}is number {i}?",
            tuple(OPTIONS[(i + k) % 6] for k in range(size)), i % 3)
        for i, size in enumerate(sizes)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def base():
    """The tiny random model in fp32, and its tokenizer."""
    return mosld.load_base("tiny", dtype="float32")


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize(("theirs_at_once", "batch_tokens"), [(1, 5000), (700, 1)])
def test_the_untrained_base_is_scored_as_the_harness_does(name, theirs_at_once, batch_tokens, base):
    model, tokenizer = base
    style, index, asked = STYLES[name], task_manager([name]), rows(name)
    verdict = harness.judge(model, tokenizer, [task_on_rows(name, index, {"test": asked})], index, theirs_at_once)
    ours = score_choices(model, PromptEncoder(tokenizer, style).encode(asked), tokenizer.pad_token_id, batch_tokens)
    for mine, theirs in zip([found.as_json() for found in ours], verdict.records[name], strict=True):
        assert mine.pop("scores") == pytest.approx(theirs.pop("scores"), abs=2e-4)
        assert {key: mine[key] for key in theirs} == theirs
    assert verdict.scores[name] == pytest.approx(task_score(asked, ours, style))


def test_a_tasks_file_is_the_harness_s_own(base):
    index = task_manager(["arc_easy"])
    task = task_on_rows("arc_easy", index, {"test": rows("arc_easy")})
    assert task.config.doc_to_text == index.task_index["arc_easy"].cfg["doc_to_text"]
    assert [metric["metric"] for metric in task.config.metric_list] == ["acc", "acc_norm"]


def test_scoring_restores_the_training_mode(base):
    model, tokenizer = base
    index = task_manager(["arc_easy"])
    harness.judge(
        model.train(), tokenizer, [task_on_rows("arc_easy", index, {"test": rows("arc_easy", 2)})], index, 500
    )
    assert model.training
    model.eval()
