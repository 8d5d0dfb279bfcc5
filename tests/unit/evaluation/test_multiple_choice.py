"""Multiple choice by likelihood: packed options against one forward pass per option; batches, order and padding."""

import copy
from collections.abc import Sequence

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mosld.adapters.load import Model
from mosld.data.rows import Row
from mosld.data.tokens.prompts import Encoded, PromptEncoder
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.multiple_choice import ChoicePrediction, score_choices
from mosld.evaluation.packing import batches, pack, pack_shared_prefix, shared_prefix_length
from mosld.models.attention import resolve_attention
from tests.helpers.methods import BY_NAME

PAD = 259


def rows(count: int = 9) -> list[Row]:
    names = ["an apple", "a very long answer indeed", "no", "the third of them", "five"]
    return [
        Row("arc_e", f"row{i}", "A passage. " * (i % 3), f"What is number {i}?", tuple(names[: 2 + i % 4]), i % 2)
        for i in range(count)
    ]


@pytest.fixture
def model() -> Model:
    return BY_NAME["mosld"].adapted()


def one_by_one(model: Model, encoded: Encoded) -> list[float]:
    """Each option in a sequence of its own, unpadded, all logits, log-softmax summed over its tokens."""
    scores = []
    for option in encoded.options:
        tokens = torch.tensor([encoded.prompt + option])
        with torch.no_grad():
            log_probs = model(input_ids=tokens).logits[0].log_softmax(-1)
        start = len(encoded.prompt)
        scores.append(sum(log_probs[i - 1, tokens[0, i]].item() for i in range(start, tokens.shape[1])))
    return scores


def largest_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return max(abs(a - b) for a, b in pairs)


def rounding_bound(model: Model, questions: Sequence[Encoded]) -> float:
    """How far two fp32 scores of these questions may lie apart: 16 times the fp32 error of the naive passes.

    That error is measured on this CPU against the same weights in fp64. Another order of the same sums has an error of
    the same size, two of them differ by twice that, and 8 is for the luck of the measured one.
    """
    exact = copy.deepcopy(model).double()
    naive = [one_by_one(model, question) for question in questions]
    return 16 * largest_difference(naive, [one_by_one(exact, question) for question in questions])


@pytest.mark.parametrize("style", ["cloze", "list", "letter"])
@pytest.mark.parametrize("batch_tokens", [1, 700])
def test_packed_scores_equal_one_forward_pass_per_option(model, tokenizer, style, batch_tokens):
    encoded = PromptEncoder(tokenizer, style).encode(rows())
    scores = [prediction.scores for prediction in score_choices(model, encoded, PAD, batch_tokens)]
    naive = [one_by_one(model, question) for question in encoded]
    assert largest_difference(scores, naive) <= rounding_bound(model, encoded)


LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SHAPES = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "opt": {**LAYERS, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "gemma2": {**LAYERS, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "gemma3_text": {**LAYERS, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16, "num_hidden_layers": 6},
    "lfm2": {**LAYERS, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    "phi": LAYERS,
    "gpt_neox": LAYERS,
}  # fmt: skip


@pytest.mark.parametrize("architecture", SHAPES)
def test_scores_of_any_architecture_equal_one_forward_pass_per_option(architecture, tokenizer):
    config = AutoConfig.for_model(
        architecture, vocab_size=260, bos_token_id=256, eos_token_id=257, pad_token_id=PAD, **SHAPES[architecture]
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=resolve_attention("auto", config)).eval()
    # Larger than the usual deviation of .02, so that what a token attends to shows in its logits.
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows())
    scores = [prediction.scores for prediction in score_choices(model, encoded, PAD, 700)]
    naive = [one_by_one(model, question) for question in encoded]
    assert largest_difference(scores, naive) <= rounding_bound(model, encoded)


@pytest.mark.parametrize("style", ["cloze", "letter"])
def test_neither_batch_size_nor_order_changes_a_score_or_prediction_in_fp32(style, model, tokenizer):
    encoded = PromptEncoder(tokenizer, style).encode(rows())
    bound = rounding_bound(model, encoded)
    reference = score_choices(model, encoded, PAD, 1)
    # No question is nearly tied, as a whole or per character, so that rounding cannot change a prediction.
    assert min(margin for prediction in reference for margin in margins(prediction)) > bound
    for others in (score_choices(model, encoded, PAD, 5000), score_choices(model, encoded[::-1], PAD, 300)[::-1]):
        assert largest_difference([p.scores for p in others], [p.scores for p in reference]) <= bound
        assert [(p.id, p.prediction, p.normalised) for p in others] == [
            (p.id, p.prediction, p.normalised) for p in reference
        ]


def margins(prediction: ChoicePrediction) -> list[float]:
    """How far the best option lies above the second, as a whole and per character."""
    (row,) = [row for row in rows() if row.id == prediction.id]
    per_character = [score / len(choice) for score, choice in zip(prediction.scores, row.choices, strict=True)]
    return [sorted(scores)[-1] - sorted(scores)[-2] for scores in (prediction.scores, per_character)]


def test_a_model_in_training_mode_is_scored_in_eval_mode_and_left_in_training_mode(model, tokenizer):
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows(3))
    expected = score_choices(model.eval(), encoded, PAD, 700)
    assert score_choices(model.train(), encoded, PAD, 700) == expected
    assert model.training


