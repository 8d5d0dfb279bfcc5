"""Runs and adapters that older code made still load, resume, and give the same numbers.

They lie in tests/fixtures/contract; make.py there says what they are and how they were made.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import mosld
import mosld.adapters  # registers the mixtures with PEFT
from mosld.config.compose import load_config
from mosld.config.identity import run_directory
from tests.fixtures.contract.make import (
    CHAT,
    FINISHED,
    FOLDER,
    INTERRUPTED,
    METHODS,
    command,
    csv_tables,
    float64_logits,
    set_base_weights,
)
from tests.helpers.toy_runs import evaluation_of

pytestmark = pytest.mark.slow

# Everything is computed in float64, whose rounding (1e-16) grows with the length of sums (below 100) and the number of
# layers (4): at most 1e-13 of the largest logit, whatever the order in which a CPU adds. With SSE, AVX2 and AVX-512 it
# is 2e-15. An error in a formula is far above the bound.
LOGITS_BOUND = 1e-9
# In nats, of log-likelihoods near -14, which commands compute in float32. Its rounding of 14 is 1e-6; the sums before
# it make 3e-6 of that between SSE, AVX2 and AVX-512. No choice of a router hangs on so little: see SMALLEST_MARGIN.
SCORES_BOUND = 1e-4
# Numbers of inspect.json have 6 decimals: the last one may be rounded the other way.
INSPECT_BOUND = 2e-6


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The recorded runs in a working directory of their own."""
    for name in ("interrupted", "finished"):
        shutil.copytree(FOLDER / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_configs_have_recorded_run_directories():
    recorded = json.loads((FOLDER / "names.json").read_text())
    names = [[overrides, str(run_directory(load_config(overrides)))] for overrides, _ in recorded]
    assert names == recorded


def test_tiny_model_has_recorded_weights():
    base = dict(mosld.load_base("tiny")[0].named_parameters())
    recorded = load_file(FOLDER / "base.safetensors")
    assert base.keys() == recorded.keys()
    for name, weight in recorded.items():  # rounded to bfloat16: half of its last bit is 2 ** -9 of the value
        torch.testing.assert_close(base[name].data, weight.float(), rtol=2**-8, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_saved_adapter_gives_recorded_logits_in_plain_peft(method, tmp_path):
    saved = FOLDER / "adapters" / method
    base = mosld.load_base("tiny")[0]
    set_base_weights(base)
    model = PeftModel.from_pretrained(base, str(saved))
    model.save_pretrained(str(tmp_path))
    _same_adapter(saved, tmp_path)
    recorded = load_file(FOLDER / "logits.safetensors")[method]
    bound = LOGITS_BOUND * recorded.abs().max().item()
    torch.testing.assert_close(float64_logits(model), recorded, rtol=0, atol=bound)


def _same_adapter(before: Path, now: Path) -> None:
    """The same tensors by the same names, and the same config but for the version of PEFT."""
    tensors, tensors_now = (load_file(folder / "adapter_model.safetensors") for folder in (before, now))
    assert tensors.keys() == tensors_now.keys()
    assert all(torch.equal(tensors[name], tensors_now[name]) for name in tensors)
    config, config_now = (json.loads((folder / "adapter_config.json").read_text()) for folder in (before, now))
    ours = config["peft_type"] == "MOSLD"
    keys = config.keys() if ours else config.keys() & config_now.keys()  # PEFT's own config may change with PEFT
    for key in keys - {"peft_version"}:
        assert _comparable(config_now[key]) == _comparable(config[key]), key
    assert not ours or config.keys() == config_now.keys()


def _comparable(value):
    """PEFT writes a set of names in any order."""
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value


def test_interrupted_run_is_resumed(copies):
    run = copies / "interrupted"
    steps_before = _steps(run)
    assert json.loads((run / "results.json").read_text())["status"] == "interrupted"
    command("train", [*INTERRUPTED, f"output_dir={run}", "training.resume=auto"])
    results = json.loads((run / "results.json").read_text())
    assert results["status"] == "finished"
    assert results["steps"] == 24
    steps = _steps(run)
    assert [line["step"] for line in steps] == list(range(1, 25))
    assert steps[: len(steps_before)] == steps_before  # it went on: nothing was trained twice
    recorded = json.loads((FOLDER / "finished" / "results.json").read_text())
    assert results.keys() - {"error"} >= recorded.keys()


def _steps(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "cross_entropy" in line]


def test_finished_run_is_shown_and_not_trained_again(copies):
    before = (copies / "finished/results.json").read_bytes()
    assert command("train", [*FINISHED, "output_dir=finished"]).strip().endswith("finished")
    assert (copies / "finished/results.json").read_bytes() == before


def test_finished_run_is_evaluated_to_recorded_scores(copies, expected):
    command("eval", ["run=finished"])
    target = evaluation_of(copies / "finished", "mixture")
    for task, recorded in expected["eval"]["predictions"].items():
        records = [json.loads(line) for line in (target / "predictions" / f"{task}.jsonl").read_text().splitlines()]
        for record, before in zip(records, recorded, strict=True):
            assert record.pop("scores") == pytest.approx(before.pop("scores"), abs=SCORES_BOUND)
            assert record == before
    results = json.loads((target / "results.json").read_text())
    recorded = expected["eval"]["results"]
    assert results.keys() == recorded.keys()
    # Directories have a hash of the rows since, and a run without a record of its train rows is said to be one.
    assert results["name"].removeprefix("finished/") == target.name
    (note,) = results["data"].pop("notes")
    assert "no record of the rows" in note
    assert recorded["data"].pop("leaks") is None
    del results["name"], recorded["name"], recorded["data"]["notes"]
    for key in recorded.keys() - {"seconds", "peak_memory_bytes", "versions", "git_hash"}:
        assert results[key] == recorded[key], key


@pytest.mark.usefixtures("copies")
def test_finished_run_answers_as_recorded(expected):
    assert command("chat", ["finished", *CHAT]) == expected["chat"]


def test_finished_run_is_inspected_to_recorded_numbers(copies, expected):
    command("inspect", ["finished", "--out", "looked"])
    tree, recorded = json.loads((copies / "looked/inspect.json").read_text()), expected["inspect"]
    for prose in ("notes", "figures"):
        del tree[prose], recorded[prose]
    leaves, recorded_leaves = _leaves(tree), _leaves(recorded)
    assert leaves.keys() == recorded_leaves.keys()
    for path, leaf in recorded_leaves.items():
        wanted = pytest.approx(leaf, abs=INSPECT_BOUND, rel=0) if isinstance(leaf, float) else leaf
        assert leaves[path] == wanted, path


def _leaves(tree: object, path: str = "") -> dict[str, object]:
    """The leaves of a JSON tree by their path."""
    if not isinstance(tree, dict | list):
        return {path: tree}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {leaf: value for key, child in pairs for leaf, value in _leaves(child, f"{path}/{key}").items()}


def test_finished_run_is_reported_with_recorded_numbers(copies, expected):
    command("report", ["finished", "--output", "report", "--no-figures", "--resamples", "100"])
    assert csv_tables(copies / "report") == expected["report"]
