"""Packed scoring against one forward pass per option; batches, order and padding."""

import pytest
import torch

import mosld
from mosld.data.prompts import Encoded, PromptEncoder
from mosld.data.rows import Row
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.multiple_choice import score_choices
from mosld.evaluation.packing import batches, common, pack, pack_shared_prefix
from mosld.evaluation.scores import task_score


def rows(count=9):
    names = ["an apple", "a very long answer indeed", "no", "the third of them", "five"]
    return [
        Row("arc_e", f"row{i}", "A passage. " * (i % 3), f"What is number {i}?", tuple(names[: 2 + i % 4]), i % 2)
        for i in range(count)
    ]


@pytest.fixture
def model():
    made = mosld.adapt(mosld.load_base("tiny")[0], "mosld", seed=0)
    with torch.no_grad():
        [p.add_(torch.randn_like(p) * 0.1) for p in made.parameters() if p.requires_grad]
    return made.eval()


def one_by_one(model, encoded: Encoded) -> list[float]:
    """Each option in a sequence of its own, unpadded, all logits, log-softmax summed over its tokens."""
    scores = []
    for option in encoded.options:
        tokens = torch.tensor([encoded.prompt + option])
        with torch.no_grad():
            log_probs = model(input_ids=tokens).logits[0].log_softmax(-1)
        start = len(encoded.prompt)
        scores.append(sum(log_probs[i - 1, tokens[0, i]].item() for i in range(start, tokens.shape[1])))
    return scores


@pytest.mark.parametrize("style", ["cloze", "list", "letter"])
@pytest.mark.parametrize("batch_tokens", [1, 700])
def test_packed_scores_equal_one_forward_pass_per_option(model, tokenizer, style, batch_tokens):
    encoded = PromptEncoder(tokenizer, style).encode(rows())
    for question, prediction in zip(encoded, score_choices(model, encoded, 259, batch_tokens), strict=True):
        assert prediction.scores == pytest.approx(one_by_one(model, question), abs=1e-4)


def test_scores_depend_neither_on_batch_size_nor_on_order_in_fp32(model, tokenizer):
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows())
    reference = {p.id: p for p in score_choices(model, encoded, 259, 1)}
    for found in (score_choices(model, encoded, 259, 5000), score_choices(model, encoded[::-1], 259, 300)):
        for prediction in found:
            assert prediction.scores == pytest.approx(reference[prediction.id].scores, abs=2e-5)
            assert prediction.prediction == reference[prediction.id].prediction


def test_scoring_is_in_eval_mode_and_restores_the_mode(model, tokenizer):
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows(3))
    wanted = score_choices(model.eval(), encoded, 259, 700)
    assert score_choices(model.train(), encoded, 259, 700) == wanted
    assert model.training


def test_letters_need_one_forward_position_and_no_packed_token(tokenizer):
    encoded = PromptEncoder(tokenizer, "letter").encode(rows(1))
    # Two bytes (space and letter) with the byte tokenizer, of which all options share the space.
    shortened = Encoded(encoded[0].row, [*encoded[0].prompt, 5], [[6], [7]])
    packed = pack(shortened)
    assert packed.tokens == shortened.prompt
    assert packed.sites == [len(shortened.prompt) - 1]


def test_batches_hold_every_question_once_within_the_token_budget(tokenizer):
    packed = [pack(e) for e in PromptEncoder(tokenizer, "cloze").encode(rows(20))]
    made = list(batches(packed, 500))
    assert sorted(id(q) for batch in made for q in batch) == sorted(map(id, packed))
    assert all(len(batch) == 1 or max(len(q.tokens) for q in batch) * len(batch) <= 500 for batch in made)


def test_an_answer_of_text_is_compared_per_character_and_a_letter_is_not(model, tokenizer):
    found = score_choices(model, PromptEncoder(tokenizer, "cloze").encode(rows()), 259, 700)
    letters, texts = task_score(rows(), found, "letter"), task_score(rows(), found, "cloze")
    assert letters["accuracy"] == sum(p.correct for p in found) / 9 == texts["accuracy_raw"]
    assert texts["accuracy"] == sum(p.normalised_correct for p in found) / 9
    for row, prediction in zip(rows(), found, strict=True):
        per_character = [s / len(c) for s, c in zip(prediction.scores, row.choices, strict=True)]
        assert prediction.normalised == per_character.index(max(per_character))


def test_a_batch_has_few_pads(tokenizer):
    packed = [pack(e) for e in PromptEncoder(tokenizer, "cloze").encode(rows(40))]
    for batch in batches(packed, 1600):
        longest = max(q.length for q in batch)
        assert sum(longest - q.length for q in batch) <= 50  # a 32nd


