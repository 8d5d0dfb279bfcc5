"""`python -m mosld.inspect` as a user types it, on small real runs: files, messages and numbers."""

import dataclasses
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from mosld import inspect as inspect_command
from mosld import train as train_command
from mosld.common.seal import Seal
from mosld.config.compose import load_config

pytestmark = pytest.mark.slow

SHARED, FIRST, SECOND = "mosld-mixture", "lora-single_obqa", "lora-single_csqa"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_root) -> Path:
    """A MoSLD run on three tasks, and LoRA on each of two."""
    folder = tmp_path_factory.mktemp("inspected")
    for name in (SHARED, FIRST, SECOND):
        method, data = name.split("-")
        tasks = ["data.tasks=[obqa,csqa,arc_e]"] if data == "mixture" else []
        assert train_command.main([
            f"method={method}", f"data={data}", *tasks, "model=tiny", "source=local", f"source.root={toy_root}",
            "debug=fast", "data.limit=16", "training.max_steps=4", "evaluation.base=false", "logger=files",
            f"output_dir={folder / name}",
        ]) == 0  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def together(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "new" / "folder"
    assert inspect_command.main([*(str(runs / name) for name in (SHARED, FIRST, SECOND)), "--out", str(out)]) == 0
    return out


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_one_run_writes_into_the_run_and_prints_the_directory_last(runs, capsys):
    assert inspect_command.main([str(runs / SHARED)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(runs / SHARED / "inspect")
    assert "method=lora" in captured.err  # what its A could be compared with
    written = {path.name for path in (runs / SHARED / "inspect").iterdir()}
    figures = {f"{name}.{kind}" for name in ("similarity", "specialisation", "tasks", "use") for kind in ("png", "svg")}
    assert written == figures | {"inspect.json", "inspect.md"}


def test_adapter_directory_gives_the_numbers_of_its_run(runs, tmp_path):
    assert inspect_command.main([str(runs / SHARED), "--out", str(tmp_path / "run")]) == 0
    assert inspect_command.main([str(runs / SHARED / "adapter"), "--out", str(tmp_path / "adapter")]) == 0
    (of_run,), (of_adapter,) = (read(tmp_path / name / "inspect.json")["runs"] for name in ("run", "adapter"))
    assert {**of_run, "path": ""} == {**of_adapter, "path": ""}


def test_files_are_complete(together):
    names = read(together / "inspect.json")["figures"]
    figures = ("similarity", "specialisation", "subspaces_learned", "subspaces_overlap", "tasks", "use-1")
    assert sorted(names) == sorted(f"{name}.{kind}" for name in figures for kind in ("png", "svg"))
    for name in names:
        content = (together / name).read_bytes()
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
            assert content.endswith(b"IEND\xaeB`\x82")
        else:
            assert ElementTree.fromstring(content).tag.endswith("svg")
    text = (together / "inspect.md").read_text()
    for heading in ("Experts, mean over layers", "Overlap of what two A's read", "Jensen-Shannon", "By layer: cosine"):
        assert heading in text
    assert "| mosld mixture & lora single_obqa | q_proj |" in text


def test_numbers_are_those_of_the_saved_weights(runs, together):
    tree = read(together / "inspect.json")
    weights, lora = (
        {name: t.double().numpy() for name, t in load_file(runs / run / "adapter/adapter_model.safetensors").items()}
        for run in (SHARED, FIRST)
    )
    key = "model.layers.1.self_attn.v_proj"
    A, B = (weights[f"base_model.model.{key}.mosld_mixture.{side}"] for side in "AB")
    products = [B[:, i : i + 8] @ A for i in range(0, B.shape[1], 8)]
    module = tree["runs"][0]["modules"][key]
    assert module["norm"] == pytest.approx([2 * np.linalg.norm(p) for p in products], abs=1e-6)  # alpha / r is 2
    cosine = np.vdot(products[0], products[1]) / np.linalg.norm(products[0]) / np.linalg.norm(products[1])
    assert module["pairs"]["cosine"][0][1] == pytest.approx(cosine, abs=1e-6)
    pair = tree["subspaces"][0]
    assert (pair["a"], pair["b"]) == ("mosld mixture", "lora single_obqa")
    other = lora[f"base_model.model.{key}.lora_A.weight"]
    shared = np.linalg.norm(np.linalg.pinv(A) @ A @ np.linalg.pinv(other) @ other) ** 2 / 8
    assert pair["modules"][key]["overlap"] == pytest.approx(shared)
    use = read(runs / SHARED / "routing.json")["obqa"][key]["weight"]
    assert tree["runs"][0]["use"]["obqa"][key] == pytest.approx(np.array(use) / sum(use), abs=1e-6)


def test_two_loras_of_one_seed_start_with_the_same_A_and_learn_different_ones(together):
    (pair,) = [pair for pair in read(together / "inspect.json")["subspaces"] if "mosld" not in pair["a"]]
    for module in pair["modules"].values():
        assert module["start"] == pytest.approx(1)
        assert module["overlap"] > 0.9  # four steps move A little
        assert module["learned"] < 0.9
        assert module["random"] == 0.25  # 8 of 32 dimensions
    moved = [module["moved"] for run in read(together / "inspect.json")["runs"] for module in run["modules"].values()]
    assert all(0 < part < 1 for part in moved)


def test_figures_of_an_earlier_inspection_are_removed_and_other_files_stay(runs, tmp_path):
    assert inspect_command.main([str(runs / SHARED), str(runs / FIRST), "--out", str(tmp_path)]) == 0
    (tmp_path / "mine.png").write_bytes(b"")
    assert inspect_command.main([str(runs / SHARED), "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "subspaces_learned.png").exists()
    assert (tmp_path / "mine.png").exists()


def test_routing_of_an_evaluation_is_read_by_name(runs, tmp_path, capsys):
    evaluation = runs / SHARED / "eval" / "other-letter"
    evaluation.mkdir(parents=True)
    table = read(runs / SHARED / "routing.json")
    (evaluation / "routing.json").write_text(json.dumps({"mmlu": table["obqa"], "race": table["csqa"]}))
    assert inspect_command.main([str(runs / SHARED), "--evaluation", "other-letter", "--out", str(tmp_path)]) == 0
    assert list(read(tmp_path / "inspect.json")["runs"][0]["use"]) == ["mmlu", "race"]
    assert inspect_command.main([str(runs / SHARED), "--evaluation", "nope", "--out", str(tmp_path)]) == 2
    assert "there is other-letter" in capsys.readouterr().err


def test_missing_routing_json_is_noted_and_the_experts_are_compared(runs, tmp_path, capsys):
    shutil.copytree(runs / SHARED, tmp_path / "run")
    (tmp_path / "run" / "routing.json").unlink()
    assert inspect_command.main([str(tmp_path / "run")]) == 0
    assert "no routing.json" in capsys.readouterr().err
    assert {path.stem for path in (tmp_path / "run" / "inspect").glob("*.png")} == {"similarity"}


@pytest.mark.parametrize(
    ("overrides", "message", "figures"),
    [
        (["allocation.experts=1", "method.top_k=1"], "one expert a layer", set()),
        (["allocation.experts=3"], "one task", {"similarity", "use"}),
    ],
)
def test_one_expert_or_one_task_is_noted(toy_root, tmp_path, capsys, overrides, message, figures):
    run = tmp_path / "run"
    assert train_command.main([
        "method=mosl", "data=single_obqa", "model=tiny", "source=local", f"source.root={toy_root}", "debug=fast",
        "evaluation.base=false", "logger=files", f"output_dir={run}", *overrides,
    ]) == 0  # fmt: skip
    assert inspect_command.main([str(run)]) == 0
    assert message in capsys.readouterr().err
    assert {path.stem for path in (run / "inspect").glob("*.png")} == figures


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ([FIRST], ["one A and one B a layer"]),
        (["nowhere", SHARED, "elsewhere"], ["run=nowhere: no such directory", "run=elsewhere: no such directory"]),
        ([SHARED, "--evaluatoin", "x"], ["did you mean '--evaluation'?"]),
        ([], ["RUN"]),
        ([SHARED, "--out", f"{FIRST}/config.yaml"], ["choose another --out"]),
    ],
)
def test_every_mistake_is_a_message_with_exit_code_2(runs, arguments, messages, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    assert inspect_command.main(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(messages)
    assert all(message in line for message, line in zip(messages, lines, strict=True))
    assert captured.out == ""


def test_run_that_cannot_be_inspected_is_left_out_and_noted(runs, tmp_path, capsys):
    shutil.copytree(runs / FIRST, tmp_path / "whole")
    config = dataclasses.asdict(load_config(["method=prefix", "model=tiny"]))
    (tmp_path / "whole" / "config.yaml").write_text(yaml.safe_dump(config))
    Seal(tmp_path / "whole").accept(tmp_path / "whole" / "config.yaml")
    out = str(tmp_path / "out")
    assert inspect_command.main([str(runs / SHARED), str(tmp_path / "whole"), "--out", out]) == 0
    assert "(prefix): it learned keys and values" in capsys.readouterr().err
    assert len(read(tmp_path / "out" / "inspect.json")["runs"]) == 1


def test_damaged_files_are_named(runs, tmp_path, capsys):
    shutil.copytree(runs / SHARED, tmp_path / "run")
    # From a whole checkpoint the adapter would be made again.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: t for name, t in tensors.items() if not name.endswith("B")}, weights)
    assert inspect_command.main([str(tmp_path / "run")]) == 2
    assert "is damaged" in capsys.readouterr().err  # its checksum
    (weights.parent / "manifest.json").unlink()
    assert inspect_command.main([str(tmp_path / "run")]) == 2
    assert "adapter/manifest.json is missing" in capsys.readouterr().err
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "run" / "data.json").unlink()
    assert inspect_command.main([str(tmp_path / "run")]) == 2
    assert "cannot be read as an adapter" in capsys.readouterr().err
    shutil.copytree(runs / SHARED, tmp_path / "routed")
    (tmp_path / "routed" / "routing.json").write_text('{"obqa": {"m": {"share": []}}}')
    assert inspect_command.main([str(tmp_path / "routed")]) == 2
    assert "routing.json: is damaged" in capsys.readouterr().err
