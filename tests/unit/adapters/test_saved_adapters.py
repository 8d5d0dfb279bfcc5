"""Saved adapters of every method: in a fresh process, by PEFT and by transformers, and several on one base."""

import json
import os
import subprocess
import sys

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.helpers.methods import ADAPTERS, BY_NAME, IDS, LAYERS, ROWS, over

FRESH = """
import json, sys, torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM
import mosld
import mosld.adapters
import mosld.models.attention
bits = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    if (folder / "adapter_config.json").is_file():
        model = PeftModel.from_pretrained(mosld.load_base("tiny")[0], folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=sys.argv[3])
    bits[folder.name] = model.eval()(torch.tensor(json.loads(sys.argv[2]))).logits.detach().numpy().tobytes().hex()
print(json.dumps(bits))
"""


@pytest.fixture
def ids():
    return torch.tensor(IDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with every method, trained and saved."""
    folder = tmp_path_factory.mktemp("saved")
    for row in ROWS:
        row.adapted().save_pretrained(folder / row.name)
    return folder


@pytest.fixture(scope="module")
def bits_in_a_fresh_process(saved):
    """The bits of the logits of every saved method in a new process."""
    attention = ROWS[0].base().config._attn_implementation
    command = [sys.executable, "-c", FRESH, str(saved), json.dumps(IDS), attention]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@over(ROWS)
@pytest.mark.slow
def test_a_fresh_process_has_bit_equal_logits(row, ids, bits_in_a_fresh_process):
    logits = row.adapted()(ids).logits
    assert bits_in_a_fresh_process[row.name] == logits.detach().numpy().tobytes().hex()


@over(ADAPTERS)
def test_the_saved_file_has_the_trained_weights_and_no_adapter_name(row, saved):
    tensors = load_file(saved / row.name / "adapter_model.safetensors")
    assert [name for name in tensors if "default" in name] == []
    model = row.adapted()
    kept = [p for p in model.parameters() if p.requires_grad]
    kept += [buffer for name, buffer in model.named_buffers() if "mosld_mixture" in name]  # biases, a frozen A
    assert sum(tensor.numel() for tensor in tensors.values()) == sum(tensor.numel() for tensor in kept)


@over(LAYERS)
@pytest.mark.parametrize("name", ["default", "other"])
def test_load_adapter_of_transformers_gives_equal_logits(row, name, ids, saved):
    plain = row.base()
    plain.load_adapter(str(saved / row.name), name)
    assert torch.equal(plain.eval()(ids).logits, row.adapted()(ids).logits)


@over(ADAPTERS)
def test_two_adapters_on_one_base_give_the_logits_of_each(row, ids, tmp_path):
    first, second = row.adapted(), row.adapted()
    with torch.no_grad():
        for parameter in second.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.5)
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    both = PeftModel.from_pretrained(row.base(), tmp_path / "first", adapter_name="first")
    both.load_adapter(tmp_path / "second", "second")
    for name, alone in (("second", second), ("first", first)):
        both.set_adapter(name)
        assert torch.equal(both.eval()(ids).logits, alone(ids).logits)


@over(LAYERS)
def test_only_the_active_adapter_is_trained(row):
    model = row.adapted()
    model.add_adapter("second", model.peft_config["default"])
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".default" in name for name in trained)


def test_auto_peft_model_finds_the_base(ids, tmp_path):
    row = BY_NAME["mosld"]
    row.base().save_pretrained(tmp_path / "base")
    model = row.adapted(base=AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(again.eval()(ids).logits, model(ids).logits)
