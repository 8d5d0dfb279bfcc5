"""Tensors in files of bounded size: every one is restored, and only the main process writes."""

from pathlib import Path

import pytest
import torch

from mosld.common.errors import UserError
from mosld.training.tensor_files import SavedTensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3.5), "c": torch.arange(40.0), "d": torch.ones(2)}


def test_tensors_are_restored_from_several_files(tmp_path: Path):
    write_tensors(TENSORS.items(), tmp_path, "weights", max_bytes=40)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "weights-2.safetensors", "weights-3.safetensors", "weights.safetensors",
    ]  # fmt: skip
    saved = SavedTensors(tmp_path, "weights")
    assert saved.shapes() == {name: tensor.shape for name, tensor in TENSORS.items()}
    assert dict(saved.entries()) == {name: name == "b" for name in TENSORS}
    assert all(torch.equal(saved.read(name), tensor) for name, tensor in TENSORS.items())


def test_one_file_is_written_for_few_or_no_tensors(tmp_path: Path):
    write_tensors(TENSORS.items(), tmp_path, "weights")
    write_tensors([], tmp_path, "optimizer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["optimizer.safetensors", "weights.safetensors"]
    assert SavedTensors(tmp_path, "optimizer").shapes() == {}


def test_process_without_a_folder_consumes_all_tensors():
    gathered = []
    write_tensors(((name, gathered.append(name)) for name in "abc"), None, "weights")
    assert gathered == ["a", "b", "c"]


def test_file_that_is_no_safetensors_file_is_rejected(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04}q\x00.")
    with pytest.raises(UserError, match="is no safetensors file"):
        SavedTensors(tmp_path, "weights")
