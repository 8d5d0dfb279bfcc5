"""Options of the user's, models named directly, the commit of a hub model, and what --cfg prints."""

import re
from pathlib import Path

import pytest

from mosld import copy_config, train
from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.groups import model_config
from mosld.config.identity import run_directory
from mosld.config.sweep import plan_sweep

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "conf/method/near.yaml": "defaults: [mosld]\nrank: 3\n",
    "conf/experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /method: near\nseed: 5\n",
    "conf/sweep/mine.yaml": "# @package _global_\nhydra:\n  sweeper:\n    params:\n      method.rank: 2,5\n",
    "conf/data/ours.yaml": "tasks: [obqa]\n",
    "conf/model/small.yaml": "kind: random\nshape: {vocab_size: 260, hidden_size: 16, num_hidden_layers: 4}\n",
    "conf/config.yaml": "this: is another program's\n",
    "far/method/far.yaml": "defaults: [near]\nname: far_away\nalpha: 7\n",
    "loose/one.yaml": "defaults: [lora]\nrank: 6\n",
    "loose/all.yaml": "# @package _global_\nseed: 9\nmethod:\n  rank: 4\n",
    "conf/training/paper.yaml": "name: paper\nepochs: 1\n",
    "conf/method/broken.yaml": "rank: [3\n",
}
# command line -> keys of the config, and what the run's directory begins with
COMPOSED = {
    "method=near": ({"method.rank": 3, "method.share": "A", "method.name": "near"}, "mixture/smollm2_135m/near-r3"),
    "method=near method.rank=4": ({"method.rank": 4}, "mixture/smollm2_135m/near-r4"),
    "method=near method.name=x": ({"method.rank": 3}, "mixture/smollm2_135m/x-r3"),
    "experiment=mine": ({"method.rank": 3, "seed": 5}, "mixture/smollm2_135m/near-r3-s5"),
    "data=ours": ({"data.tasks": ["obqa"]}, "ours/smollm2_135m/mosld-r8"),
    "model=small": ({"model.shape.hidden_size": 16}, "mixture/small/mosld-r8"),
    "method=loose/one.yaml": ({"method.rank": 6, "method.kind": "lora"}, "mixture/smollm2_135m/one-r6"),
    "method=./loose/one.yaml": ({"method.rank": 6, "method.kind": "lora"}, "mixture/smollm2_135m/one-r6"),
    "method={root}/loose/one.yaml": ({"method.rank": 6}, "mixture/smollm2_135m/one-r6"),
    "experiment=loose/all.yaml": ({"seed": 9, "method.rank": 4}, "mixture/smollm2_135m/mosld-r4-s9"),
    "method=far": ({"method.rank": 3, "method.alpha": 7.0}, "mixture/smollm2_135m/far_away-r3"),
    "model=me/It-1.5 model.revision={commit}": (
        {"model.hub": "me/It-1.5", "model.revision": COMMIT, "model.architecture": None}, "mixture/me--It-1.5/mosld",
    ),
    "model=checkpoint": ({"model.path": "{root}/checkpoint", "model.name": "checkpoint"}, "mixture/checkpoint/mosld"),
    "model=./checkpoint/": ({"model.path": "{root}/checkpoint"}, "mixture/checkpoint/mosld"),
}  # fmt: skip
REFUSED = {
    "training=paper": ["training=paper", "differ", "training=conf/training/paper.yaml"],
    "method=broken": ["method/broken.yaml", "line 1"],
    "method=loose/two.yaml": ["method=loose/two.yaml", "no such file"],
    "model=./nowhere": ["model.path=nowhere", "config.json"],
    "model=loose": ["model.path=loose", "config.json"],
    "method=a/b": ["method=a/b", "unknown option"],
    "method=neer": ["did you mean 'near'", "mosld"],
}


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOSLD_CONFIG_DIR", str(tmp_path / "far"))
    (tmp_path / "conf" / "training" / "paper.yaml").rename(tmp_path / "paper.yaml")
    (tmp_path / "conf" / "method" / "broken.yaml").rename(tmp_path / "broken.yaml")
    return tmp_path


