"""The cache of tokens: equal to tokenising, made anew where anything differs or is damaged, never in the way."""

import dataclasses

import pytest

from mosld.data import token_cache
from mosld.data.prompts import PromptEncoder, right_option
from mosld.data.rows import Row, Solution
from mosld.data.tasks import TASKS
from mosld.data.token_cache import CachedEncoder
from mosld.models.tiny import byte_tokenizer


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The cache, empty."""
    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path))
    return tmp_path / "tokens"


class Counting:
    """A tokenizer that counts the texts of rows that it is given."""

    def __init__(self):
        self.inner, self.texts = byte_tokenizer(), 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, text, **options):
        self.texts += len(text) if isinstance(text, list) else 0
        return self.inner(text, **options)


def rows(count=5):
    choices = [Row("arc_e", f"r{i}", "A passage. " * 9 * i, f"What is {i}?", ("x", "y y", "z")[: 2 + i % 2], i % 2)
               for i in range(count)]  # fmt: skip
    return [*choices, Solution("gsm8k", "s", "", "How many?", "Two.\n#### 2", "2")]


WANTED = {"all": None, "the answer": right_option, "none": lambda _: ()}


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
@pytest.mark.parametrize("keep", WANTED)
def test_what_is_read_is_what_was_tokenised(style, keep):
    counting = Counting()
    wanted = PromptEncoder(byte_tokenizer(), style).encode(rows(), WANTED[keep])
    first = CachedEncoder(counting, style).encode(rows(), WANTED[keep])
    after_first = counting.texts
    assert CachedEncoder(counting, style).encode(rows(), WANTED[keep]) == first == wanted
    assert counting.texts == after_first > 0
    assert any(encoded.cut for encoded in wanted)  # also what else is known of a row


def changed_row(number=2):
    return [dataclasses.replace(row, question="Which?") if i == number else row for i, row in enumerate(rows())]


@pytest.mark.parametrize(
    "differs", ["a row", "an option's place", "fewer rows", "prompt", "options", "tokenizer", "code"]
)
def test_anything_else_is_tokenised_anew(differs, monkeypatch, tmp_path):
    CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    counting, style, given, keep = Counting(), "cloze", rows(), None
    if differs == "a row":
        given = changed_row()
    elif differs == "an option's place":
        given[0] = dataclasses.replace(given[0], choices=given[0].choices[::-1])
    elif differs == "fewer rows":
        given = given[:-1]
    elif differs == "prompt":
        style = "letter"
    elif differs == "options":
        keep = right_option
    elif differs == "tokenizer":
        counting.inner.add_tokens(["What is"])
    else:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "prompts.py").write_text("# another prompt\n")
        monkeypatch.setattr(token_cache, "__file__", str(tmp_path / "code" / "token_cache.py"))
    found = CachedEncoder(counting, style).encode(given, keep)
    assert counting.texts > 0
    assert found == PromptEncoder(counting.inner, style).encode(given, keep)


def test_a_cutoff_that_changed_is_tokenised_anew(monkeypatch):
    before = CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    monkeypatch.setitem(TASKS, "arc_e", dataclasses.replace(TASKS["arc_e"], cutoff=64))
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) != before


@pytest.mark.parametrize("place", [0, 9, 40, -9, -1])
def test_a_bit_that_flipped_is_noticed_and_mended(place, folder):
    wanted = CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) == wanted
    assert path.read_bytes() == whole


@pytest.mark.parametrize("left", [0, 7, 100, 300])
def test_half_a_file_is_noticed_and_mended(left, folder):
    wanted = CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) == wanted
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_stops_nothing(folder):
    folder.write_text("a file where the folder should be")
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) == PromptEncoder(byte_tokenizer(), "cloze").encode(
        rows()
    )


def test_a_disk_that_is_full_leaves_no_half_file(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache.os, "replace", full)
    CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    assert list(folder.iterdir()) == []


def test_the_files_that_are_unused_for_longest_go_first(folder, monkeypatch):
    monkeypatch.setattr(token_cache, "KEPT", 2)
    for number in range(4):
        CachedEncoder(byte_tokenizer(), "cloze").encode(changed_row(number))
    assert len(list(folder.iterdir())) == 2
    counting = Counting()
    CachedEncoder(counting, "cloze").encode(changed_row(3))
    assert counting.texts == 0


def test_many_rows_are_tokenised_in_parts_that_a_bar_can_show(monkeypatch):
    monkeypatch.setattr(token_cache, "CHUNK", 2)
    encoder, parts = CachedEncoder(byte_tokenizer(), "cloze"), []
    encoder.progress = lambda items: (parts.append(part) or part for part in items)
    assert encoder.encode(rows()) == PromptEncoder(byte_tokenizer(), "cloze").encode(rows())
    assert [len(part) for part in parts] == [2, 2, 2]


def test_no_rows_are_no_file(folder):
    assert CachedEncoder(byte_tokenizer(), "cloze").encode([]) == []
    assert not folder.exists()
