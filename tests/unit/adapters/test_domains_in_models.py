"""MoA in a whole model: mixed batches, pads, the vote, `generate`, and loading by transformers alone."""

import pytest
import torch

import mosld

PAD = 259
ROWS = [[5, 6, 7, 8, 9, 10, 11], [120, 121, 122], [60, 200, 61, 201, 62], [240, 33]]


def moa(**options):
    """Three domains whose routers disagree from layer to layer."""
    model = mosld.adapt(mosld.load_base("tiny")[0], "moa", domains=["a", "b", "c"], seed=0, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=1.0 if "router" in name else 0.3)
    return model.eval()


def batch(rows=ROWS):
    """Left-padded, as for `generate`."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def decisions(model):
    """The expert of each layer and row in the last forward [L, B]."""
    return torch.stack([routing.gates_BSE[:, 0].argmax(-1) for routing in model.base_model.context.decided.values()])


def greedy(model, **inputs):
    return model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=PAD)


def test_a_mixed_batch_gives_each_row_its_own_expert_as_if_it_were_alone():
    """Known defect (docs/reference/methods.md): a whole batch routed by its first sample."""
    model = moa()
    inputs = batch()
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    together = model(**inputs, position_ids=positions).logits
    chosen = decisions(model)
    assert all(len(layer.unique()) > 1 for layer in chosen)
    for i, row in enumerate(ROWS):
        alone = model(torch.tensor([row])).logits
        assert torch.equal(decisions(model)[:, 0], chosen[:, i])
        torch.testing.assert_close(together[i, -len(row) :], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inference", ["per_layer", "vote", "soft"])
def test_a_padded_mixed_batch_generates_as_each_row_alone(inference):
    model = moa(inference=inference)
    together = greedy(model, **batch())[:, -6:]
    for i, row in enumerate(ROWS):
        assert torch.equal(together[i], greedy(model, input_ids=torch.tensor([row]))[0, -6:])


@pytest.mark.parametrize("inference", ["per_layer", "vote", "soft"])
def test_the_decision_of_the_prompt_is_kept_while_decoding(inference):
    """The reference decodes without a cache and is told which tokens are the prompt."""
    model = moa(inference=inference)
    prompt = torch.tensor([ROWS[0], ROWS[0][::-1]])
    ids = prompt
    for _ in range(6):
        inside = (torch.arange(ids.shape[1]) < prompt.shape[1]).long().expand_as(ids)
        following = model(ids, prompt_mask=inside, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
    assert torch.equal(greedy(model, input_ids=prompt), ids)


def test_answer_tokens_never_influence_any_layer_s_decision():
    model, prompt = moa(), torch.tensor([[1, 1, 1, 0, 0]] * 2)
    model(torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]]), prompt_mask=prompt)
    first = [routing.probs_BSE for routing in model.base_model.context.decided.values()]
    model(torch.tensor([[5, 6, 7, 200, 3], [15, 16, 17, 90, 91]]), prompt_mask=prompt)
    second = [routing.probs_BSE for routing in model.base_model.context.decided.values()]
    torch.testing.assert_close(first, second)


def test_vote_takes_the_expert_that_most_layers_name_in_every_layer():
    inputs = batch()
    by_layer, voting = moa(), moa(inference="vote")
    by_layer(**inputs)
    named = decisions(by_layer)
    counts = [[(named[:, row] == i).sum().item() for i in range(3)] for row in range(len(ROWS))]
    elected = torch.tensor([count.index(max(count)) for count in counts])
    assert any(len(named[:, row].unique()) > 1 for row in range(len(ROWS))), "no layer disagrees"
    logits = voting(**inputs).logits
    assert torch.equal(decisions(voting), elected.expand(4, -1))
    # In training mode, without dropout, each row takes the expert that it is told.
    told = moa(dropout=0.0, dropout_on="none").train()
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[real], told(**inputs, domain=elected).logits[real])


@pytest.mark.parametrize("inference", ["per_layer", "vote", "soft"])
def test_transformers_own_load_adapter_routes_alike(inference, tmp_path):
    model = moa(inference=inference)
    model.save_pretrained(tmp_path)
    plain = mosld.load_base("tiny")[0]
    plain.load_adapter(str(tmp_path))
    assert torch.equal(greedy(plain.eval(), **batch()), greedy(model, **batch()))


def test_a_second_adapter_of_transformers_own_load_adapter_votes(tmp_path):
    """Transformers makes a tuner for each adapter; their layers are told of one and the same pass."""
    by_layer, voting = moa(), moa(inference="vote")
    by_layer.save_pretrained(tmp_path / "by_layer")
    voting.save_pretrained(tmp_path / "vote")
    plain = mosld.load_base("tiny")[0]
    plain.load_adapter(str(tmp_path / "by_layer"), "first")
    plain.load_adapter(str(tmp_path / "vote"), "second")
    plain.set_adapter("second")
    assert torch.equal(plain.eval()(**batch()).logits, voting(**batch()).logits)


def test_a_prompt_mask_is_of_its_own_forward_alone():
    model, ids = moa(dropout=0.0, dropout_on="none"), torch.tensor(ROWS[:1])
    wanted = greedy(model, input_ids=ids)
    inside = torch.tensor([[1, 0, 0, 0, 0, 0, 0]])
    model.train()(input_ids=ids, labels=ids, domain=torch.tensor([0]), prompt_mask=inside)
    assert torch.equal(greedy(model.eval(), input_ids=ids), wanted)


def test_checkpointing_runs_the_layers_again_with_the_same_domains_and_prompts():
    ids, gradients = torch.tensor([[5, 6, 7, 8], [25, 26, 27, 28]]), []
    for checkpointing in (False, True):
        model = moa(dropout=0.0, dropout_on="none").train()
        if checkpointing:
            model.enable_input_require_grads()
            model.base_model.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        inside = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
        model(input_ids=ids, labels=ids, domain=torch.tensor([2, 1]), prompt_mask=inside).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)
