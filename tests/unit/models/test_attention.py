"""model.attention=auto on CPU: sdpa in long passes without gradients, eager in all others, with equal results."""

import pytest
import torch

from mosld.config.groups import model_config
from mosld.models.attention import SDPA_MIN_TOKENS
from mosld.models.load import load_model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The query lengths of the calls of torch's fused attention."""
    lengths = []
    real = torch.nn.functional.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        lengths.append(query.shape[-2])
        return real(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return lengths


def base(attention: str):
    return load_model(model_config("tiny", {"attention": attention, "dtype": "float32"}))[0]


def tokens(length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(2 * length).view(2, length) % 250
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA auto is sdpa throughout")
def test_long_passes_without_gradients_run_sdpa_with_the_logits_of_eager(calls):
    auto, eager = base("auto"), base("eager")
    inputs = tokens(SDPA_MIN_TOKENS)
    with torch.inference_mode():
        actual, expected = auto(**inputs).logits, eager(**inputs).logits
    assert calls == [SDPA_MIN_TOKENS] * auto.config.num_hidden_layers
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(actual[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA auto is sdpa throughout")
def test_short_passes_and_passes_with_gradients_run_eager(calls):
    auto, eager = base("auto"), base("eager")
    with torch.inference_mode():
        assert torch.equal(auto(**tokens(SDPA_MIN_TOKENS - 1)).logits, eager(**tokens(SDPA_MIN_TOKENS - 1)).logits)
    assert torch.equal(auto(**tokens(SDPA_MIN_TOKENS)).logits, eager(**tokens(SDPA_MIN_TOKENS)).logits)
    assert calls == []


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_named_kernel_is_the_only_one(attention, calls):
    with torch.inference_mode():
        base(attention)(**tokens(SDPA_MIN_TOKENS))
    assert bool(calls) == (attention == "sdpa")
