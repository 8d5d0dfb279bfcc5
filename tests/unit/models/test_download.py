"""A hub model, from a server that answers as the hub does: downloaded once with a progress bar, then offline."""

import fcntl
import hashlib
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mosld
from mosld.models.tiny import byte_tokenizer

BAR = "Fetching 2 files: 100%"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A server with one repository, owner/tiny, and the requests that it got."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, str]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(folder))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _handler(self, folder: Path) -> type[BaseHTTPRequestHandler]:
        requests = self.requests
        files = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name} for p in folder.iterdir()]
        listing = json.dumps(files).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self.wfile.write(self._answer())

            def _answer(self) -> bytes:
                requests.append((self.command, self.path))
                tree = self.path.startswith(f"/api/models/owner/tiny/tree/{COMMIT}?")
                path = folder / self.path.removeprefix(f"/owner/tiny/resolve/{COMMIT}/")
                content = listing if tree else path.read_bytes() if path.is_file() else None
                self.send_response(404 if content is None else 200)
                self.send_header("X-Repo-Commit", COMMIT)
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                else:
                    self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                    self.send_header("Content-Type", "application/json" if tree else "application/octet-stream")
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                return content or b""

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """The tiny model in two files, as a repository."""
    folder = tmp_path / "repository"
    mosld.load_base("tiny")[0].save_pretrained(folder, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    server = Hub(folder)
    yield server
    server.server.shutdown()


def check(tmp_path: Path, **environment: str) -> str:
    """The terminal output of `check=true` on that model."""
    model = ["model=smollm2_135m_hub", "model.hub=owner/tiny", f"model.revision={COMMIT}"]
    run = ["check=true", "data.limit=4", "logger=files", f"output_dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "mosld.train", *model, *run]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))  # without columns there is no bar
    network = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
    variables = {**os.environ, **network, "TERM": "xterm", **environment}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=variables) as child:
        os.close(theirs)
        output = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            output += part
    os.close(ours)
    text = output.decode()
    assert child.returncode == 0, text[-3000:]
    return text


@pytest.mark.slow
def test_a_hub_model_is_downloaded_once_with_a_progress_bar(hub, tmp_path):
    output = check(tmp_path, HF_ENDPOINT=hub.address)
    assert "check passed" in output
    weights = [path for command, path in hub.requests if command == "GET" and path.endswith(".safetensors")]
    assert len(weights) == len(set(weights)) > 1
    assert BAR in output, "no bar of bytes"
    hub.requests.clear()
    output = check(tmp_path, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert "%|" not in output
