"""A run directory of an older version: a key that it does not record had its default."""

from pathlib import Path

import pytest
import yaml

from mosld.common.errors import UserError
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
    assert run.differences(load_config(overrides), ROWS) == ([difference] if difference else [])
    if difference:
        with pytest.raises(UserError, match=difference):
            run.open(load_config(overrides), ROWS, print)
