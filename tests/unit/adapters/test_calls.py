"""Nothing outlives the call it belongs to: requests give what each gives alone, and masks end with their forward."""

import copy
import pickle
import threading

import pytest
import torch
from transformers import DataCollatorWithFlattening, DynamicCache

import mosld
from tests.helpers.methods import BY_NAME
from tests.helpers.toy_runs import disagreeing_moa

INFERENCES = ["per_layer", "vote", "soft"]
FIRST, SECOND = torch.arange(20, 32)[None], torch.arange(140, 149)[None]
NEXT = torch.tensor([[77]])


@torch.no_grad()
def ask(model, ids, cache):
    return model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]


def filled(model, ids=FIRST):
    cache = DynamicCache()
    ask(model, ids, cache)
    return cache


def between(model):
    """Another request, of another batch size."""
    filled(model, SECOND.repeat(3, 1))


@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize(
    "follow",
    [
        lambda cache: cache,
        copy.deepcopy,
        lambda cache: pickle.loads(pickle.dumps(cache)),
    ],
    ids=["itself", "copied", "pickled"],
)
def test_a_request_goes_on_as_alone_whatever_ran_between(inference, follow):
    model = disagreeing_moa(inference=inference)
    alone = ask(model, NEXT, filled(model))
    assert not torch.equal(alone, ask(model, NEXT, filled(model, SECOND))), "the requests do not differ"
    cache = filled(model)
    between(model)
    assert torch.equal(ask(model, NEXT, follow(cache)), alone)


def select(rows):
    def change(cache):
        cache.batch_select_indices(torch.tensor(rows))
        return rows

    return change


def reorder(rows):
    def change(cache):
        cache.reorder_cache(torch.tensor(rows))
        return rows

    return change


def repeat(cache):
    cache.batch_repeat_interleave(2)
    return [0, 0, 1, 1]


@pytest.mark.parametrize("change", [select([1]), reorder([1, 0]), repeat], ids=["select", "reorder", "repeat"])
def test_experts_follow_the_rows_of_the_cache(change):
    model = disagreeing_moa()
    cache = filled(model, torch.cat([FIRST[:, :9], SECOND]))
    alone = [ask(model, NEXT, filled(model, ids)) for ids in (FIRST[:, :9], SECOND)]
    assert (alone[0] - alone[1]).abs().max() > 0.1
    rows = change(cache)
    answers = ask(model, NEXT.repeat(len(rows), 1), cache)
    torch.testing.assert_close(answers, torch.cat([alone[row] for row in rows]), rtol=1e-5, atol=1e-5)


def test_a_cache_that_another_model_filled_is_refused():
    model = disagreeing_moa()
    with model.disable_adapter():
        cache = filled(model)
    with pytest.raises(ValueError, match="past_key_values holds no expert"):
        ask(model, NEXT, cache)


def answer(model, ids, **options):
    fixed = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 259}
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **fixed | options)


@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"prefill_chunk_size": 4},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=str,
)
def test_generate_gives_the_same_answer_in_every_way(options, inference):
    model = disagreeing_moa(inference=inference)
    assert torch.equal(answer(model, FIRST, **options), answer(model, FIRST))


@pytest.mark.parametrize("inference", INFERENCES)
def test_guidance_equals_two_models(inference):
    model, other = disagreeing_moa(inference=inference), disagreeing_moa(inference=inference)
    ids, caches = FIRST, [DynamicCache(), DynamicCache()]
    new = [FIRST, SECOND]
    for _ in range(8):
        scores = [ask(*parts).log_softmax(-1) for parts in zip((model, other), new, caches, strict=True)]
        following = (1.5 * (scores[0] - scores[1]) + scores[1]).argmax(-1, keepdim=True)
        ids, new = torch.cat([ids, following], dim=1), [following, following]
    assert torch.equal(answer(model, FIRST, guidance_scale=1.5, negative_prompt_ids=SECOND), ids)


def test_threads_answer_as_alone():
    model = disagreeing_moa()
    prompts = [FIRST, SECOND, SECOND.flip(1)]
    alone, answers = [answer(model, ids) for ids in prompts], {}

    def work(i):
        answers[i] = [answer(model, prompts[i]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(ids, alone[i]) for i in range(3) for ids in answers[i])


def test_a_copy_of_a_model_generates_by_itself():
    model = disagreeing_moa()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(answer(copied, FIRST), answer(disagreeing_moa(), FIRST))


PADDED = {"input_ids": torch.arange(20, 40).view(2, 10), "attention_mask": (torch.arange(10) > 5).long().repeat(2, 1)}
LATER = torch.arange(60, 80).view(2, 10)


def run_padded(model):
    model(**PADDED)


def fail(model):
    hook = model.get_decoder().layers[2].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**PADDED)
    hook.remove()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("before", [run_padded, fail])
@pytest.mark.parametrize("method", ["moa", "sira", "mosl", "mixlora"])
def test_a_decoder_called_alone_does_not_see_the_masks_of_the_pass_before(method, before, training):
    row = BY_NAME[method]
    model = row.adapted(method=method).train(training)
    decoder = model.get_base_model().model

    def states():
        torch.manual_seed(0)
        return decoder(input_ids=LATER).last_hidden_state

    alone = states()
    before(model)
    assert torch.equal(states(), alone)
    assert decoder(input_ids=LATER[:1, :7]).last_hidden_state.shape[1] == 7


def test_a_decoder_called_alone_sees_its_own_mask():
    model = disagreeing_moa()
    whole = model(**PADDED, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(model.get_base_model().model(**PADDED).last_hidden_state, whole)


def test_checkpointed_passes_of_one_backward_keep_their_own_masks():
    """SiRA's experts have room for the tokens of the mask: with another mask, other tokens are turned away."""
    gradients = []
    for checkpointing in (False, True):
        model = mosld.adapt(mosld.load_base("tiny")[0], "sira", seed=0, gate_dropout=0.0, dropout=0.0).train()
        with torch.no_grad():
            torch.manual_seed(1)
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.add_(0.1 * torch.randn_like(parameter))
        if checkpointing:
            model.enable_input_require_grads()
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        masks = PADDED["attention_mask"], torch.ones_like(LATER)
        losses = [model(input_ids=LATER, attention_mask=mask, labels=LATER).loss for mask in masks]
        sum(losses).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        assert model.base_model.context.current is None
    torch.testing.assert_close(*gradients)


def test_rows_laid_end_to_end_are_refused():
    rows = [{"input_ids": ids[0].tolist(), "labels": ids[0].tolist()} for ids in (FIRST, SECOND)]
    batch = DataCollatorWithFlattening()(rows)
    batch = {key: torch.as_tensor(batch[key]) for key in ("input_ids", "position_ids")}
    with pytest.raises(ValueError, match="position_ids start anew"):
        disagreeing_moa()(**batch, use_cache=False)