def test_logits_are_made_where_a_token_is_to_be_predicted_and_nowhere_else(model, tokenizer):
    made, real = [], model.base_model.model.lm_head.forward
    model.base_model.model.lm_head.forward = lambda hidden: made.append(hidden.shape[:-1].numel()) or real(hidden)
    encoded = PromptEncoder(tokenizer, "cloze").encode(rows())
    score_choices(model, encoded, 259, 700)
    assert sum(made) == sum(1 + sum(len(option) - 1 for option in e.options) for e in encoded)


@pytest.fixture
def alike(tokenizer):
    """Seven questions about two passages, of two tasks, in mixed order; an eighth begins as no other."""
    passages = ["A long story about a boat. " * 4, "Another tale, of a hill. " * 3]
    found = [
        Row("race" if i < 6 else "mctest", f"row{i}", passages[i % 2], f"What is {i}?", ("yes", "no", "a boat"), i % 3)
        for i in range(7)
    ]
    found.append(Row("race", "row7", "", "Is it?", ("yes", "no"), 0))
    return PromptEncoder(tokenizer, "list").encode(found)


def test_questions_that_begin_alike_are_packed_together(alike):
    packed = pack_shared_prefix(alike, 2000)
    assert sorted(id(q) for p in packed for q in p.questions) == sorted(map(id, alike))
    assert sorted(sorted(q.row.id for q in p.questions) for p in packed) == [
        ["row0", "row2", "row4"], ["row1", "row3", "row5"], ["row6"], ["row7"],
    ]  # fmt: skip
    for one in packed:
        shared = common(one.questions)
        alone = sum(pack(q).length for q in one.questions)
        assert one.length == alone - shared * (len(one.questions) - 1)


def test_no_more_are_packed_together_than_allowed(alike):
    alone = max(pack(q).length for q in alike)
    assert [len(p.questions) for p in pack_shared_prefix(alike, alone)] == [1] * 8
    two = max(pack(alike[i], alike[i + 2]).length for i in range(4))
    assert max(len(p.questions) for p in pack_shared_prefix(alike, two)) == 2
    assert all(p.length <= two for p in pack_shared_prefix(alike, two))


def test_a_sequence_does_not_grow_with_the_budget(alike):
    many = [Encoded(alike[0].row, [*range(1000), 2000 + i, 0], [[7], [8]]) for i in range(1200)]
    packed = pack_shared_prefix(many, 10**6)
    assert sum(len(p.questions) for p in packed) == 1200
    assert [p.length for p in packed] == [2048, 2048, 1304]


def test_the_first_of_prompts_that_are_each_other_s_beginning_keeps_a_token(alike):
    row, begins = alike[0].row, [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]]
    same = [Encoded(row, prompt, [[7, 8], [9]]) for prompt in begins]
    assert common(same) == 2
    packed = pack(*same)
    assert packed.tokens == [1, 2, 3, 7, 3, 4, 7, 3, 4, 7]
    assert packed.positions == [0, 1, 2, 3, 2, 3, 4, 2, 3, 4]
    assert packed.sites == [2, 3, 5, 6, 8, 9]


@pytest.mark.parametrize("method", ["mosld", "sira", "moa", "prefix"])
def test_questions_that_are_packed_together_score_as_one_option_at_a_time(method, alike, tokenizer):
    model = mosld.adapt(
        mosld.load_base("tiny")[0], method, seed=0, **({"domains": ["race", "mctest"]} if method == "moa" else {})
    )
    with torch.no_grad():
        [p.add_(torch.randn_like(p) * 0.1) for p in model.parameters() if p.requires_grad]
    found = score_choices(model, alike, 259, 2000)
    for question, prediction in zip(alike, found, strict=True):
        if method == "moa":
            [alone] = score_choices(model, [question], 259, 1)
            assert prediction.scores == pytest.approx(alone.scores, abs=1e-4)
        else:
            assert prediction.scores == pytest.approx(one_by_one(model.eval(), question), abs=1e-4)


def test_experts_of_shared_tokens_count_for_every_question(model, alike):
    tables = []
    for budget in (1, 2000):
        use = ExpertUse()
        score_choices(model, alike, 259, budget, use=use)
        tables.append(use.table())
    assert tables[0].keys() == tables[1].keys() == {"race", "mctest"}
    for task, modules in tables[0].items():
        for module, alone in modules.items():
            together = tables[1][task][module]
            assert together["tokens"] == alone["tokens"]
            assert together["share"] == pytest.approx(alone["share"], abs=1e-5)
            assert together["weight"] == pytest.approx(alone["weight"], abs=1e-5)
