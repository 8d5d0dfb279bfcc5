"""Mixtures on models that are no plain decoder of Llama's kind: other orders, depths, inputs and outputs."""

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch.nn.functional import rms_norm

from mosld.adapters import MosldConfig

IDS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]])
GPT = {"n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 32}
DEEP = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "max_position_embeddings": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 4, "num_heads": 2}
VIT = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}


def model_of(kind: str, model_type: str, **sizes):
    torch.manual_seed(0)
    tokens = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "intermediate_size": 24}
    config = transformers.AutoConfig.for_model(model_type, **tokens, **sizes)
    return getattr(transformers, kind)(config).eval()


def adapted(base, **options):
    torch.manual_seed(0)
    return get_peft_model(base, MosldConfig(**{"r": 2, "dropout": 0.0, "init_weights": False, "top_k": 1, **options}))


def opt():
    return model_of("OPTForCausalLM", "opt", **DEEP, word_embed_proj_dim=16, ffn_dim=24)


def gpt_j():
    return model_of("GPTJForCausalLM", "gptj", **GPT, rotary_dim=4)


@pytest.mark.parametrize(
    ("base", "targets"),
    [
        (opt, ["q_proj", "v_proj"]),
        (opt, ["k_proj", "q_proj", "v_proj", "out_proj", "fc1"]),
        (gpt_j, ["q_proj", "v_proj"]),
        (gpt_j, ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in"]),
    ],
)
def test_a_mixture_of_domains_decides_where_a_layer_runs_first(base, targets, tmp_path):
    """Attention of OPT and GPT-J defines k before q, and runs q first."""
    options = {"router": "domain", "domains": ["a", "b"], "experts": 2, "top_k": None, "share": "none"}
    model = adapted(base(), target_modules=targets, **options).eval()
    inputs, outputs = {}, {}
    layers = [module for name, module in model.named_modules() if name.endswith(("q_proj", "v_proj"))]

    def record(layer, args, output):
        inputs[layer.key], outputs[layer.key] = args[0], output

    for layer in layers:
        layer.register_forward_hook(record)
    logits = model(IDS).logits
    for layer in layers:
        attention = layer.key.rpartition(".")[0]
        router = next(p for name, p in model.named_parameters() if f".{layer.layer}." in name and "router" in name)
        pooled = inputs[f"{attention}.q_proj"].mean(1)
        experts = (rms_norm(pooled, pooled.shape[-1:]) @ router.T).argmax(-1).tolist()
        mixture = layer.mosld_mixture["default"]
        for x, output, expert in zip(inputs[layer.key], outputs[layer.key], experts, strict=True):
            part = slice(2 * expert, 2 * expert + 2)
            expected = layer.base_layer(x) + 8.0 * x @ mixture.A[part].T @ mixture.B[:, part].T
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(base(), tmp_path).eval()(IDS).logits, logits)
    cached = model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(
        cached, model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False, use_cache=False, pad_token_id=0)
    )
    model.train()(input_ids=IDS, labels=IDS, domain=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "router" in name)


@pytest.mark.parametrize(
    ("kind", "model_type", "sizes", "targets", "experts"),
    [
        ("GPTJForCausalLM", "gptj", GPT | {"rotary_dim": 4}, ["q_proj"], [2, 2, 3, 3]),
        (
            "BloomForCausalLM",
            "bloom",
            {"hidden_size": 16, "n_layer": 4, "n_head": 2},
            ["query_key_value"],
            [2, 2, 3, 3],
        ),
        ("OPTForCausalLM", "opt", DEEP | {"word_embed_proj_dim": 16, "ffn_dim": 24}, ["fc1"], [2, 2, 3, 3]),
        ("BertModel", "bert", DEEP, ["query"], [2, 2, 3, 3]),
        ("T5ForConditionalGeneration", "t5", T5, ["q"], [2, 3, 2, 2, 2, 2, 3, 3, 3, 3]),
        ("ViTModel", "vit", VIT, ["q_proj"], [2, 2, 3, 3]),
    ],
)
def test_experts_by_layer_follow_the_depth_of_the_layer_s_own_stack(kind, model_type, sizes, targets, experts):
    """A decoder of T5 has attention to itself and to the encoder."""
    model = adapted(model_of(kind, model_type, **sizes), target_modules=targets, experts=[2, 3])
    assert [len(weight) for name, weight in model.named_parameters() if "router" in name] == experts


@pytest.mark.parametrize("pads", [0, 2])
@pytest.mark.parametrize("router", ["topk", "capacity"])
def test_encoder_and_decoder_of_other_lengths_keep_the_class_of_their_outputs(router, pads):
    base = model_of("T5ForConditionalGeneration", "t5", **T5 | {"num_layers": 4}, decoder_start_token_id=0)
    model = adapted(base, target_modules=["q", "v"], experts=2, router=router, task_type="SEQ_2_SEQ_LM").train()
    mask = torch.ones_like(IDS)
    mask[0, 5 - pads :] = 0
    outputs = model(input_ids=IDS, attention_mask=mask, labels=IDS[:, :3].contiguous())
    assert isinstance(outputs, transformers.modeling_outputs.Seq2SeqLMOutput)
    assert outputs.encoder_last_hidden_state.shape == (2, 5, 16)
    outputs.loss.backward()
    assert outputs.aux_loss.isfinite()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.eval().generate(input_ids=IDS, attention_mask=mask, max_new_tokens=3).shape[0] == 2


def test_models_of_images_are_called_with_pixel_values():
    base = model_of("ViTForImageClassification", "vit", **VIT, num_labels=3)
    model = adapted(base, target_modules=["q_proj", "v_proj"], experts=2, modules_to_save=["classifier"]).train()
    outputs = model(pixel_values=torch.randn(2, 3, 8, 8), labels=torch.tensor([0, 2]))
    outputs.loss.backward()
    assert outputs.aux_loss > 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("kind", "task", "head", "labels"),
    [
        ("BertForSequenceClassification", "SEQ_CLS", "classifier", torch.tensor([0, 1])),
        ("BertForTokenClassification", "TOKEN_CLS", "classifier", IDS % 2),
        ("BertForQuestionAnswering", "QUESTION_ANS", "qa_outputs", None),
    ],
)
def test_the_new_head_of_a_task_is_trained_and_saved(kind, task, head, labels, tmp_path):
    model = adapted(model_of(kind, "bert", **DEEP), target_modules=["query"], experts=2, task_type=task).train()
    spans = {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 3])}
    outputs = model(input_ids=IDS, **({"labels": labels} if labels is not None else spans))
    outputs.loss.backward()
    heads = [p for name, p in model.named_parameters() if f"{head}.modules_to_save" in name]
    assert heads
    with torch.no_grad():
        for parameter in heads:
            parameter.sub_(parameter.grad)
    model.eval().save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(model_of(kind, "bert", **DEEP), tmp_path).eval()
    assert torch.equal(again(input_ids=IDS)[0], model(input_ids=IDS)[0])
