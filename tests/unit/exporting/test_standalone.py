"""An exported folder answers as the adapted model, to the last bit, where neither mosld nor peft can be imported."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

import mosld
from mosld.adapters import MosldConfig
from mosld.common.errors import UserError
from mosld.exporting.standalone import write_standalone
from tests.helpers import standalone_answers
from tests.helpers.methods import BY_NAME, ROUTED
from tests.helpers.toy_runs import disagreeing_moa

SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 259,
}


def tiny(dtype):
    return mosld.load_base("tiny", dtype=str(dtype).removeprefix("torch."))[0]


def base_of(model_type, **options):
    def build(dtype):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **SIZES, **options)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # buffers keep their dtype, as when a checkpoint is loaded
            parameter.data = parameter.data.to(dtype)
        return model

    return build


def method(name, base=tiny, **options):
    def build(dtype):
        row = BY_NAME[name]
        return type(row)(name, row.options | options).adapted(base=base(dtype))

    return build


def moa(base=tiny, **options):
    return lambda dtype: disagreeing_moa(base(dtype), **options)


def tuned(**options):
    """A config of PEFT that no method has."""

    def build(dtype):
        torch.manual_seed(0)
        config = MosldConfig(**{"r": 4, "experts": 3, "init_weights": False, "alpha": 64.0} | options)
        return get_peft_model(tiny(dtype), config).eval()

    return build


MODELS = {row.name: method(row.name) for row in ROUTED if row.name != "moa"} | {
    "mosld, B shared": method("mosld", share="B"),
    "mosld, nothing shared": method("mosld", share="none", targets="all"),
    "mixlora, A shared, all experts": method("mixlora", share="A", router="dense", top_k=None, balance="none"),
    "molora, two experts": method("molora", top_k=2),
    "molora, two experts, biased": method("molora", top_k=2, balance="bias"),
    "mixlora, biased": method("mixlora", balance="bias"),
    "hydralora, routed by A x": method("hydralora", router_input="Ax"),
    "blocks and layers": tuned(target_modules=["mlp", "q_proj", "o_proj"], plain_modules=["o_proj"]),
    "some layers": tuned(target_modules=["v_proj"], layers_to_transform=[1, 3]),
    "moa": moa(),
    "moa, vote": moa(inference="vote"),
    "moa, soft, last": moa(inference="soft", pool="last"),
    "moa, feed-forward": moa(targets="ffn"),
    "moa, all": moa(targets="all", inference="vote"),
    "mosld on mistral": method("mosld", base_of("mistral", sliding_window=4), targets="all"),
    "mosld on qwen2": method("mosld", base_of("qwen2", tie_word_embeddings=True)),
    "mixlora on qwen3": method("mixlora", base_of("qwen3")),
    "moa on qwen3": moa(base_of("qwen3", tie_word_embeddings=True), targets="all"),
    "moa on mistral": moa(base_of("mistral"), inference="vote"),
    "hydralora on llama": method("hydralora", base_of("llama", attention_bias=True), targets="ffn"),
}  # fmt: skip
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "reloaded": torch.float32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The exported models, with the answers that they gave in a process of their own."""
    root = tmp_path_factory.mktemp("exported")
    tokenizer = mosld.load_base("tiny")[1]
    folders = {}
    for number, (name, build) in enumerate(MODELS.items()):
        folders[name] = root / str(number)
        folders[name].mkdir()
        write_standalone(build(torch.float32), tokenizer, folders[name])
    script = Path(standalone_answers.__file__)
    subprocess.run([sys.executable, script, *folders.values()], check=True, cwd=root, timeout=600)
    return folders


@cache
def expected(name, dtype):
    """The answers of the adapted model, and its logits without the adapter."""
    model = MODELS[name](dtype)
    with torch.no_grad(), model.disable_adapter():
        untrained = model(**standalone_answers.batch()).logits
    return standalone_answers.answers(model), untrained


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_the_folder_answers_as_the_adapted_model(name, kind, folders):
    ours = torch.load(folders[name] / "answers.pt")[kind]
    theirs, untrained = expected(name, DTYPES[kind])
    assert {key for key, answer in theirs.items() if not torch.equal(answer, ours[key])} == set()
    assert not torch.equal(untrained, ours["logits"])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_the_modelling_file_is_short_and_anybody_can_read_the_weights(name, folders):
    text = (folders[name] / "modeling_mixture.py").read_text()
    lines = text.splitlines()
    assert "$" not in text
    assert max(map(len, lines)) <= 120
    assert len(lines) <= (240 if "moa" in name else 150)
    assert "mosld" not in text
    assert "peft" not in text
    modes = {path.stat().st_mode for path in folders[name].glob("*[nsy]")}
    assert len(modes) == 1


@pytest.mark.slow
def test_a_folder_has_no_path_of_its_author(folders):
    for path in folders["mosld"].glob("*.json"):
        assert str(Path.home()) not in path.read_text()


def custom_base(dtype):
    class OwnForCausalLM(transformers.LlamaForCausalLM):
        pass

    torch.manual_seed(0)
    return OwnForCausalLM(transformers.LlamaConfig(**SIZES)).to(dtype)


def two_active(dtype):
    model = method("mosld")(dtype)
    model.add_adapter("second", MosldConfig(target_modules=["q_proj"], r=2, task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "second"])
    return model


def quantized(dtype):
    model = method("mosld")(dtype)
    model.get_base_model().is_quantized = True
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (method("lora"), "LORA.*as=lora"),
        (method("prefix"), "PREFIX_TUNING"),
        (lambda _: get_peft_model(tiny(torch.float32), LoraConfig(target_modules=["q_proj"])), "LORA"),
        (method("mosld", custom_base), "OwnForCausalLM"),
        (two_active, "several adapters are active"),
        (quantized, "quantized"),
        (tuned(target_modules=["lm_head"]), "lm_head is adapted"),
        (tuned(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), "modules_to_save"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(build, message, tmp_path):
    with pytest.raises(UserError, match=message) as refusal:
        write_standalone(build(torch.float32), mosld.load_base("tiny")[1], tmp_path)
    assert len(refusal.value.messages) == 1
    assert list(tmp_path.iterdir()) == []
