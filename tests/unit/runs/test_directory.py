"""A run directory of an older version: a key that it does not record had its default."""

import os
from pathlib import Path

import pytest
import yaml

from mosld.common.errors import UserError
from mosld.common.files import damage, write_folder
from mosld.config.compose import load_config
from mosld.runs.directory import RunDirectory

ROWS = {"fingerprint": "0"}


@pytest.mark.parametrize(
    ("recorded", "overrides", "difference"),
    [
        (None, [], None),
        (None, ["training.schedule=cosine"], "training.schedule: was linear, is cosine"),
        (None, ["training.patience=2"], "training.patience: was None, is 2"),
        ("cosine", [], "training.schedule: was cosine, is linear"),
        ("cosine", ["training.schedule=cosine"], None),
    ],
)
def test_key_that_a_run_does_not_record_had_its_default(
    recorded: str | None, overrides: list[str], difference: str | None, tmp_path: Path
):
    run = RunDirectory(tmp_path)
    run.open(load_config([]), ROWS, print)
    tree = yaml.safe_load(run.config.read_text())
    for key in ("optimizer", "schedule", "patience"):
        del tree["training"][key]
    if recorded:
        tree["training"]["schedule"] = recorded
    run.config.write_text(yaml.safe_dump(tree))
    run.seal.accept(run.config)
    assert run.differences(load_config(overrides), ROWS) == ([difference] if difference else [])
    if difference:
        with pytest.raises(UserError, match=difference):
            run.open(load_config(overrides), ROWS, print)


@pytest.mark.parametrize("name", ["checkpoints", "adapter", "results.json"])
def test_starting_anew_refuses_links_before_anything_is_deleted(name: str, tmp_path: Path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.open(load_config([]), ROWS, print)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    (run.path / name).symlink_to(elsewhere)
    (run.path / "metrics.jsonl").write_text("kept")
    with pytest.raises(UserError, match=f"{name} is a link, and training.resume=never"):
        run.open(load_config(["training.resume=never"]), ROWS, print)
    assert elsewhere.read_text() == (run.path / "metrics.jsonl").read_text() == "kept"
    assert run.config.is_file()


def test_linked_folder_is_replaced_where_it_lies_and_readable_by_umask(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "adapter"
    link.symlink_to(tmp_path / "elsewhere")

    def write(folder: Path) -> None:
        (folder / "weights").touch(0o600)

    before = os.umask(0o027)
    try:
        write_folder(link, write)
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "weights").stat().st_mode & 0o777 == 0o640
    assert list(damage(link)) == []


@pytest.mark.parametrize(
    "content", ["[]", "5", "null", "{", '{"status": "finished"}', '{"status": "finished", "scores": 1}']
)
def test_damaged_results_are_no_finished_run(content: str, tmp_path: Path):
    run = RunDirectory(tmp_path)
    run.results.write_text(content)
    assert run.finished() is None
