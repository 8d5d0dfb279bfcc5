"""Tensors in files of a bounded size: every one comes back whole, and other processes write nothing."""

from pathlib import Path

import pytest
import torch

from mosld.common.errors import UserError
from mosld.training.tensor_files import SavedTensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3.5), "c": torch.arange(40.0), "d": torch.ones(2)}


def test_tensors_come_back_from_as_many_files_as_they_need(tmp_path: Path):
    write_tensors(TENSORS.items(), tmp_path, "weights", max_bytes=40)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "weights-2.safetensors", "weights-3.safetensors", "weights.safetensors",
    ]  # fmt: skip
    saved = SavedTensors(tmp_path, "weights")
    assert saved.shapes() == {name: tensor.shape for name, tensor in TENSORS.items()}
    assert dict(saved.entries()) == {name: name == "b" for name in TENSORS}
    assert all(torch.equal(saved.read(name), tensor) for name, tensor in TENSORS.items())


def test_one_file_where_all_fit_and_one_where_there_is_nothing(tmp_path: Path):
    write_tensors(TENSORS.items(), tmp_path, "weights")
    write_tensors([], tmp_path, "optimizer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["optimizer.safetensors", "weights.safetensors"]
    assert SavedTensors(tmp_path, "optimizer").shapes() == {}


def test_a_process_without_a_folder_passes_all_tensors_over():
    asked = []
    write_tensors(((name, asked.append(name)) for name in "abc"), None, "weights")
    assert asked == ["a", "b", "c"]  # its parts of each are sent


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04}q\x00.")
    with pytest.raises(UserError, match="is no safetensors file"):
        SavedTensors(tmp_path, "weights")