def test_options_of_one_token_add_no_token_to_their_prompt(tokenizer):
    encoded = PromptEncoder(tokenizer, "letter").encode(rows(1))
    # The byte tokenizer has two tokens for an option (space and letter), of which all options share the space.
    shortened = Encoded(encoded[0].row, [*encoded[0].prompt, 5], [[6], [7]])
    packed = pack(shortened)
    assert packed.tokens == shortened.prompt
    assert packed.scored_positions == [len(shortened.prompt) - 1]


def test_logits_are_computed_only_where_a_token_is_scored(model, tokenizer):
    positions, forward = [], model.base_model.model.lm_head.forward
    model.base_model.model.lm_head.forward = lambda x: positions.append(x.shape[:-1].numel()) or forward(x)
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows())
    score_choices(model, encoded, PAD, 700)
    assert sum(positions) == sum(1 + sum(len(option) - 1 for option in e.options) for e in encoded)


@pytest.mark.parametrize("budget", [500, 1600])
def test_batches_hold_every_question_once_within_the_token_budget_with_few_pads(budget, tokenizer):
    packed = [pack(e) for e in PromptEncoder(tokenizer, "cloze").encode(rows(40))]
    made = list(batches(packed, budget))
    assert sorted(id(q) for batch in made for q in batch) == sorted(map(id, packed))
    for batch in made:
        longest = max(q.length for q in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
        assert sum(longest - q.length for q in batch) <= budget // 32


@pytest.fixture
def alike(tokenizer) -> list[Encoded]:
    """Seven questions about two passages, of two tasks, in mixed order; an eighth begins as no other."""
    passages = ["A long story about a boat. " * 4, "Another tale, of a hill. " * 3]
    listed = [
        Row("race" if i < 6 else "mctest", f"row{i}", passages[i % 2], f"What is {i}?", ("yes", "no", "a boat"), i % 3)
        for i in range(7)
    ]
    return PromptEncoder(tokenizer, "list").encode([*listed, Row("race", "row7", "", "Is it?", ("yes", "no"), 0)])


def test_questions_of_one_task_with_a_common_beginning_are_packed_together(alike):
    packed = pack_shared_prefix(alike, 2000)
    assert sorted(sorted(q.row.id for q in p.questions) for p in packed) == [
        ["row0", "row2", "row4"], ["row1", "row3", "row5"], ["row6"], ["row7"],
    ]  # fmt: skip
    for one in packed:
        shared = shared_prefix_length(one.questions)
        assert one.length == sum(pack(q).length for q in one.questions) - shared * (len(one.questions) - 1)


def test_questions_packed_together_stay_within_the_token_budget(alike):
    alone = max(pack(q).length for q in alike)
    assert [len(p.questions) for p in pack_shared_prefix(alike, alone)] == [1] * 8
    two = max(pack(alike[i], alike[i + 2]).length for i in range(4))
    assert max(len(p.questions) for p in pack_shared_prefix(alike, two)) == 2
    assert all(p.length <= two for p in pack_shared_prefix(alike, two))


def test_questions_packed_together_have_at_most_2048_tokens_whatever_the_budget(alike):
    many = [Encoded(alike[0].row, [*range(2000), 3000 + i, 0], [[7], [8]]) for i in range(50)]
    assert [p.length for p in pack_shared_prefix(many, 10**6)] == [2048, 2048, 2004]


def test_a_prompt_that_is_the_beginning_of_another_keeps_one_token_of_its_own(alike):
    prompts = [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]]
    same = [Encoded(alike[0].row, prompt, [[7, 8], [9]]) for prompt in prompts]
    assert shared_prefix_length(same) == 2
    packed = pack(*same)
    assert packed.tokens == [1, 2, 3, 7, 3, 4, 7, 3, 4, 7]
    assert packed.positions == [0, 1, 2, 3, 2, 3, 4, 2, 3, 4]
    assert packed.scored_positions == [2, 3, 5, 6, 8, 9]


@pytest.mark.parametrize("method", ["mosld", "sira", "moa", "prefix"])
def test_questions_packed_together_score_as_one_option_at_a_time(method, alike):
    model = BY_NAME[method].adapted()
    scores = [prediction.scores for prediction in score_choices(model, alike, PAD, 2000)]
    if method == "moa":
        # The options of a naive pass would take part in choosing the expert.
        naive = [score_choices(model, [question], PAD, 1)[0].scores for question in alike]
    else:
        naive = [one_by_one(model, question) for question in alike]
    assert largest_difference(scores, naive) <= rounding_bound(model, alike)


def test_expert_use_counts_shared_tokens_for_every_question(model, alike):
    # In fp64, where rounding is too small to change which experts a token takes.
    model.double()
    alone, together = ExpertUse(), ExpertUse()
    score_choices(model, alike, PAD, 1, expert_use=alone)
    score_choices(model, alike, PAD, 2000, expert_use=together)
    assert alone.table().keys() == {"race", "mctest"}
    for task, modules in alone.table().items():
        for module, expected in modules.items():
            found = together.table()[task][module]
            assert (found["tokens"], found["share"]) == (expected["tokens"], expected["share"])
            # The mean of a thousand gates, summed in fp32 (sqrt(1000) * 2**-24 = 2e-6) and rounded to six digits.
            assert found["weight"] == pytest.approx(expected["weight"], abs=1e-5)
