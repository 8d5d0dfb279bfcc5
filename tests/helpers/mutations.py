"""Random damage to text files: bytes, and values of JSON or YAML in the wrong place."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

NAME = "\x1b]0;x\x07\u202e[/bold]$|*`<b>=1+1"
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 10**400, 1e308, float("nan"), float("inf"), "", "x", "0", "\x00", "\x1b[31m", "\ud800",
    NAME, "../../x", "/", [], [None], {}, {"": None}, {NAME: 1}, [[[]]], [1, "a", None], "(a+)+$", "*", "é" * 100,
)  # fmt: skip
TOKENS = (
    b"\xff", b"\x80", b"\x00", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"-1e999", b"null", b"NaN", b"\x1b[2J", b"\n",
    b": ", b"- ", b"&a [*a, *a]", b"*a", b"!!python/object:os.system x", b"!!bool x", b"${oc.env:PATH}", b"${a}", b"\t",
    b'"', b"{", b"}", b"]", b"\xef\xbb\xbf", b"\\ud800", b"<<: 1\n",
)  # fmt: skip
WHOLE = (b"", b"[]", b"5", b"null", b'"x"', b"\x00" * 64, b"\xff\xfe" + "a".encode("utf-16-le"), b"a: &a [*a]", b"{}")


def mutate(content: bytes, kind: str, rng: random.Random) -> bytes:
    """The content of a file with one to three faults.

    Args:
        content: whole.
        kind: the suffix of the file: .json, .jsonl and .yaml also get wrong values.
        rng: chooses.
    """
    if rng.random() < 0.04:
        return rng.choice(WHOLE)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = _structure(content, kind, rng) if rng.random() < 0.6 else _bytes(content, rng)
    return content


def _bytes(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice((0, 1, 4, 40)))
    how = rng.randrange(5)
    if how == 0 and content:
        position = min(start, len(content) - 1)
        return content[:position] + bytes([content[position] ^ 1 << rng.randrange(8)]) + content[position + 1 :]
    if how == 1:
        return content[:start]
    middle = (rng.choice(TOKENS), b"", content[start:end] * 2)[how - 2]
    return content[:start] + middle + content[end:]


def _structure(content: bytes, kind: str, rng: random.Random) -> bytes:
    try:
        if kind == ".jsonl":
            lines = content.split(b"\n")
            number = rng.randrange(len(lines))
            lines[number] = _structure(lines[number], ".json", rng)
            return b"\n".join(lines)
        tree = json.loads(content) if kind == ".json" else yaml.safe_load(content)
        dump = json.dumps if kind == ".json" else yaml.safe_dump
        return dump(_changed(tree, rng)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, OverflowError, yaml.YAMLError, TypeError):
        return _bytes(content, rng)


def _changed(tree: Any, rng: random.Random) -> Any:
    """The tree with one value or key of any depth changed."""
    if isinstance(tree, dict | list) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        how = rng.random()
        if how < 0.1:
            del tree[key]
        elif how < 0.2 and isinstance(tree, dict):
            tree[rng.choice((NAME, "", "x"))] = tree.pop(key)
        else:
            tree[key] = _changed(tree[key], rng)
        return tree
    return rng.choice((rng.choice(VALUES), rng.choice(VALUES), [tree], {"a": tree}, str(tree)))


def mutate_file(path: Path, original: bytes, rng: random.Random) -> None:
    """Write a damaged copy of a file in its place."""
    path.write_bytes(mutate(original, path.suffix, rng))
