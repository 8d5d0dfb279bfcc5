"""One row per method for the generic tests, with the tests that cannot hold for it and why."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import mosld

IDS = [[5, 6, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]]


@dataclass(frozen=True)
class Row:
    """A method on the tiny model.

    Attributes:
        options: options of `adapt` that it needs.
        domain: it is trained with each row's own domain.
        routed: it has a router, so reentrant checkpointing would lose its loss and it cannot be merged.
        layers: it replaces layers of the model. Not prefix, which gives every forward keys and values in a cache: that
            changes the answer at step 0, and PEFT allows it no checkpointing, no merge and no `load_adapter` of
            transformers. Not full.
        adapter: it adds weights to a frozen base. Not full.
        dropout: two forwards in training mode differ.
        random_start: its B are random at step 0 and cancel up to rounding.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    domain: bool = False
    routed: bool = True
    layers: bool = True
    adapter: bool = True
    dropout: bool = False
    random_start: bool = False

    def base(self):
        return mosld.load_base("tiny")[0]

    def adapted(self, trained=True, base=None, method=None):
        """The method on a tiny base in eval mode; `trained`: every trained weight is moved off its initial value."""
        model = mosld.adapt(self.base() if base is None else base, method or self.name, seed=0, **self.options)
        if trained:
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
                for name, buffer in model.named_buffers():
                    if name.endswith("router.bias"):
                        buffer.add_(torch.randn_like(buffer) * 0.1)
        return model.eval()

    def inputs(self):
        """A training batch of two rows."""
        ids = torch.tensor(IDS)
        return {"input_ids": ids, "labels": ids} | ({"domain": torch.tensor([0, 1])} if self.domain else {})

    def train(self, model, steps=3):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            model(**self.inputs()).loss.backward()
            optimizer.step()
        return model.eval()


ROWS = [
    Row("full", routed=False, layers=False, adapter=False),
    Row("prefix", routed=False, layers=False),
    Row("lora", routed=False, dropout=True),
    Row("lora_matched", routed=False, dropout=True),
    Row("molora"),
    Row("sira", dropout=True),
    Row("mola", dropout=True),
    Row("mixlora"),
    Row("mosl"),
    Row("mosld", dropout=True),
    Row("mosld_b", dropout=True),
    Row("moa", {"domains": ["a", "b"]}, domain=True, dropout=True),
    Row("hydralora"),
    Row("rlora", dropout=True, random_start=True),
    Row("comol"),
    Row("smora"),
    Row("loramoe", domain=True, dropout=True),
    Row("flylora"),
]
BY_NAME = {row.name: row for row in ROWS}
ADAPTERS = [row for row in ROWS if row.adapter]
LAYERS = [row for row in ROWS if row.layers]
ROUTED = [row for row in ROWS if row.routed]


def without_dropout(model):
    """The model with dropout off in training mode, too."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(config := getattr(module, "config", None), "gate_dropout"):
            config.dropout = config.gate_dropout = 0.0
    return model


def over(rows):
    """Run a test for each of these rows."""
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)
