"""Lm-evaluation-harness with its own "hf" backend on an exported folder against our scores of the adapted model."""

import pytest

import mosld
from mosld.data.rows import Row
from mosld.data.tokens.prompts import PromptEncoder
from mosld.evaluation.multiple_choice import score_choices
from mosld.exporting.standalone import write_standalone
from tests.helpers.methods import BY_NAME

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")

import lm_eval

from mosld.evaluation.lm_eval.build import task_manager, task_on_rows

# As in tests/unit/evaluation/test_lm_eval.py: the sums of log-probabilities in fp32.
SUM_BOUND = 2e-4
OPTIONS = ["an apple", "a very long answer indeed", "no", "the third: of them"]
ROWS = [Row("arc_e", f"row{i}", "", f"What is number {i}?", tuple(OPTIONS), i % 4) for i in range(6)]


def scores_of_lm_eval(folder) -> list[list[float]]:
    manager = task_manager(["arc_easy"])
    task = task_on_rows("arc_easy", manager, {"test": ROWS})
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "trust_remote_code": True, "dtype": "float32"},
        tasks=[task],
        task_manager=manager,
        device="cpu",
        batch_size=3,
    )
    samples = sorted(results["samples"]["arc_easy"], key=lambda sample: sample["doc_id"])
    return [[likelihood for likelihood, _ in sample["filtered_resps"]] for sample in samples]


@pytest.mark.parametrize("method", ["mosld", "mixlora"])
def test_the_hf_backend_scores_the_folder_as_we_score_the_adapted_model(method, tmp_path):
    adapted, tokenizer = BY_NAME[method].adapted(), mosld.load_base("tiny")[1]
    write_standalone(adapted, tokenizer, tmp_path)
    ours = score_choices(adapted, PromptEncoder(tokenizer, "cloze").encode(ROWS), tokenizer.pad_token_id, 500)
    theirs = scores_of_lm_eval(tmp_path)
    with adapted.disable_adapter():
        untrained = score_choices(adapted, PromptEncoder(tokenizer, "cloze").encode(ROWS), tokenizer.pad_token_id, 500)
    for mine, other, base in zip(ours, theirs, untrained, strict=True):
        assert mine.scores == pytest.approx(other, abs=SUM_BOUND)
        assert base.scores != pytest.approx(other, abs=1)
