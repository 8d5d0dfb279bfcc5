"""Wrong command lines and the message for each: what is wrong, where, the nearest name, what to change."""

import re

import pytest

from mosld.config.compose import load_config
from mosld.config.fields import build
from mosld.config.schema import Config
from tests.helpers.refusals import refusal

# command line -> what its one message must contain
REFUSED: dict[str, list[str]] = {
    # an option of a group
    "method=mosldd": ["method=mosldd", "did you mean 'mosld'", "lora, mixlora"],
    "method=": ["method=", "unknown option", "lora, mixlora"],
    "method=null": ["method=null", "unknown option"],
    "method=3": ["method=3", "unknown option"],
    "model=lama2_7b": ["did you mean 'llama2_7b'"],
    "data=single_arce": ["did you mean 'single_arc_e'"],
    "data=obqa": ["did you mean 'single_obqa'"],
    "training=papr": ["did you mean 'paper'"],
    "debug=fsat": ["did you mean 'fast'"],
    "experiment=nosuch": ["experiment=nosuch", "unknown option"],
    "allocation=triangl": ["did you mean 'triangle'"],
    "allocation=[8,6,4,2]": ["allocation=[8,6,4,2]", "is a group", "allocation.experts=[8,6,4,2]"],
    "allocation=8": ["is a group", "allocation.experts=8"],
    "model={a:1}": ["model is a group", "tiny"],
    "+method=lora": ["write it without the +"],
    "++method=lora": ["++method=lora", "write it without the +"],
    "method@other=lora": ["method@other"],
    # a key
    "method.rnk=4": ["method.rnk=4", "did you mean 'method.rank'"],
    "rank=4": ["did you mean 'method.rank'"],
    "learning_rate=1": ["did you mean 'training.learning_rate'"],
    "methodd.rank=4": ["did you mean 'method.rank'"],
    "methd=lora": ["did you mean 'method'"],
    "sed=1": ["did you mean 'seed'"],
    "method.rank.x=4": ["method.rank", "has no keys of its own"],
    "+method.rank=4": ["+method.rank=4", "write method.rank=4 without the +"],
    "+nosuch=4": ["+nosuch=4", "unknown key"],
    "++nosuch.bar=4": ["++nosuch.bar=4", "unknown key"],
    "~method.rank": ["~method.rank", "cannot be deleted"],
    "~method": ["~method", "cannot be deleted"],
    "model.shape.more=3": ["model.shape.more=3", "+model.shape.more=3"],
    "hydra.verbose=true": ["hydra.verbose=true", "unknown key"],
    # a type
    "method.rank=four": ["method.rank=four", "a whole number"],
    "method.rank=4.5": ["method.rank=4.5", "a whole number"],
    "method.rank=true": ["method.rank=true", "a whole number"],
    "method.rank=null": ["method.rank=null", "a whole number"],
    "method.rank=[4]": ["method.rank=[4]", "a whole number"],
    "method.dropout=much": ["method.dropout=much", "a number"],
    "method.dropout=true": ["method.dropout=true", "a number"],
    "method.targets=[]": ["method.targets=[]", "no module"],
    "data.tasks=obqa": ["data.tasks=obqa", "a list", "[obqa]"],
    "data.limit=ten": ["data.limit=ten", "a whole number or null"],
    "allocation.experts=[2,x]": ["allocation.experts=[2,x]", "a whole number"],
    "allocation.experts={a:1}": ["allocation.experts={a:1}", "map"],
    "training.gradient_checkpointing=yes": ["gradient_checkpointing=yes", "true or false"],
    "check=1": ["check=1", "true or false"],
    "check='true'": ["check=true", "true or false"],
    "output_dir=[a]": ["output_dir=[a]", "text or null"],
    "output_dir=true": ["output_dir=true", "text or null"],
    "data.tasks=[null]": ["data.tasks=[null]", "text"],
    "model.shape=3": ["model.shape=3", "a map"],
    # a range
    "method.rank=0": ["method.rank=0", "at least 1"],
    "method.dropout=1": ["method.dropout=1", "below 1"],
    "method.dropout=-0.1": ["method.dropout=-0.1", "at least 0"],
    "method.alpha=inf": ["method.alpha=inf", "a finite number"],
    "method.alpha=nan": ["method.alpha=nan", "a finite number"],
    "allocation.experts=0": ["allocation.experts=0", "at least 1"],
    "allocation.experts=[8,0]": ["allocation.experts", "at least 1"],
    "allocation.experts=[]": ["allocation.experts=[]", "names no number"],
    "training.epochs=0": ["training.epochs=0", "at least 1"],
    "training.warmup=1": ["training.warmup=1", "below 1"],
    "evaluation.limit=0": ["evaluation.limit=0", "at least 1"],
    "seed=-1": ["seed=-1", "at least 0"],
    "seed=4294967296": ["seed=4294967296", "below 4294967296"],
    f"seed={'9' * 400}": ["seed=99999", "below 4294967296"],
    f"seed={'9' * 5000}": ["seed=99999", "is no override"],
    f"training.learning_rate={'9' * 400}": ["training.learning_rate=99999", "below 2147483648"],
    "training.learning_rate=3e38": ["training.learning_rate=3e+38", "below 2147483648"],
    "method.rank=2147483648": ["method.rank=2147483648", "below 2147483648"],
    # empty, or twice
    "output_dir=": ["output_dir: is empty"],
    "model.path=": ["model.path: is empty"],
    "init_from=": ["init_from: is empty"],
    "seed=1 seed=2": ["seed=2: seed is given twice, as 1 before"],
    "method=lora seed=1 method=mosl": ["method=mosl: method is given twice, as lora before"],
    # a choice
    "prompt=leter": ["prompt=leter", "did you mean 'letter'"],
    "method.dropout_on=C": ["method.dropout_on=C", "A, B, cores, heads, none, x"],
    "model.dtype=float16": ["model.dtype=float16", "float32"],
    "training.resume=maybe": ["training.resume=maybe", "auto, force, never"],
    "source.on_bad_row=ignore": ["source.on_bad_row=ignore", "error, skip"],
    "data.tasks=[obqq]": ["did you mean 'obqa'"],
    "data.tasks=[obqa,nosuch]": ["data.tasks", "'nosuch'"],
    # keys that cannot go together
    "method.top_k=3": ["method.top_k=3", "allocation.experts=[8", "lower method.top_k"],
    "allocation.experts=1": ["method.top_k=2", "allocation.experts=1"],
    "method=lora method.top_k=2": ["method.top_k=2", "lora", "has one expert"],
    "method=lora method.share=A": ["method.share=A", "lora", "has one expert"],
    "method=lora method.dropout_on=A": ["method.dropout_on=A", "input x alone"],
    "method=lora method.dropout_on=none": ["method.dropout=0.05", "method.dropout_on=x"],
    "method=mosl method.dropout=0.1": ["method.dropout=0.1", "mosl drops nothing", "method.dropout_on=A"],
    "method.share=null": ["method.share"],
    "training.max_grad_norm=0": ["training.max_grad_norm=0", "null clips nothing"],
    "data.tasks=[]": ["data.tasks=[]", "names no task"],
    "data.tasks=[obqa,obqa]": ["data.tasks=[obqa,obqa]", "names a task twice"],
    "model=llama2_7b model.hub=null": ["model=llama2_7b", "model=owner/name"],
    "model=tiny method=full model.quantize=nf4": ["model.quantize=nf4", "quantized weights cannot be trained"],
    "method=full method.rank=4": ["method.rank=4", "no adapter"],
    "method=prefix method.targets=all": ["method.targets=all", "virtual_tokens"],
    "method=lora method.experts=4": ["method.experts=4", "one expert"],
    "method=lora method.router=dense": ["method.router=dense", "one expert"],
    "method=mosld method.virtual_tokens=9": ["method.virtual_tokens=9", "topk"],
    "method=mola method.capacity_factor=2": ["capacity_factor", "topk"],
    "method=molora method.gate_dropout=.2": ["gate_dropout", "dense"],
    "method=mosld method.pool=last": ["method.pool=last", "topk"],
    "method=molora method.balance=switch": ["method.balance=switch", "every expert"],
    "method=mosl method.top_k=null": ["method.top_k=null", "topk chooses"],
    "method=mosld method.plain_targets=attention": ["plain_targets=attention", "overlaps"],
    "method=sira_authors method.top_k=17": ["method.top_k=17", "method.experts=16"],
    "method=mixlora allocation=diamond": ["allocation=diamond", "experts=null"],
    "method=prefix training.gradient_checkpointing=true": ["gradient_checkpointing", "micro_batch_size"],
    "method=mosld method.rslora=true": ["method.rslora=true", "topk"],
    "method=molora method.dora=true": ["method.dora=true", "dense"],
    "method=mosld method.init=pissa": ["method.init=pissa", "method=lora"],
    "method=lora method.init=pissa model.quantize=nf4": ["model.quantize=nf4", "method.init=pissa"],
    "method=lora_matched method.rslora=true": ["method.rslora=true", "method.match=mosld"],
    "method=molora method.balance=bias": ["method.balance=bias", "every expert"],
    "method=smora method.balance_over=step": ["balance_over=step", "switch"],
    "method=mosl method.balance_rate=.1": ["method.balance_rate=0.1", "topk"],
    "method=molora method.first_kind=[obqa]": ["method.first_kind", "dense"],
    "method=loramoe method.first_kind=[obqq]": ["obqq", "obqa"],
    "method=flylora method.rank=4": ["method.rank=4", "method.rank=1"],
    "method=mosl method.dropout=.1 method.dropout_on=cores": ["dropout_on=cores", "share=both"],
    "method=comol method.init_b=random": ["method.init_b=random", "share=both"],
    "method=molora method.router_input=Ax": ["router_input=Ax", "share=A"],
    "method=comol method.targets=block": ["method.targets=block", "ffn"],
    "data.weights={obqa:1}": ["data.mixing=weights"],
    "data.cap=5": ["data.mixing=cap"],
    "data.mixing=cap": ["give data.cap"],
    "data.mixing=weights data.weights={obqa:1}": ["no weight for csqa"],
    "data.tasks=[obqa] data.mixing=weights data.weights={obqa:heavy}": ["must be a number above 0"],
    "data.tasks=[obqa] data.mixing=weights data.weights={obqa:3e38}": ["must be a number above 0 and below"],
    "data.tasks=[obqa] data.mixing=weights data.weights={obqa:1,obqaa:2}": ["did you mean 'obqa'"],
    "hub.push_to=mine": ["hub.push_to=mine", "owner/name"],
    # keys without an effect
    "data=single_obqa evaluation.shots=5": ["evaluation.shots=5", "has no effect on obqa"],
    "data=mixture data.n_openorca=10": ["data.n_openorca=10", "without openorca"],
    "data.columns={question:q}": ["data.columns", "take data=local"],
    "data.answer_as=letter": ["data.answer_as=letter", "take data=local"],
    "model.hub=me/mine": ["model.hub=me/mine", "model=smollm2_135m", "take model=me/mine"],
    "model=tiny model.revision=main": ["model.revision=main", "model.kind=random"],
    "model.shape.hidden_size=64": ["model.shape.hidden_size=64", "take model=tiny"],
    "model=llama2_7b model.architecture=mistral": ["model.architecture=mistral", "llama2_7b"],
    "prompt=list model.prompt=chat": ["model.prompt=chat", "prompt=list"],
    "evaluation.base=false model.score_base=false": ["model.score_base=false", "evaluation.base=false"],
    "training.learning_rate=1e-4 method.own_learning_rate=1e-3": ["method.own_learning_rate", "training.learning_rate"],
    "method=molora method.balance_weight=.2": ["method.balance_weight=0.2", "method.balance=none"],
    "logger=files logger.project=mine": ["logger.project=mine", "logger=wandb"],
    "hub.private=false": ["hub.private=false", "hub.push_to"],
    "data.train_turns=last": ["data.train_turns=last", "data=local"],
    "source.on_bad_row=skip": ["source.on_bad_row=skip", "source=bundled"],
    # a place
    "source=local source.root=null": ["source.root", "source.root=my/data"],
    "model.path=/nosuch": ["model.path=/nosuch", "no checkpoint there"],
    "data=local": ["add source.root=my/data"],
    "source.root=x data.columns={qestion:q}": ["data.columns.qestion", "did you mean 'question'"],
    "source.root=x data.columns={question:[a,b]}": ["data.columns.question", "the choices or messages alone"],
    "source.root=x data.columns={response:a,choices:b}": ["data.columns", "a response, or"],
    # several values
    "method.rank=4,8": ["method.rank=4,8", "sweep"],
    "method=lora,mosl": ["method=lora,mosl", "sweep"],
    "seed=range(1,4)": ["seed=range(1,4)", "sweep"],
    "source=local source.root=my/data,old": ["source.root=my/data,old", "quote"],
    # grammar
    "nosuch": ["'nosuch'", "key=value"],
    "method.rank==4": ["'method.rank==4'", "key=value"],
    "method.rank=[4": ["'method.rank=[4'"],
    "source=local source.root=it's": ["source.root=it's", "quote"],
    "seed=${nosuch}": ["seed=${nosuch}", "nosuch"],
    "--rank=4": ["--rank=4", "unknown flag", "key=value"],
    "-v": ["-v", "unknown flag"],
}

