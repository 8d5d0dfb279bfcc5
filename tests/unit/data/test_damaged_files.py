"""Two thousand damaged files, each of which is read, or refused with messages of one line."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import ipc, parquet

from mosld.common.errors import UserError
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import load_dataset

ROWS = [
    {"id": i, "question": f'Is "{i}" één, or 2?', "choices": ["yes", "no", "3"], "answer": "AB"[i % 2]}
    for i in range(12)
]
CHATS = [
    {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": str(i)}]}
    for i in range(12)
]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def arrow(rows: list[dict]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(rows)
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def in_parquet(rows: list[dict]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def table(separator: str) -> str:
    rows = ([str(i), f'"Is ""{i}"" a, b?"', "yes", "no", "A"] for i in range(12))
    return "\r\n".join(separator.join(row) for row in (["id", "question", "a", "b", "answer"], *rows))


# By suffix, whole files.
FILES: dict[str, list[bytes]] = {
    "jsonl": [LINES.encode(), LINES.encode("utf-16"), "\n".join(map(json.dumps, CHATS)).encode()],
    "json": [json.dumps(ROWS, indent=1).encode(), json.dumps({"data": CHATS}).encode()],
    "csv": [table(",").encode(), table(";").encode("utf-8-sig"), b"sep=;\n" + table(";").encode()],
    "tsv": [table("\t").encode(), table("\t").encode("utf-16")],
    "parquet": [in_parquet(ROWS), in_parquet(CHATS)],
    "arrow": [arrow(ROWS), arrow(CHATS)],
    "jsonl.gz": [gzip.compress(LINES.encode(), mtime=0)],
}
FRAGMENTS = [b'"', b"{", b"[", b"\n", b"\t", b"\0", b",,", b"\xff", b"1e999"]
DAMAGE: list[Callable[[bytes, random.Random], bytes]] = [
    lambda content, draw: content[: draw.randrange(len(content))],
    lambda content, draw: content[draw.randrange(len(content)) :],
    lambda content, draw: _replaced(content, draw, lambda byte: byte ^ (1 << draw.randrange(8))),
    lambda content, draw: _replaced(content, draw, lambda _: draw.randrange(256)),
    lambda content, draw: _inserted(content, draw, draw.randbytes(draw.randrange(1, 9))),
    lambda content, draw: _inserted(content, draw, draw.choice(FRAGMENTS)),
    lambda content, draw: _inserted(content, draw, content[: draw.randrange(len(content))]),
]


def _replaced(content: bytes, draw: random.Random, change: Callable[[int], int]) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(damaged))
        damaged[place] = change(damaged[place])
    return bytes(damaged)


def _inserted(content: bytes, draw: random.Random, more: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + more + content[place:]


def refusal(source: SourceConfig) -> list[str]:
    """The messages with which a file is refused; none if it is read."""
    try:
        load_dataset(DataConfig(name="local", kind="own"), source)
    except UserError as error:
        return error.messages
    return []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FILES)
def test_damaged_file_is_read_or_refused(suffix, tmp_path: Path):
    draw = random.Random(suffix)
    path = tmp_path / f"law.{suffix}"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(2000 // len(FILES)):
        path.write_bytes(draw.choice(DAMAGE)(draw.choice(FILES[suffix]), draw))
        on_bad_row = draw.choice(["error", "skip"])
        messages = refusal(SourceConfig(name="local", root=str(path), on_bad_row=on_bad_row))
        outcomes["refused" if messages else "read"] += 1
        assert len(messages) < 20
        assert all("\n" not in message and len(message) < 1500 for message in messages), messages
    # The damage is neither always seen nor never.
    assert min(outcomes.values()) > 0, outcomes
