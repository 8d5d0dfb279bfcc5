"""scripts/slurm.sbatch with stand-ins for Slurm and accelerate: what is started where, signals, and queueing again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm.sbatch"
STAND_INS = {
    "srun": 'shift; echo $$ > step; SLURM_NODEID=1 exec "$@"',
    "scancel": 'echo "scancel $*" >> said; kill -USR1 "$(cat worker)"',
    "scontrol": 'echo "scontrol $*" >> said; if [ "$1" = show ]; then printf "node7\\nnode8\\n"; fi',
    # Ignores SIGUSR1 as its parent told it to; its "worker" does not, as StopSignals does not.
    "accelerate": """
        echo "$@" > started
        mkdir -p out
        if [ -e wait ]; then
            python3 -c "$WORKER"
        else
            echo '{"status": "finished"}' > out/results.json
        fi
        echo out
        exit ${CODE:-0}""",
}
WORKER = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (open("out/results.json", "w").write('{"status": "interrupted"}'), sys.exit()))
open("worker", "w").write(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm and accelerate are stand-ins."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return {
        "PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_NNODES": "2", "WORKER": WORKER,
        "SLURM_GPUS_PER_NODE": "a100:8", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "42",
    }  # fmt: skip


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = ["bash", str(SCRIPT), "data.tasks=[obqa,csqa]", "seed=1"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_launcher_gets_node_rank_and_process_count(tmp_path: Path, cluster: dict[str, str]):
    said, _ = start(cluster).communicate(timeout=60)
    started = (tmp_path / "started").read_text()
    assert "--num_machines 2 --num_processes 16 --machine_rank 1 --main_process_ip node7" in started, said
    assert started.strip().endswith("-m mosld.train data.tasks=[obqa,csqa] seed=1")
    assert "requeue" not in (tmp_path / "said").read_text()


def test_exit_code_is_that_of_the_launcher(cluster: dict[str, str]):
    process = start({**cluster, "CODE": "1"})
    process.communicate(timeout=60)
    assert process.returncode == 1


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_signal_reaches_the_processes_and_requeues_the_job(name: str, tmp_path: Path, cluster: dict[str, str]):
    (tmp_path / "wait").touch()
    process = start(cluster)
    limit = time.monotonic() + 60
    while not (tmp_path / "worker").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=60)
    assert (tmp_path / "said").read_text().splitlines()[1:] == ["scancel --signal=USR1 42", "scontrol requeue 42"]
