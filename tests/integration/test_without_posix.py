"""Training, a check of the run, a sweep, and locks, in processes that lack what Windows lacks."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLock

from tests.helpers import cases

SCRIPT = Path(__file__).resolve().parents[1] / "helpers" / "without_posix.py"
DIES_WITH_LOCK = "import filelock, os, sys; lock = filelock.SoftFileLock(sys.argv[1]); lock.acquire(); os._exit(1)"


@pytest.mark.slow
def test_commands_run_where_there_is_no_fcntl_no_fork_and_no_sigusr1(tmp_path: Path):
    train = ["mosld.train", *cases.command(tmp_path, steps=2)]
    # Without fcntl a lock is a file that names its process.
    (tmp_path / "run").mkdir()
    subprocess.run([sys.executable, "-c", DIES_WITH_LOCK, str(tmp_path / "run" / ".lock")])
    assert (tmp_path / "run" / ".lock").stat().st_size
    busy = ["mosld.train", *cases.command(tmp_path, f"output_dir={tmp_path / 'busy'}")]
    sweep = [*train[:-1], "-m", "seed=1"]
    commands = [train, ["mosld.verify", str(tmp_path / "run")], busy, sweep]
    (tmp_path / "busy").mkdir()
    with SoftFileLock(tmp_path / "busy" / ".lock"):
        arguments = [word for command in commands for word in (*command, "--")]
        done = subprocess.run([sys.executable, str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["[0, 0, 2, 0]"], done.stderr
    assert f"error: {tmp_path / 'busy'}: another process works on this run" in done.stderr
