"""Runs that several files look at."""

from pathlib import Path

import pytest

from mosld import train as train_command
from tests.helpers.toy_runs import short_run


@pytest.fixture(scope="session")
def trained(toy_root, tmp_path_factory):
    """`trained(method)`: the directory of a finished `short_run`, trained once."""
    folder = tmp_path_factory.mktemp("trained")

    def run(method: str) -> Path:
        if not (folder / method).is_dir():
            assert train_command.main(short_run(method, toy_root, folder / method)) == 0
        return folder / method

    return run
