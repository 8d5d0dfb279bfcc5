"""Without a network: one message in seconds, with the cause, whatever asks the hub; what is cached is still used."""

import os
import socket
import subprocess
import sys
import time

import pytest

from mosld.common import network

NOWHERE = "http://127.0.0.1:9"
# A model of one's own at a fixed commit: its shape is that of config.json on the hub.
PINNED = f"hub: owner/name\nrevision: {'0123456789' * 4}\narchitecture: null\n"


def run(folder, command: str, *arguments: str, **environment: str) -> tuple[int, list[str], float]:
    """Exit code, lines of stderr and seconds of a check of these arguments, as a user with an empty cache sees them."""
    variables = {
        **os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub"), "MOSLD_CACHE": str(folder / "cache"),
        **environment,
    }  # fmt: skip
    (folder / "pinned.yaml").write_text(PINNED)
    given = [argument.format(folder=folder) for argument in arguments]
    words = [sys.executable, "-m", f"mosld.{command}", *given, "check=true", f"output_dir={folder / 'run'}"]
    started = time.perf_counter()
    done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stderr.splitlines(), time.perf_counter() - started


@pytest.mark.parametrize(
    ("command", "arguments", "remedy"),
    [
        ("train", ["model=smollm2_135m_hub"], "model.path=DIR"),
        ("train", ["model=llama2_7b", "data=single_obqa"], "model.path=DIR"),
        ("train", ["model=tiny", "source=hub", "data=single_obqa"], "source=bundled"),
        ("train", ["model=tiny", "source=hub", "data=single_race"], "source=bundled"),
        ("plan", ["model={folder}/pinned.yaml"], "model.path=DIR"),
    ],
)
@pytest.mark.parametrize(
    ("environment", "causes"),
    [
        ({"HF_ENDPOINT": NOWHERE}, [f"{NOWHERE} does not answer", "Connection refused", "HF_HUB_OFFLINE"]),
        ({"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE=1 is set", "unset HF_HUB_OFFLINE"]),
    ],
)
@pytest.mark.slow
def test_hub_that_does_not_answer_is_one_error_with_its_cause(
    command, arguments, remedy, environment, causes, tmp_path
):
    code, lines, seconds = run(tmp_path, command, *arguments, **environment)
    assert code == 2
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert [words for words in (*causes, remedy) if words not in error] == []
    assert not any("Retrying" in line for line in lines)
    # 27 s and more where the libraries retry; this leaves room for a busy machine.
    assert seconds < 20


def test_server_that_never_answers_is_given_up(monkeypatch):
    """A connection that is taken and never answered: neither refused nor closed."""
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(network, "PROBE_SECONDS", 0.5)
    started = time.perf_counter()
    assert network._probe(f"http://127.0.0.1:{silent.getsockname()[1]}") != ""
    assert time.perf_counter() - started < 5
    silent.close()
