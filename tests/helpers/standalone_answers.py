"""What an exported model answers, computed in a process that can import neither mosld nor peft.

python tests/helpers/standalone_answers.py FOLDER...    # writes FOLDER/answers.pt
"""

import importlib.util
import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

PAD = 259
ROWS = [[5, 6, 7, 8, 9, 10, 11], [120, 121, 122], [60, 200, 61, 201, 62], [240, 33]]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}


BLOCKED = {"mosld", "peft"}


class WithoutBlocked:
    """A finder of modules that does not find `BLOCKED`, as where they are not installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)


def batch():
    """Rows of different lengths, padded on the left."""
    width = max(map(len, ROWS))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in ROWS])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@torch.no_grad()
def answers(model):
    """Logits, losses and generated tokens of a model, by name."""
    inputs = batch()
    ids, mask = inputs.values()
    labels = torch.where(torch.arange(ids.shape[1]) < 4, -100, ids)
    found = {
        "logits": model(**inputs).logits,
        "logits without cache": model(**inputs, use_cache=False).logits,
        "loss of answers": model(**inputs, labels=labels).loss,
        "loss of texts": model(**inputs, labels=ids).loss,
        "greedy": model.generate(**inputs, **GREEDY),
        "greedy without cache": model.generate(**inputs, **GREEDY, use_cache=False),
        "greedy in chunks": model.generate(**inputs, **GREEDY, prefill_chunk_size=3),
        "beams": model.generate(**inputs, **GREEDY, num_beams=2),
        "sampled": torch.cat([_sampled(model, inputs, seed) for seed in range(2)]),
    }
    # A prompt in two pieces, whose cache is copied and its rows moved.
    first = model(input_ids=ids[:, :4], attention_mask=mask[:, :4], use_cache=True).past_key_values
    for name, rows in {"moved": [3, 0, 2], "kept": [0, 1, 2, 3]}.items():
        cache = deepcopy(first)
        cache.batch_select_indices(torch.tensor(rows))
        cache.batch_repeat_interleave(2)
        rows = torch.tensor(rows).repeat_interleave(2)
        found[f"continued, {name}"] = model(ids[rows, 4:], attention_mask=mask[rows], past_key_values=cache).logits
    return found


def _sampled(model, inputs, seed):
    torch.manual_seed(seed)
    return model.generate(**inputs, **GREEDY | {"do_sample": True}, num_return_sequences=2)


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()


if __name__ == "__main__":
    assert not sys.modules.keys() & BLOCKED
    sys.meta_path[:] = map(WithoutBlocked, sys.meta_path)
    assert not any(map(importlib.util.find_spec, BLOCKED))
    for folder in map(Path, sys.argv[1:]):
        model = load(folder)
        found = {"fp32": answers(model), "bf16": answers(load(folder, dtype=torch.bfloat16))}
        with tempfile.TemporaryDirectory() as again:
            model.save_pretrained(again)
            found["reloaded"] = answers(load(again, attn_implementation=model.config._attn_implementation))
        torch.save(found, folder / "answers.pt")
