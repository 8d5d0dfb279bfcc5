"""model.attention=auto on a processor: sdpa in long passes without gradients, eager in all others, one result."""

import pytest
import torch

from mosld.config.groups import model_config
from mosld.models.attention import SDPA_MIN_TOKENS
from mosld.models.load import load_model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The query lengths that torch's fused attention was asked for."""
    found, real = [], torch.nn.functional.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        found.append(query.shape[-2])
        return real(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return found


def base(attention: str):
    return load_model(model_config("tiny", {"attention": attention, "dtype": "float32"}))[0]


def tokens(length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(2 * length).view(2, length) % 250
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on an accelerator auto is sdpa throughout")
def test_long_passes_without_gradients_take_sdpa_and_give_what_eager_gives(calls):
    auto, eager = base("auto"), base("eager")
    inputs = tokens(SDPA_MIN_TOKENS)
    with torch.inference_mode():
        found, wanted = auto(**inputs).logits, eager(**inputs).logits
    assert calls == [SDPA_MIN_TOKENS] * auto.config.num_hidden_layers
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[kept], wanted[kept], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on an accelerator auto is sdpa throughout")
def test_short_passes_and_those_with_gradients_are_eager(calls):
    auto, eager = base("auto"), base("eager")
    with torch.inference_mode():
        assert torch.equal(auto(**tokens(SDPA_MIN_TOKENS - 1)).logits, eager(**tokens(SDPA_MIN_TOKENS - 1)).logits)
    assert torch.equal(auto(**tokens(SDPA_MIN_TOKENS)).logits, eager(**tokens(SDPA_MIN_TOKENS)).logits)
    assert calls == []


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_kernel_that_was_asked_for_is_the_only_one(attention, calls):
    with torch.inference_mode():
        base(attention)(**tokens(SDPA_MIN_TOKENS))
    assert bool(calls) == (attention == "sdpa")