PAIRS = {
    "two wrong keys": ["method.rnk=4", "traning.epochs=3"],
    "a wrong key and a wrong value": ["method.rnk=4", "seed=-1"],
    "a wrong option and a wrong value": ["method=mosldd", "seed=-1"],
    "bad grammar and a wrong value": ["nosuch", "seed=-1"],
    "a new key of a map and a wrong value": ["model.shape.more=3", "seed=-1"],
    "a wrong value and keys that cannot go together": ["seed=-1", "training.max_grad_norm=0"],
    "no source.root and a wrong value": ["source=local", "seed=-1"],
    "two combinations": ["data.tasks=[]", "training.max_grad_norm=0"],
}


def messages(*overrides: str) -> list[str]:
    return refusal(load_config, overrides)


@pytest.mark.parametrize("line", REFUSED)
def test_wrong_override_is_refused_in_one_message(line: str):
    (message,) = messages(*line.split(" "))
    assert [part for part in REFUSED[line] if part not in message] == []
    assert "Valid: ." not in message


@pytest.mark.parametrize("name", PAIRS)
def test_two_mistakes_are_reported_at_once(name: str):
    assert len(messages(*PAIRS[name])) == 2


def test_six_mistakes_of_six_kinds_are_reported_at_once():
    mistakes = ["method=mosldd", "method.rnk=4", "seed=-1", "prompt=leter", "training.epochs=x", "data.limit=1,2"]
    assert len(messages(*mistakes)) == len(mistakes)


def test_wrong_override_causes_no_message_about_others():
    assert len(messages("method.rnk=4", "method=lora", "method.dropout_on=x", "seed=-1")) == 2


@pytest.mark.parametrize("key", ["training.zest=3", "model.bits=4", "logger.colour=red"])
def test_key_near_no_other_gets_no_hint(key: str):
    assert "did you mean" not in messages(key)[0]


def test_unknown_key_of_the_top_level_lists_the_groups():
    assert re.search(r"\bmodel\b.*\btraining\b", messages("nosuch=4")[0])


def test_mixture_keys_with_kind_lora_are_refused():
    assert any("method.kind=lora" in message for message in messages("method.kind=lora"))


def test_mistakes_of_a_tree_have_dotted_keys_and_wrong_values_take_the_default():
    errors: list[str] = []
    tree = {"seed": -1, "sed": 1, "method": 3, "training": {"epochs": None, "bar": 2}, "data": {"tasks": "obqa"}}
    assert build(Config, tree, errors) == Config()
    assert sorted(re.split("[:=]", error)[0] for error in errors) == [
        "data.tasks", "method", "sed", "seed", "training.bar", "training.epochs",
    ]  # fmt: skip
