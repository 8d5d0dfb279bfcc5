"""Finding runs: at any depth, each once, with a reason for each that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from mosld.common import reading
from mosld.common.errors import UserError
from mosld.reporting.collect import collect
from tests.helpers.result_trees import answers, results, write_run

ONE = {"obqa": answers("10")}
MMLU = {"mmlu": answers("1")}


def reason_left_out(folder: Path, text: str) -> str:
    """The reason for a directory with this results.json, beside a finished run."""
    write_run(folder / "whole", ONE)
    (folder / "broken").mkdir()
    (folder / "broken" / "results.json").write_text(text)
    collected = collect([str(folder)])
    assert [run.path.name for run in collected.runs] == ["whole"]
    ((_, why),) = collected.left_out
    return why


def test_runs_are_found_at_any_depth_once(tmp_path: Path):
    for name in ("a", "b/c", "b/d/e/f"):
        write_run(tmp_path / name, ONE)
    write_run(tmp_path / "a" / "experts" / "obqa", ONE)  # part of a run, not a run
    runs = collect([str(tmp_path), str(tmp_path / "b")]).runs
    assert [run.path.relative_to(tmp_path).as_posix() for run in runs] == ["a", "b/c", "b/d/e/f"]
    assert len(collect([str(tmp_path / "a")]).runs) == 1


def test_links_are_followed_and_lead_to_no_run_twice(tmp_path: Path):
    for name in ("here/a", "elsewhere/b"):
        write_run(tmp_path / name, ONE)
    (tmp_path / "here" / "of_b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "here" / "of_a").symlink_to("a")
    (tmp_path / "here" / "around").symlink_to(tmp_path)
    runs = collect([str(tmp_path / "here")]).runs
    assert sorted(run.path.resolve().name for run in runs) == ["a", "b"]


def test_evaluation_knows_what_its_run_trained_on_and_each_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_run(tmp_path / "run", {"obqa": answers("1"), "csqa": answers("1")}, data="mixture")
    evaluation = write_run(tmp_path / "run" / "eval" / "mmlu-letter", MMLU, data="mmlu")
    assert [run.trained_on for run in collect([str(evaluation)]).runs] == ["mixture"]
    read: list[Path] = []
    original = reading.parse_json
    monkeypatch.setattr(reading, "parse_json", lambda text, path: (read.append(path), original(text, path))[1])
    assert [run.trained_on for run in collect([str(tmp_path)]).runs] == [None, "mixture"]
    assert [path for path in read if path.name == "results.json"] == [
        tmp_path / "run" / "results.json",
        evaluation / "results.json",
    ]
    assert len(read) == len(set(read))


def test_run_without_results_is_left_out(tmp_path: Path):
    write_run(tmp_path / "whole", ONE)
    (tmp_path / "running").mkdir()
    for name in ("config.yaml", "data.json"):
        (tmp_path / "running" / name).write_text("{}")
    ((_, why),) = collect([str(tmp_path)]).left_out
    assert why.startswith("unfinished: there is no results.json")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"status": "failed"}, "failed: its results.json says failed"),
        ({"status": "diverged"}, "diverged: its results.json says diverged"),
        ({"status": "interrupted"}, "unfinished: its results.json says interrupted"),
        ({"status": "failed", "error": "RuntimeError: no memory\nmore"}, "failed: RuntimeError: no memory"),
        ({"schema_version": 99}, "its results.json has schema version 99; this report reads 1"),
        (
            {"scores": {}, "best_by": "loss", "validation_loss": 5.8955},
            "it scored nothing: its tasks are for training only (validation loss 5.896)",
        ),
        ({"seed": "x"}, "damaged: seed: Input should be a valid integer."),
        *(
            (
                {"scores": {"obqa": {"accuracy": value, "n": 2}}},
                f"damaged: scores.obqa.accuracy: Input should be {need}.",
            )
            for value, need in (
                (None, "a valid number"),
                ("high", "a valid number"),
                (61.2, "less than or equal to 1"),
                (-0.1, "greater than or equal to 0"),
            )
        ),
        ({"tokens_per_second": "x"}, "damaged: tokens_per_second: Input should be a valid number."),
    ],
)
def test_results_that_cannot_be_used_are_left_out_with_the_reason(tmp_path: Path, changed: dict[str, Any], reason: str):
    assert reason_left_out(tmp_path, json.dumps(results(ONE, **changed))) == reason


@pytest.mark.parametrize("text", ["", "{", '{"method": ', "\x00\x01", "[1]", "null"])
def test_damaged_file_is_left_out(tmp_path: Path, text: str):
    assert reason_left_out(tmp_path, text).startswith("damaged: ")


@pytest.mark.parametrize("key", ["method", "model", "seed", "scores", "config", "data"])
def test_missing_key_is_named(tmp_path: Path, key: str):
    tree = results(ONE)
    del tree[key]
    assert f"no {key}" in reason_left_out(tmp_path, json.dumps(tree))


@pytest.mark.parametrize("key", ["name", "source", "fingerprint", "fingerprints"])
def test_missing_key_of_the_data_is_named(tmp_path: Path, key: str):
    tree = results(ONE)
    del tree["data"][key]
    assert reason_left_out(tmp_path, json.dumps(tree)) == f"damaged: results.json has no data.{key}"


def test_missing_directory_is_a_user_error(tmp_path: Path):
    with pytest.raises(UserError, match="no such directory"):
        collect([str(tmp_path / "nowhere")])


def test_no_finished_run_is_a_user_error_with_every_reason(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"no finished run(.|\n)*damaged"):
        collect([str(tmp_path)])
