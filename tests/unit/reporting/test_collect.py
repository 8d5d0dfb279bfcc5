"""Finding runs: at any depth, each once, and a reason for each that cannot be used."""

import json
from pathlib import Path

import pytest

from mosld.common.errors import UserError
from mosld.reporting.collect import Found, collect
from tests.helpers.result_trees import results, right, write_run

ONE = {"obqa": right("10")}


def reason(found: Found) -> str:
    ((_, why),) = found.left_out
    return why


def broken(folder: Path, text: str) -> Found:
    """What is found where one whole run lies beside one results.json with this text."""
    write_run(folder / "whole", ONE)
    (folder / "broken").mkdir()
    (folder / "broken" / "results.json").write_text(text)
    return collect([str(folder)])


def test_runs_are_found_at_any_depth(tmp_path: Path):
    for place in ("a", "b/c", "b/d/e/f"):
        write_run(tmp_path / place, ONE)
    assert [run.path.relative_to(tmp_path).as_posix() for run in collect([str(tmp_path)]).runs] == [
        "a",
        "b/c",
        "b/d/e/f",
    ]


def test_a_run_can_be_named_itself(tmp_path: Path):
    assert len(collect([str(write_run(tmp_path / "a", ONE))]).runs) == 1


def test_a_run_below_two_of_the_directories_counts_once(tmp_path: Path):
    write_run(tmp_path / "a" / "b", ONE)
    assert len(collect([str(tmp_path), str(tmp_path / "a")]).runs) == 1


def test_an_evaluation_is_found_with_what_its_run_trained_on(tmp_path: Path):
    write_run(tmp_path / "run", {"obqa": right("1"), "csqa": right("1")}, data="mixture")
    write_run(tmp_path / "run" / "eval" / "mmlu-letter", {"mmlu": right("1")}, data="mmlu")
    assert [run.trained_on for run in collect([str(tmp_path)]).runs] == [None, "mixture"]


def test_an_evaluation_named_alone_knows_it_too(tmp_path: Path):
    write_run(tmp_path / "run", {"obqa": right("1"), "csqa": right("1")}, data="mixture")
    path = write_run(tmp_path / "run" / "eval" / "mmlu-letter", {"mmlu": right("1")}, data="mmlu")
    assert [run.trained_on for run in collect([str(path)]).runs] == ["mixture"]


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path / "run", ONE)
    write_run(tmp_path / "run" / "eval" / "mmlu-letter", {"mmlu": right("1")}, data="mmlu")
    read: list[Path] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self), original(self))[1])
    collect([str(tmp_path)])
    assert [path.relative_to(tmp_path).as_posix() for path in read] == [
        "run/results.json", "run/eval/mmlu-letter/results.json",
    ]  # fmt: skip


def test_what_lies_inside_a_run_besides_is_no_run(tmp_path: Path):
    write_run(tmp_path / "run", ONE)
    write_run(tmp_path / "run" / "experts" / "obqa", ONE)
    assert len(collect([str(tmp_path)]).runs) == 1


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_a_run_that_did_not_finish_is_left_out(tmp_path: Path, status: str):
    found = broken(tmp_path, json.dumps(results(ONE, status=status)))
    assert (len(found.runs), "interrupted" in reason(found) or status in reason(found)) == (1, True)


def test_the_error_of_a_failed_run_is_told(tmp_path: Path):
    found = broken(tmp_path, json.dumps(results(ONE, status="failed", error="RuntimeError: out of luck\nmore")))
    assert reason(found) == "failed: RuntimeError: out of luck"


def test_a_run_without_results_is_left_out(tmp_path: Path):
    write_run(tmp_path / "whole", ONE)
    (tmp_path / "running").mkdir()
    for name in ("config.yaml", "data.json"):
        (tmp_path / "running" / name).write_text("{}")
    assert reason(collect([str(tmp_path)])).startswith("unfinished: there is no results.json")


@pytest.mark.parametrize("text", ["", "{", '{"method": ', "\x00\x01", "[1]", "null"])
def test_a_damaged_file_is_left_out(tmp_path: Path, text: str):
    assert reason(broken(tmp_path, text)).startswith("damaged: ")


@pytest.mark.parametrize("key", ["method", "model", "seed", "scores", "data"])
def test_a_missing_key_is_named(tmp_path: Path, key: str):
    tree = {name: value for name, value in results(ONE).items() if name != key}
    assert f"no {key}" in reason(broken(tmp_path, json.dumps(tree)))


@pytest.mark.parametrize("key", ["name", "source", "fingerprint"])
def test_a_missing_key_of_the_data_is_named(tmp_path: Path, key: str):
    tree = results(ONE)
    del tree["data"][key]
    assert reason(broken(tmp_path, json.dumps(tree))) == f"damaged: results.json has no data.{key}"


@pytest.mark.parametrize("accuracy", [None, "high", 61.2, -0.1])
def test_a_score_that_is_no_share_is_damage(tmp_path: Path, accuracy: object):
    found = broken(tmp_path, json.dumps(results(ONE, scores={"obqa": {"accuracy": accuracy, "n": 2}})))
    assert reason(found).startswith("damaged: a score")


def test_another_schema_is_left_out(tmp_path: Path):
    assert "schema version 99" in reason(broken(tmp_path, json.dumps(results(ONE, schema_version=99))))


def test_seed_0_is_a_seed(tmp_path: Path):
    write_run(tmp_path / "a", ONE, seed=0)
    assert collect([str(tmp_path)]).runs[0].seed == 0


def test_a_missing_directory_is_a_users_mistake(tmp_path: Path):
    with pytest.raises(UserError, match="no such directory"):
        collect([str(tmp_path / "nowhere")])


def test_nothing_to_report_is_a_users_mistake_with_every_reason(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{")
    with pytest.raises(UserError) as caught:
        collect([str(tmp_path)])
    assert ["no finished run" in caught.value.messages[0], "damaged" in caught.value.messages[1]] == [True, True]