def value(tree, key):
    for part in key.split("."):
        tree = tree[part] if isinstance(tree, dict) else getattr(tree, part)
    return tree


@pytest.mark.parametrize("line", COMPOSED)
def test_own_options_and_models_compose_and_name_the_run(line: str, own_files: Path):
    keys, directory = COMPOSED[line]
    config = load_config(line.format(root=own_files, commit=COMMIT).split())
    expected = {key: entry.format(root=own_files) if isinstance(entry, str) else entry for key, entry in keys.items()}
    assert {key: value(config, key) for key in keys} == expected
    assert str(run_directory(config)).startswith(f"outputs/{directory}")


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_read_or_is_ambiguous_is_refused(line: str, own_files: Path):
    (own_files / "paper.yaml").rename(own_files / "conf" / "training" / "paper.yaml")
    (own_files / "broken.yaml").rename(own_files / "conf" / "method" / "broken.yaml")
    with pytest.raises(UserError) as caught:
        load_config(line.split())
    assert [part for part in REFUSED[line] if part not in "\n".join(caught.value.messages)] == []


def test_a_sweep_over_files_has_a_job_for_each():
    jobs = plan_sweep(["sweep=mine", "method=near,loose/one.yaml"]).jobs
    ranks = sorted((job.config.method.name, job.config.method.rank) for job in jobs)
    assert ranks == [("near", 2), ("near", 5), ("one", 2), ("one", 5)]


def test_python_takes_the_same_names(own_files: Path):
    assert model_config("small", {}).name == "small"
    assert model_config("checkpoint", {}).path == "checkpoint"
    assert model_config("me/It", {}).hub == "me/It"


def test_a_branch_becomes_the_commit_that_the_cache_has(own_files: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    repository = own_files / "hub" / "models--me--cached"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(own_files / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_config(["model=me/cached"]).model.revision == COMMIT
    with pytest.raises(UserError, match=r"me/other: cannot be fetched.*\(me/cached\)"):
        load_config(["model=me/other"])


def test_cfg_says_where_each_value_comes_from(capsys: pytest.CaptureFixture[str]):
    assert train.main(["method=near", "debug=fast", "method.alpha=3", "--cfg"]) == 0
    origins = dict(re.findall(r"^([\w.]+)=.*?\s+# (.*)$", capsys.readouterr().out, flags=re.M))
    assert origins["method.alpha"] == "command line"
    assert origins["method.rank"].endswith("conf/method/near.yaml")
    assert origins["training.max_steps"] == "conf/debug/fast.yaml"
    assert origins["training.epochs"] == "conf/training/default.yaml"
    assert origins["model.hub"] == "conf/model/tiny.yaml"  # debug=fast chooses it
    assert origins["prompt"] == "conf/config.yaml, filled in"
    assert origins["hub.private"] == "default"


def test_help_shows_what_a_chosen_option_sets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert train.main(["data=local", "method=near", "--help"]) == 0
    text = capsys.readouterr().out
    assert "  method.rank=3\n" in text.partition("method=near sets:\n")[2].partition("\n\n")[0]
    # Of training=own, which data=local chooses.
    assert re.search(r"^  training.learning_rate=0.0003 ", text, flags=re.M)


@pytest.mark.parametrize("name", ["accelerate/fsdp", "fsdp", "method/mosld"])
def test_a_packaged_config_is_copied_once(name: str, own_files: Path, capsys: pytest.CaptureFixture[str]):
    assert copy_config.main([name, "out"]) == 0
    copied = Path(capsys.readouterr().out.strip())
    assert copied == Path("out") / f"{name.rpartition('/')[2]}.yaml"
    assert copied.read_text().startswith("# ")
    assert copy_config.main([name, "out"]) == 2
    assert "exists" in capsys.readouterr().err
