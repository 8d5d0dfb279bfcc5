"""A base in 4 or 8 bits: only the adapter trains, scoring leaves the base unchanged, a run evaluates the same."""

import json
from pathlib import Path

import pytest
import torch

import mosld
from mosld import eval as eval_command
from mosld import merge as merge_command
from mosld import train as train_command
from mosld.adapters.load import load_adapter
from mosld.common.errors import UserError
from mosld.config.groups import option_tree
from mosld.models.quantization import count_weights

pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
KINDS = ("nf4", "int8")
# Widths are multiples of 64, as in all real models.
WIDE = {"hidden_size": 64, "intermediate_size": 128}
IDS = torch.arange(24).reshape(2, 12)


def base(kind: str | None = None):
    return mosld.load_base("tiny", quantize=kind, shape={**option_tree("model", "tiny", [])["shape"], **WIDE})[0]


def adapted(kind: str, method: str = "mosld"):
    return mosld.adapt(base(kind), method, seed=0, dropout=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "mosld", "mixlora"])
def test_only_trained_weights_get_a_gradient(kind: str, method: str):
    model = adapted(kind, method).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # A gets its first gradient once B is not zero
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_layers_are_counted_by_their_weights_and_close_to_the_original(kind: str):
    packed, whole = base(kind), base()
    assert packed.model.layers[0].mlp.up_proj.weight.element_size() == 1
    assert sum(map(count_weights, packed.parameters())) == sum(p.numel() for p in whole.parameters())
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (model.model.layers[0].mlp.up_proj(x) for model in (packed, whole))
    error = ((ours - theirs).norm() / theirs.norm()).item()
    assert 0 < error < (0.12 if kind == "nf4" else 0.02)  # 4 bits of Gaussian weights: 0.09


def test_widths_that_bitsandbytes_computes_wrongly_on_cpu_are_refused():
    with pytest.raises(UserError, match=r"takes 32 inputs.*only for multiples of 64; use model\.quantize=int8"):
        mosld.load_base("tiny", quantize="nf4")


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_leaves_the_quantized_base_unchanged(kind: str):
    model = adapted(kind).train()
    before = model(input_ids=IDS, labels=IDS).loss.item()
    with torch.no_grad():
        model.eval()(input_ids=IDS)
    assert model.train()(input_ids=IDS, labels=IDS).loss.item() == before


@pytest.fixture(scope="module", params=KINDS)
def run(request, toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA trained by the command on a quantized base."""
    folder = tmp_path_factory.mktemp("quantise") / request.param
    arguments = [
        "method=lora", "model=tiny", "source=local", f"source.root={toy_root}", "data.tasks=[obqa]", "data.limit=8",
        "training.max_steps=2", "evaluation.limit=6", "evaluation.validation_limit=2", "logger=files",
        f"model.quantize={request.param}", "training.gradient_checkpointing=true", f"output_dir={folder}",
        *(f"model.shape.{key}={value}" for key, value in WIDE.items()),
    ]  # fmt: skip
    assert train_command.main(arguments) == 0
    return folder


def test_eval_on_the_quantized_base_gives_the_scores_of_the_run(run: Path):
    assert eval_command.main([f"run={run}"]) == 0
    (folder,) = (run / "eval").iterdir()
    trained, scored = (json.loads((path / "results.json").read_text()) for path in (run, folder))
    assert scored["scores"] == trained["scores"]
    assert scored["parameters"] == trained["parameters"]
    assert eval_command.main([f"run={run}", "model.quantize=null"]) == 2


def test_the_adapter_loads_on_the_full_precision_base(run: Path):
    model = load_adapter(base(), run / "adapter").eval()
    assert model(input_ids=IDS).logits.isfinite().all()


def test_merging_into_a_quantized_base_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert merge_command.main([str(run), "--output", str(tmp_path / "merged")]) == 2
    assert "packed weights cannot take it in" in capsys.readouterr().err
