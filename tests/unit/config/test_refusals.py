"""Wrong command lines and the message for each: what is wrong, where, the nearest name, what to change."""

import re

import pytest

from mosld.common.errors import UserError
from mosld.config.compose import load_config

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
    "model={a: 1}": ["model is a group", "tiny"],
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
    "method.targets=[]": ["method.targets=[]", "no module"],
    "data.tasks=obqa": ["data.tasks=obqa", "a list", "[obqa]"],
    "data.limit=ten": ["data.limit=ten", "a whole number or null"],
    "allocation.experts=[2,x]": ["allocation.experts=[2,x]", "a whole number"],
    "allocation.experts={a: 1}": ["allocation.experts={a: 1}", "map"],
    "training.gradient_checkpointing=yes": ["gradient_checkpointing=yes", "true or false"],
    "check=1": ["check=1", "true or false"],
    "output_dir=[a]": ["output_dir=[a]", "text or null"],
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
    # keys without an effect
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
    with pytest.raises(UserError) as caught:
        load_config(overrides)
    return caught.value.messages


def overrides(line: str) -> list[str]:
    return [line] if "{" in line else line.split(" ")


@pytest.mark.parametrize("line", REFUSED)
def test_wrong_override_is_refused_in_one_message(line: str):
    (message,) = messages(*overrides(line))
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
