"""The token cache: equal to tokenizing, which is repeated if anything differs or is damaged."""

import dataclasses
import shutil

import pytest

from mosld.data import cache
from mosld.data.rows import Row, Solution
from mosld.data.tasks import TASKS
from mosld.data.tokens import token_cache, token_table
from mosld.data.tokens.prompts import PromptEncoder, right_option
from mosld.data.tokens.token_cache import CachedEncoder
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
        self.backend_tokenizer = CountingBackend(self)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, text, **options):
        return self.inner(text, **options)


class CountingBackend:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer.inner.backend_tokenizer, name)

    def encode_batch_fast(self, texts, **options):
        self.tokenizer.texts += len(texts)
        return self.tokenizer.inner.backend_tokenizer.encode_batch_fast(texts, **options)


def rows(count=5):
    choices = [Row("arc_e", f"r{i}", "A passage. " * 9 * i, f"What is {i}?", ("x", "y y", "z")[: 2 + i % 2], i % 2)
               for i in range(count)]  # fmt: skip
    return [*choices, Solution("gsm8k", "s", "", "How many?", "Two.\n#### 2", "2")]


KEEP = {"all": None, "the answer": right_option, "none": lambda _: ()}


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
@pytest.mark.parametrize("keep", KEEP)
def test_cached_tokens_are_those_of_the_encoder(style, keep):
    counting = Counting()
    expected = PromptEncoder(byte_tokenizer(), style).encode(rows(), KEEP[keep])
    first = CachedEncoder(counting, style).encode(rows(), KEEP[keep])
    after_first = counting.texts
    assert CachedEncoder(counting, style).encode(rows(), KEEP[keep]) == first == expected
    assert counting.texts == after_first > 0
    assert any(encoded.cut for encoded in expected)  # also what else is known of a row


def changed_row(number=2):
    return [dataclasses.replace(row, question="Which?") if i == number else row for i, row in enumerate(rows())]


@pytest.mark.parametrize(
    "differs", ["a row", "an option's place", "fewer rows", "prompt", "options", "tokenizer", "code"]
)
def test_any_change_is_tokenized_again(differs, monkeypatch, tmp_path):
    CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    counting, style, data, keep = Counting(), "cloze", rows(), None
    if differs == "a row":
        data = changed_row()
    elif differs == "an option's place":
        data[0] = dataclasses.replace(data[0], choices=data[0].choices[::-1])
    elif differs == "fewer rows":
        data = data[:-1]
    elif differs == "prompt":
        style = "letter"
    elif differs == "options":
        keep = right_option
    elif differs == "tokenizer":
        counting.inner.add_tokens(["What is"])
    else:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "prompts.py").write_text("# another prompt\n")
        monkeypatch.setattr(cache, "__file__", str(tmp_path / "code" / "cache.py"))
    encoded = CachedEncoder(counting, style).encode(data, keep)
    assert counting.texts > 0
    assert encoded == PromptEncoder(counting.inner, style).encode(data, keep)


def test_changed_cutoff_is_tokenized_again(monkeypatch):
    before = CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    monkeypatch.setitem(TASKS, "arc_e", dataclasses.replace(TASKS["arc_e"], cutoff=64))
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) != before


DAMAGE = {
    **{f"byte {i}": lambda content, i=i: content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in (0, 9, 40)},
    "last byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    **{f"{length} bytes": lambda content, length=length: content[:length] for length in (0, 7, 100)},
}


@pytest.mark.parametrize("name", [token_cache.FILE, ".manifest.json"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file_is_noticed_and_repaired(kind, name, folder):
    expected = CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    (path,) = folder.glob(f"*/{name}")
    content = path.read_bytes()
    path.write_bytes(DAMAGE[kind](content))
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) == expected
    assert path.read_bytes() == content


def test_folder_of_other_rows_is_noticed_and_repaired(folder):
    expected = CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    (path,) = folder.iterdir()
    CachedEncoder(byte_tokenizer(), "cloze").encode(changed_row())
    (other,) = set(folder.iterdir()) - {path}
    shutil.rmtree(path)
    other.rename(path)
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) == expected


def test_unwritable_cache_is_ignored(folder):
    folder.write_text("a file where the folder should be")
    assert CachedEncoder(byte_tokenizer(), "cloze").encode(rows()) == PromptEncoder(byte_tokenizer(), "cloze").encode(
        rows()
    )


def test_full_disk_leaves_no_partial_file(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "_write", full)
    CachedEncoder(byte_tokenizer(), "cloze").encode(rows())
    assert list(folder.iterdir()) == []


def test_least_recently_used_folders_are_deleted(folder, monkeypatch):
    monkeypatch.setattr(token_cache, "MAX_FOLDERS", 2)
    for number in range(4):
        CachedEncoder(byte_tokenizer(), "cloze").encode(changed_row(number))
    assert len(list(folder.iterdir())) == 2
    counting = Counting()
    CachedEncoder(counting, "cloze").encode(changed_row(3))
    assert counting.texts == 0


def test_many_rows_are_tokenized_in_chunks_for_a_progress_bar(monkeypatch):
    monkeypatch.setattr(token_table, "CHUNK_ROWS", 2)
    encoder, parts = CachedEncoder(byte_tokenizer(), "cloze"), []
    encoder.progress = lambda items: (parts.append(part) or part for part in items)
    assert encoder.encode(rows()) == PromptEncoder(byte_tokenizer(), "cloze").encode(rows())
    assert [len(part) for part in parts] == [2, 2, 2]


def test_no_rows_write_no_file(folder):
    assert CachedEncoder(byte_tokenizer(), "cloze").encode([]) == []
    assert not folder.exists()
