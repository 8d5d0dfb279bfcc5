"""Growing a trained mixture: closed gates change nothing and open in training; dropped and replaced experts; LoRAs."""

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch.testing import assert_close

import mosld
from mosld.common.errors import UserError
from mosld.exporting.standalone import write_standalone
from tests.helpers.methods import BY_NAME, ROUTED, Row, over

INPUT = {
    "input_ids": torch.tensor([[259, 259, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]),
}
RANK = 8
GROWN = [
    *ROUTED,
    Row("mosl", {"allocation": [4, 3, 2, 2]}),
    Row("mosl", {"share": "B"}),
    Row("mosl", {"targets": "block", "share": "none"}),
    Row("molora", {"top_k": 2}),
    Row("mola", {"allocation": 1, "top_k": 1}),
    Row("mixlora", {"experts": [4, 3, 2, 2]}),
    *(Row("moa", {"domains": ["a", "b"], "inference": kind}, domain=True) for kind in ("vote", "soft")),
    Row("moa", {"domains": ["a", "b"], "targets": "all", "pool": "last"}, domain=True),
]


def logits(model):
    with torch.no_grad():
        return model.eval()(**INPUT).logits


def grown(model, row, count=1):
    return mosld.grow(model, count, domains=["c", "d"][:count] if "domains" in row.options else [], seed=3)


def by_expert(model):
    """By weight, the parts of its experts in their order; of a shared weight, the whole."""
    config = model.peft_config["default"]
    parts = {}
    for name, weight in get_peft_model_state_dict(model).items():
        single = any(f".{module}." in name for module in config.plain_modules)
        leaf = name.rpartition(".")[2]
        if single or leaf == config.share or (config.share == "both" and leaf in "AB"):
            parts[name] = [weight.clone()]
        elif leaf in ("weight", "bias"):
            parts[name] = [row.clone() for row in weight]
        else:
            parts[name] = [part.clone() for part in weight.split(config.r, dim=int(leaf == "B"))]
    return parts


def gates(model):
    """By module, the eval-mode gates of all real tokens."""
    with model.base_model.context.recording() as routings:
        logits(model)
    mask = INPUT["attention_mask"].bool()
    return {key: one.gates_BSE.expand(2, 6, -1)[mask] for key, one in routings.items()}


@over(GROWN)
@pytest.mark.parametrize("count", [1, 2])
def test_a_closed_gate_changes_no_bit(row, count, tmp_path):
    model = row.adapted()
    before, experts = logits(model), by_expert(model)
    answers = model.generate(**INPUT, max_new_tokens=4, do_sample=False)
    grown(model, row, count)
    assert torch.equal(logits(model), before)
    assert torch.equal(model.generate(**INPUT, max_new_tokens=4, do_sample=False), answers)
    assert not any(gate[:, -count:].any() for gate in gates(model).values())
    now = by_expert(model)
    for name, parts in experts.items():
        shared_or_single = len(now[name]) == len(parts)
        assert len(now[name]) == len(parts) + (0 if shared_or_single else count)
        assert all(torch.equal(a, b) for a, b in zip(now[name], parts, strict=False)), name
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(row.base(), tmp_path)
    assert torch.equal(logits(loaded), before)


@pytest.mark.parametrize(
    ("row", "experts"),
    [(Row("hydralora", {"allocation": 3}), 4), (Row("mosl", {"allocation": [4, 3, 2, 2]}), [5, 4, 3, 3])],
)
def test_adapt_grows_a_trained_mixture_to_a_number_of_experts(row, experts):
    model = row.adapted()
    before = logits(model)
    assert mosld.adapt(model, experts=experts) is model
    assert model.peft_config["default"].experts == experts
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("experts", [3, 2, [4, 3, 2], "4", [4, 4, 4, 4]])
def test_adapt_grows_to_no_smaller_or_other_number(experts):
    model = Row("hydralora", {"allocation": 3}).adapted()
    with pytest.raises(UserError, match="the trained mixture has 3"):
        mosld.adapt(model, experts=experts)


@over(GROWN)
def test_without_the_gate_a_new_expert_would_change_the_outputs(row):
    model = row.adapted()
    before = logits(model)
    grown(model, row, 2)
    model.peft_config["default"].grown = 0
    assert not torch.equal(logits(model), before)


def train(row, model, steps):
    """With the last domain for the second row, where experts have domains."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    last = len(model.peft_config["default"].domains or []) - 1
    domain = {"domain": torch.tensor([0, last])} if row.domain else {}
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**row.inputs() | domain).loss.backward()
        optimizer.step()


@over(GROWN)
def test_training_opens_the_gate(row):
    model = row.adapted()
    train(row, model, 1)  # the load is counted for as many experts as there are
    before = logits(grown(model, row))
    train(row, model, 8)
    assert not torch.equal(logits(model), before)
    own = {"B": "A", "both": "M"}.get(model.peft_config["default"].share, "B")
    new = [parts[-1] for name, parts in by_expert(model).items() if name.endswith(f".{own}") and len(parts) > 1]
    assert any(part.any() for part in new)
    assert any(gate[:, -1].any() for gate in gates(model).values())


@pytest.mark.parametrize("name", ["mosld", "mola", "moa", "mixlora"])
def test_dropping_the_grown_expert_gives_the_first_mixture_back(name):
    row = BY_NAME[name]
    model = row.adapted()
    before, experts, config = logits(model), by_expert(model), model.peft_config["default"].to_dict()
    mosld.drop_expert(grown(model, row), "c" if row.domain else -1)
    assert model.peft_config["default"].to_dict() == config
    assert torch.equal(logits(model), before)
    now = by_expert(model)
    assert all(torch.equal(a, b) for name in now for a, b in zip(now[name], experts[name], strict=True))


def experts_for_each_layer(name):
    if name in ("smora", "flylora"):
        return {"experts": [4, 4, 3, 3], "top_k": 2}
    return {} if name in ("moa", "mixlora") else {"allocation": [4, 4, 3, 3]}


@over([Row(row.name, row.options | experts_for_each_layer(row.name))
       for row in (*ROUTED, Row("mosl", {"share": "B"}))])  # fmt: skip
def test_a_dropped_expert_leaves_the_others(row):
    model = row.adapted()
    experts = by_expert(model)
    mosld.drop_expert(model, "b" if row.name == "moa" else 1)
    for name, parts in by_expert(model).items():
        wanted = experts[name] if len(experts[name]) == 1 else [experts[name][0], *experts[name][2:]]
        assert all(torch.equal(a, b) for a, b in zip(parts, wanted, strict=True)), name
    assert logits(model).isfinite().all()


def test_outputs_without_an_expert_are_those_with_its_gate_out_of_the_sum():
    """Dense gates: ``softmax`` over the others, which a large constant less in one logit gives, too."""
    model = Row("molora", {"allocation": 4}).adapted()
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    mixture, x = layer.mosld_mixture["default"], torch.randn(1, 5, layer.in_features)
    with torch.no_grad():
        logits_E = x @ mixture.router.weight.T
        logits_E[..., 1] = -torch.inf
        pairs = zip(mixture.A.split(RANK), mixture.B.split(RANK, dim=1), logits_E.softmax(-1).unbind(-1), strict=True)
        wanted = layer.base_layer(x) + 2 * sum(gate.unsqueeze(-1) * (x @ A.T @ B.T) for A, B, gate in pairs)
        mosld.drop_expert(model, 1)
        assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


def lora(folder, seed=0, **options):
    options = {"targets": "qv", "rank": RANK, "alpha": 16.0} | options
    model = Row("lora", options).adapted()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder, model


TAKERS = [
    ("mola", {"allocation": 3}),
    ("molora", {"allocation": 3}),
    ("moa", {"domains": ["a", "b", "c"]}),
]


@pytest.mark.parametrize(("method", "options"), TAKERS)
@pytest.mark.parametrize("alpha", [16.0, 4.0])
def test_loras_become_experts_in_their_order(method, options, alpha, tmp_path):
    folders = {name: str(lora(tmp_path / name, seed, alpha=alpha)[0]) for seed, name in enumerate("abc")}
    model = mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, experts_from=folders, **options)
    states = [get_peft_model_state_dict(lora(tmp_path / "same", seed, alpha=alpha)[1]) for seed in range(3)]
    for name, parts in by_expert(model).items():
        layer, _, leaf = name.partition(".mosld_mixture.")
        for part, state in zip(parts, states, strict=True):
            if leaf != "router.weight":
                scale = 1 if leaf == "A" else alpha / 16
                assert torch.equal(part, scale * state[f"{layer}.lora_{leaf}.weight"])


@pytest.mark.parametrize(("method", "options"), TAKERS)
def test_three_times_one_lora_is_that_lora(method, options, tmp_path):
    """The gates sum to 1."""
    folder, alone = lora(tmp_path / "a", alpha=4.0)
    folders = dict.fromkeys("abc", str(folder))
    model = mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, experts_from=folders, **options)
    assert_close(logits(model), logits(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "expert"), [("mola", 1), ("molora", 0), ("moa", "b")])
def test_an_expert_is_replaced_by_a_lora_in_place(name, expert, tmp_path):
    folder, alone = lora(tmp_path)
    model = BY_NAME[name].adapted()
    experts, state = by_expert(model), get_peft_model_state_dict(alone)
    mosld.replace_expert(model, expert, folder)
    index = 1 if expert == "b" else expert
    for key, parts in by_expert(model).items():
        layer, _, leaf = key.partition(".mosld_mixture.")
        wanted = list(experts[key])
        if leaf != "router.weight":
            wanted[index] = state[f"{layer}.lora_{leaf}.weight"]
        assert all(torch.equal(a, b) for a, b in zip(parts, wanted, strict=True)), key


def test_a_mixture_grows_by_loras(tmp_path):
    row = Row("mola", {"allocation": [4, 3, 2, 2]})
    model, (folder, alone) = row.adapted(), lora(tmp_path)
    before, state = logits(model), get_peft_model_state_dict(alone)
    mosld.grow(model, loras=[folder])
    assert not torch.equal(logits(model), before)
    for key, parts in by_expert(model).items():
        layer, _, leaf = key.partition(".mosld_mixture.")
        assert leaf == "router.weight" or torch.equal(parts[-1], state[f"{layer}.lora_{leaf}.weight"])


def test_a_replaced_expert_without_a_lora_is_the_last_and_closed():
    row = Row("mosld", {"allocation": 3})
    model, other = row.adapted(), row.adapted()
    mosld.replace_expert(model, 0, seed=1)
    assert torch.equal(logits(model), logits(mosld.drop_expert(other, 0)))
    assert (model.peft_config["default"].experts, other.peft_config["default"].experts) == (3, 2)


@pytest.mark.parametrize(
    ("method", "options", "call", "message"),
    [
        ("lora", {}, lambda model, _: mosld.grow(model), "carries no mixture"),
        ("mosld", {}, lambda model, _: mosld.grow(model, 0), "experts=0: at least one"),
        ("mosld", {}, lambda model, _: mosld.grow(model, domains=["c"]), "experts have none"),
        ("mosld", {}, lambda model, folder: mosld.grow(model, loras=[folder]), "share no A"),
        ("mosld", {}, lambda model, folder: mosld.replace_expert(model, 0, folder), "share no A"),
        ("mixlora", {}, lambda model, folder: mosld.grow(model, loras=[folder]), "share no A"),
        ("mosld", {}, lambda model, _: mosld.drop_expert(model, 0), "leaves 1 experts in a layer, and top_k=2"),
        ("mosld", {}, lambda model, _: mosld.drop_expert(model, 2), "expert=2: is none of .*0 to 1"),
        ("moa", {"domains": ["a", "b"]}, lambda model, _: mosld.grow(model), "needs a name"),
        ("moa", {"domains": ["a", "b"]}, lambda model, _: mosld.grow(model, domains=["b"]), "twice.*a, b, b"),
        ("moa", {"domains": ["a", "b"]}, lambda model, _: mosld.drop_expert(model, "c"), "expert=c.*: a, b"),
        ("mola", {"rank": 4}, lambda model, folder: mosld.grow(model, loras=[folder]), "has rank 8, the mixture 4"),
        ("mola", {"targets": "all"}, lambda model, folder: mosld.grow(model, loras=[folder]), "no LoRA for"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_and_leaves_the_model(method, options, call, message, tiny, tmp_path):
    model = mosld.adapt(tiny, method, seed=0, **options)
    before = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    logits_before = logits(model)
    with pytest.raises(UserError, match=message):
        call(model, lora(tmp_path)[0])
    assert {name: tuple(weight.shape) for name, weight in model.named_parameters()} == before
    assert torch.equal(logits(model), logits_before)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mola", {"allocation": 3}, r"names 2 LoRAs, and allocation.experts=3; set allocation.experts=2"),
        ("mosld", {"allocation": 2}, "needs method.share=none"),
        ("sira", {"allocation": 2}, "takes no ready LoRAs"),
        ("lora", {}, "experts_from"),
        ("mola", {"allocation": 2, "rank": 4}, "has rank 8, the mixture 4"),
        ("mola", {"allocation": 2, "targets": "attention"}, "no LoRA for .*k_proj"),
    ],
)
def test_loras_that_do_not_fit_are_refused(method, options, message, tiny, tmp_path):
    folder = str(lora(tmp_path)[0])
    before = dict(tiny.named_modules()).keys()
    with pytest.raises(UserError, match=message):
        mosld.adapt(tiny, method, experts_from={"a": folder, "b": folder}, **options)
    assert dict(tiny.named_modules()).keys() == before


@over([BY_NAME["mosld"], BY_NAME["mixlora"]])
def test_a_closed_expert_is_not_exported_as_an_open_one(row, tmp_path):
    base, tokenizer = mosld.load_base("tiny")
    model = grown(row.adapted(base=base), row)
    with pytest.raises(UserError, match="gates are closed"):
        write_standalone(model, tokenizer, tmp_path)
    train(row, model, 8)
    for weight in model.parameters():
        if weight.requires_grad:  # a block that no token took stays closed
            weight.data += 0.01
    write_standalone(model.eval(), tokenizer, tmp_path)
