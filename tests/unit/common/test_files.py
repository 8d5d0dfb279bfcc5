"""build_once: complete or absent, built once, whichever process is first."""

from pathlib import Path

import pytest

from mosld.common.files import build_once


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "rows.txt").write_text("new")


def make_file(path: Path) -> None:
    path.write_text("new")


@pytest.mark.parametrize("make", [make_folder, make_file])
def test_target_is_built_with_its_parents_and_nothing_else_is_left(make, tmp_path):
    target = build_once(tmp_path / "cache" / "rows", make)
    assert (target / "rows.txt" if target.is_dir() else target).read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_damaged_folder_is_built_again(tmp_path, capsys):
    target = build_once(tmp_path / "built", make_folder)
    file = next(path for path in sorted(target.iterdir()) if not path.name.startswith("."))
    whole = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(whole[:-1])):
        damage()
        assert build_once(target, make_folder) == target
        assert file.read_bytes() == whole
        assert "is damaged; building it again" in capsys.readouterr().err


def test_existing_target_is_not_built_again(tmp_path):
    target = build_once(tmp_path / "rows", make_folder)
    assert build_once(target, lambda _: pytest.fail("built again")) == target


@pytest.mark.parametrize("make", [make_folder, make_file])
def test_failed_build_leaves_nothing(make, tmp_path):
    def fail(path: Path) -> None:
        make(path)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        build_once(tmp_path / "rows", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [make_folder, make_file])
def test_slower_process_accepts_the_result_of_the_faster(make, tmp_path):
    target = tmp_path / "rows"

    def make_slowly(path: Path) -> None:
        make(path)
        make(target)

    assert build_once(target, make_slowly) == target
    assert list(tmp_path.iterdir()) == [target]
