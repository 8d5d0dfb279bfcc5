"""Whole runs by the commands a user types, on the tiny model: files of the contract, resume, eval, refusals."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from mosld import eval as eval_command
from mosld import train as train_command
from mosld.data.tokens.literal_text import LiteralText
from mosld.training.step import Stepper
from tests.helpers.toy_runs import evaluation_of

TASKS = "data.tasks=[obqa,csqa,arc_e]"


@pytest.fixture(scope="module")
def arguments(toy_root):
    return [
        "method=mosld", "data=mixture", "model=tiny", "source=local", f"source.root={toy_root}", TASKS,
        "training.epochs=1", "training.batch_size=16", "evaluation.base=true", "logger=files",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert train_command.main([*arguments, f"output_dir={run}"]) == 0
    return run


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_run_directory_holds_the_files_of_the_contract(finished):
    expected = {"config.yaml", "metrics.jsonl", "train.log", "checkpoints", "adapter", "results.json", "predictions"}
    assert expected <= {path.name for path in finished.iterdir()}
    expected = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert expected <= {path.name for path in (finished / "adapter").iterdir()}


def test_results_json_holds_the_keys_of_the_contract(finished):
    results = read(finished / "results.json")
    assert results["status"] == "finished"
    assert results["schema_version"] == 1
    assert (results["method"], results["model"], results["seed"]) == ("mosld", "tiny", 0)
    assert (results["data"]["name"], results["data"]["source"]) == ("mixture", "local")
    assert len(results["data"]["fingerprint"]) == 16
    for scores in (results["scores"], results["base_scores"]):
        assert list(scores) == ["obqa", "csqa", "arc_e"]
        assert all({"accuracy", "stderr", "n"} <= score.keys() for score in scores.values())
    assert results["average"] == pytest.approx(sum(s["accuracy"] for s in results["scores"].values()) / 3)
    assert results["parameters"]["trainable"] == 11_008
    assert {
        "seconds", "tokens_per_second", "peak_memory_bytes", "config_hash", "git_hash", "versions", "overrides",
    } <= results.keys()  # fmt: skip
    config = results["config"]
    assert config["method.rank"] == 8
    assert config["data.tasks"] == ["obqa", "csqa", "arc_e"]
    assert "logger.name" not in config
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert (config["prompt"], config["method"]["rank"]) == ("letter", 8)


def test_predictions_agree_with_the_scores_and_hold_no_text(finished):
    results = read(finished / "results.json")
    for task, score in results["scores"].items():
        lines = [json.loads(line) for line in (finished / "predictions" / f"{task}.jsonl").read_text().splitlines()]
        assert len(lines) == score["n"] == 20
        assert sum(line["correct"] for line in lines) / 20 == score["accuracy"]
        assert "colour" not in json.dumps(lines)


def test_metrics_hold_both_losses_and_the_load_of_every_module(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "cross_entropy" in line]
    keys = {"cross_entropy", "balance_loss", "learning_rate", "grad_norm", "tokens_per_second"}
    assert all(keys <= line.keys() for line in steps)
    assert [line["step"] for line in steps if "expert_load" in line] == [
        step for step in range(1, len(steps) + 1) if step % 10 == 0 or step == len(steps)
    ]
    load = steps[-1]["expert_load"]
    assert len(load) == 8  # q and v of four layers
    assert all(sum(shares) == pytest.approx(1, abs=0.01) for shares in load.values())
    (validation,) = [line for line in lines if "validation_accuracy" in line]
    assert list(validation["validation_accuracy"]) == ["obqa", "csqa", "arc_e"]
    (checkpoint,) = [line for line in lines if "checkpoint_bytes" in line]
    assert checkpoint["checkpoint_bytes"] > 4 * 11_008
    assert checkpoint["checkpoint_seconds"] > 0


def test_finished_run_is_not_trained_again_and_its_directory_is_printed(finished, arguments, capsys):
    before = (finished / "results.json").stat().st_mtime_ns
    assert train_command.main([*arguments, f"output_dir={finished}"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(finished)
    assert "finished" in captured.err
    assert (finished / "results.json").stat().st_mtime_ns == before


def test_eval_scores_equal_those_of_train(finished, capsys):
    assert eval_command.main([f"run={finished}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(evaluation_of(finished, "mixture"))
    folder = evaluation_of(finished, "mixture")
    scores = read(folder / "results.json")["scores"]
    assert scores == read(finished / "results.json")["scores"]
    for name in (f"predictions/{task}.jsonl" for task in scores):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_eval_of_an_adapter_directory_scores_the_base_too(finished, tmp_path):
    adapter = shutil.copytree(finished / "adapter", tmp_path / "copied")
    assert eval_command.main([f"run={adapter}", "evaluation.base=true"]) == 0
    results = read(evaluation_of(adapter, "mixture") / "results.json")
    assert results["base_scores"] == read(finished / "results.json")["base_scores"]


def test_eval_on_other_data_and_prompt_has_its_own_directory(finished):
    assert eval_command.main([f"run={finished}", "data=single_arc_e", "prompt=cloze", "evaluation.limit=5"]) == 0
    results = read(evaluation_of(finished, "single_arc_e", "cloze") / "results.json")
    assert results["scores"]["arc_e"]["n"] == 5


@pytest.mark.slow
def test_same_command_gives_the_same_adapter(finished, arguments, tmp_path):
    assert train_command.main([*arguments, f"output_dir={tmp_path / 'again'}"]) == 0
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (finished / weights).read_bytes()


@pytest.mark.slow
def test_interrupted_run_resumes_bit_equal(finished, arguments, tmp_path, monkeypatch):
    step, taken = Stepper.step, []

    def interrupted(self, *rest):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, *rest)

    run = [*arguments, f"output_dir={tmp_path / 'run'}", "training.checkpoint_every=2"]
    monkeypatch.setattr(Stepper, "step", interrupted)
    assert train_command.main(run) == 75
    assert read(tmp_path / "run" / "results.json")["status"] == "interrupted"
    monkeypatch.setattr(Stepper, "step", step)
    assert train_command.main(run) == 0
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (finished / weights).read_bytes()
    assert read(tmp_path / "run" / "results.json")["base_scores"] == read(finished / "results.json")["base_scores"]


def test_failed_run_writes_its_results_and_raises(arguments, tmp_path, monkeypatch):
    def fail(self, *_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Stepper, "step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train_command.main([*arguments, f"output_dir={tmp_path / 'run'}"])
    results = read(tmp_path / "run" / "results.json")
    assert (results["status"], results["error"]) == ("failed", "RuntimeError: a bug")


def test_other_config_in_the_same_directory_is_rejected_with_the_difference(finished, arguments, capsys):
    assert train_command.main([*arguments, f"output_dir={finished}", "method.rank=4"]) == 2
    assert "method.rank: was 8, is 4" in capsys.readouterr().err


@pytest.mark.slow
def test_changed_rows_are_rejected_on_resume(arguments, toy_root, tmp_path, capsys):
    root = shutil.copytree(toy_root, tmp_path / "data")
    changed = [a if not a.startswith("source.root") else f"source.root={root}" for a in arguments]
    run = [*changed, f"output_dir={tmp_path / 'run'}", "training.max_steps=1"]
    assert train_command.main(run) == 0
    lines = (root / "obqa" / "train.jsonl").read_text().splitlines()
    (root / "obqa" / "train.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    capsys.readouterr()
    assert train_command.main(run) == 2
    assert "the rows changed" in capsys.readouterr().err


@pytest.mark.slow
def test_resume_never_removes_only_what_the_run_wrote(finished, arguments, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "thesis.tex").write_text("mine")
    assert train_command.main([*arguments, f"output_dir={run}", "training.resume=never", "method.rank=4"]) == 0
    assert read(run / "results.json")["parameters"]["trainable"] < 11_008
    assert (run / "thesis.tex").read_text() == "mine"


def test_directory_of_other_files_is_rejected(arguments, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("title: my thesis")
    assert train_command.main([*arguments, f"output_dir={tmp_path}", "training.resume=never"]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "title: my thesis"


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_scores(finished, arguments, tmp_path):
    run = [*arguments, f"output_dir={tmp_path / 'run'}", "training.gradient_checkpointing=true"]
    assert train_command.main(run) == 0
    ours, theirs = (read(path / "results.json") for path in (tmp_path / "run", finished))
    assert ours["scores"] == theirs["scores"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("files", "is not empty and holds no run"),
        ("file", "cannot be written: .*: Not a directory"),
        ("file/run", "cannot be written: .*: Not a directory"),
        ("run", "holds another run.*method.rank: was 8, is 4"),
    ],
)
def test_check_refuses_a_directory_that_the_run_could_not_use(place, message, finished, arguments, tmp_path, capsys):
    (tmp_path / "files").mkdir()
    for file in ("files/config.yaml", "file"):
        (tmp_path / file).write_text("mine")
    shutil.copytree(finished, tmp_path / "run")
    assert train_command.main([*arguments, f"output_dir={tmp_path / place}", "method.rank=4", "check=true"]) == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


def test_check_runs_the_longest_batch_and_makes_no_directory(arguments, tmp_path, capsys):
    assert train_command.main([*arguments, f"output_dir={tmp_path / 'run'}", "check=true"]) == 0
    assert "check passed: the longest micro-batch (4 rows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["lora", "mosl"])
@pytest.mark.parametrize("prompt", ["list", "cloze"])
@pytest.mark.slow
def test_method_trains_and_evaluates_with_prompt(method, prompt, arguments, tmp_path):
    others = [text for text in arguments if not text.startswith("method=")]
    run = [*others, f"method={method}", f"prompt={prompt}", "training.max_steps=2", f"output_dir={tmp_path / 'r'}"]
    assert train_command.main(run) == 0
    assert eval_command.main([f"run={tmp_path / 'r'}"]) == 0
    scored = read(evaluation_of(tmp_path / "r", "mixture", prompt) / "results.json")
    assert scored["scores"] == read(tmp_path / "r" / "results.json")["scores"]


@pytest.mark.slow
def test_training_learns_sixteen_rows(toy_root, tmp_path):
    """Sixteen rows until they are known: gradients, labels, scoring and best-of-validation all have to be right."""
    root = tmp_path / "data"
    (root / "arc_e").mkdir(parents=True)
    rows = (toy_root / "arc_e" / "train.jsonl").read_text().splitlines()[:16]
    for split in ("train", "validation", "test"):
        (root / "arc_e" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    run = [
        "model=tiny", "data=single_arc_e", "source=local", f"source.root={root}", "logger=files",
        f"output_dir={tmp_path / 'run'}", "method.rank=16",
        "method.targets=all", "training.epochs=120", "training.batch_size=16", "training.micro_batch_size=16",
        "training.learning_rate=2e-2", "training.validate_every=40", "method.dropout=0.1",
    ]  # fmt: skip
    assert train_command.main(run) == 0
    assert read(tmp_path / "run" / "results.json")["average"] >= 0.9


def damage_adapter(adapter: Path, how: str) -> None:
    weights = adapter / "adapter_model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "missing":
        weights.unlink()
    elif how == "flipped bit":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 16
        weights.write_bytes(content)
    elif how == "fewer weights":
        tensors = load_file(weights)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, weights)
    else:
        config = adapter / "adapter_config.json"
        config.write_text(config.read_text().replace('"r": 8', '"r": 4'))


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("how", ["truncated", "missing", "flipped bit", "fewer weights", "other rank"])
def test_damaged_adapter_is_one_message(how, manifest, finished, tmp_path, capsys):
    if how == "flipped bit" and not manifest:
        pytest.skip("only a checksum shows a flipped bit of a weight")
    run = shutil.copytree(finished, tmp_path / "run")
    if not manifest:
        (run / "adapter" / "manifest.json").unlink()
    damage_adapter(run / "adapter", how)
    # From a whole checkpoint the adapter would be made again.
    shutil.rmtree(run / "checkpoints")
    capsys.readouterr()
    assert eval_command.main([f"run={run}"]) == 2
    said = capsys.readouterr().err
    assert str(run / "adapter") in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run: name one run"),
        (["run=nowhere"], "run=nowhere: no such directory"),
        (["run={run}", "method.rank=4"], "method.rank=4: is fixed by the run"),
        (["run={run}", "data=mmlo"], "data=mmlo: unknown option"),
        (["run={run}", "evaluation.limt=3"], "did you mean 'evaluation.limit'"),
        (["run={run}/predictions"], "no run there"),
    ],
)
def test_wrong_eval_argument_is_one_message(overrides, message, finished, capsys):
    assert eval_command.main([argument.format(run=finished) for argument in overrides]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_second_start_of_a_run_tokenises_nothing(toy_root, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path / "cache"))
    seen = []
    real = LiteralText._tokens

    def counted(self, texts, literal):
        seen.append(len(texts))
        return real(self, texts, literal)

    monkeypatch.setattr(LiteralText, "_tokens", counted)
    command = [
        "model=tiny", "data.tasks=[obqa,arc_e]", "source=local", f"source.root={toy_root}", "debug=fast",
        "logger=files", f"output_dir={tmp_path / 'run'}", "training.resume=never",
    ]  # fmt: skip
    texts, scores = [], []
    for _ in range(2):
        seen.clear()
        assert train_command.main(command) == 0
        texts.append(sum(seen))
        scores.append(read(tmp_path / "run" / "results.json")["scores"])
    assert texts[0] > 0 == texts[1]
    assert scores[0] == scores[1]
