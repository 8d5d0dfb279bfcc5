"""Checkpoints: complete or absent; damage is detected and the previous checkpoint is used."""

import random

import pytest
import torch
from safetensors.torch import save_file

from mosld.common.files import damage
from mosld.training.checkpoint import Checkpoints


def fill(folder):
    save_file({"weight": torch.arange(64.0)}, folder / "weights.safetensors")
    (folder / "progress.json").write_text('{"step": 1, "best_step": 0}')


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    for step in (1, 2):
        checkpoints.save_step(step, fill)
    return checkpoints


def test_intact_checkpoint_has_no_damage(checkpoints):
    assert list(damage(checkpoints.folder / "step-000002")) == []


def test_flipped_bits_and_truncations_are_detected_and_the_previous_checkpoint_is_used(checkpoints):
    rng = random.Random(0)
    newest = checkpoints.folder / "step-000002"
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        for trial in range(20):
            broken = bytearray(whole)
            if trial % 4 == 0:
                broken = broken[: rng.randrange(len(broken))]
            else:
                broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
            path.write_bytes(broken)
            said = []
            assert checkpoints.newest(said.append).name == "step-000001", (path.name, trial)
            assert "step-000002 is damaged" in said[0]
        path.write_bytes(whole)
    assert checkpoints.newest(print).name == "step-000002"


@pytest.mark.parametrize("name", ["weights.safetensors", "progress.json", "manifest.json"])
def test_missing_file_is_detected(checkpoints, name):
    (checkpoints.folder / "step-000002" / name).unlink()
    assert checkpoints.newest(lambda _: None).name == "step-000001"


def test_half_written_checkpoint_of_a_killed_process_is_removed(checkpoints):
    def die(folder):
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_step(3, die)
    again = Checkpoints(checkpoints.folder, 3)
    assert again.newest(print).name == "step-000002"
    assert not list(checkpoints.folder.glob(".tmp-*"))


def test_checkpoint_of_the_same_step_is_replaced(checkpoints):
    checkpoints.save_step(2, lambda folder: (folder / "progress.json").write_text("{}"))
    assert (checkpoints.folder / "step-000002" / "progress.json").read_text() == "{}"


def test_damaged_later_checkpoint_is_deleted_after_falling_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save_step(100, fill)
    (tmp_path / "step-000100" / "progress.json").write_text("damaged")
    checkpoints.save_step(60, fill)
    assert checkpoints.newest(print).name == "step-000060"
    assert not (tmp_path / "step-000100").exists()


def test_best_weights_stay_while_a_checkpoint_names_them(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)

    def naming(best):
        return lambda folder: (folder / "progress.json").write_text(f'{{"best_step": {best}}}')

    for step, best in ((1, 1), (2, 2), (3, 2)):
        if step == best:
            checkpoints.save_best(step, fill)
        checkpoints.save_step(step, naming(best))
        if step == 2:
            assert checkpoints.best(1).exists()  # step 1 is kept and names it
    assert not checkpoints.best(1).exists()
    assert checkpoints.best(2).exists()
