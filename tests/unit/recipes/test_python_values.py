"""Python values as overrides: Hydra reads back what was written."""

from pathlib import Path

import numpy as np
import pytest

import mosld
from mosld.common.errors import UserError
from mosld.config.compose import parse_override
from mosld.recipes.python_api import as_overrides


@pytest.mark.parametrize(
    "value",
    [
        "mosld", "a b", "a,b", "it's", '"', "10", "1e-3", "null", "true", "inf", "", " a ", "[x]", "{a: 1}", "C:\\x\\",
        "q'\\' ", "a=b", "~/x", "é", 3, -1, 1e-5, True, False, None, [], [1, "a,b", None], ["obqa", "arc_e"],
        {"obqa": 0.5, "arc_e": 1},
    ],
)  # fmt: skip
def test_hydra_reads_the_value_that_was_given(value):
    (text,) = as_overrides({"key": value}, {})
    assert parse_override(text).value() == value


@pytest.mark.parametrize(
    ("settings", "keywords", "texts"),
    [
        ({"training.max_steps": 3}, {"method": "mosld"}, ["training.max_steps=3", "method=mosld"]),
        ({}, {"training": {"max_steps": 3, "epochs": 2}}, ["training.max_steps=3", "training.epochs=2"]),
        ({"data.weights": {"obqa": 2}}, {}, ["data.weights={obqa: 2}"]),
        ({}, {"output_dir": Path("a/b"), "seed": np.int64(3)}, ["output_dir=a/b", "seed=3"]),
        ({"data.tasks": ("obqa", "arc_e")}, {}, ["data.tasks=[obqa,arc_e]"]),
        (None, {}, []),
    ],
)
def test_maps_of_groups_paths_and_numbers_of_numpy(settings, keywords, texts):
    assert as_overrides(settings, keywords) == texts


def test_other_types_are_refused_with_their_key():
    with pytest.raises(UserError, match=r"seed: takes a number, a text, a list or a map, not a object"):
        as_overrides({}, {"seed": object()})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method": "mosldd"}, "method=mosldd: unknown option; did you mean 'mosld'"),
        ({"training": {"max_step": 3}}, "training.max_step: unknown key|training.max_step=3: unknown key"),
        ({"sweep": "rank"}, "sweep: is for the command"),
        (
            {"seed": 1, "output_dir": "a", "model": "tiny", "training.epochs": 0},
            "training.epochs=0: must be at least 1",
        ),
    ],
)
def test_mistakes_are_exceptions(overrides, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mosld.UserError, match=message):
        mosld.train(overrides)


def test_the_package_lists_all_its_functions():
    assert set(mosld.__all__) <= set(dir(mosld))
    assert all(callable(getattr(mosld, name)) for name in mosld.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'trainn'"):
        mosld.trainn  # noqa: B018


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"r": 4}, {"rank": 4}),
        ({"lora_alpha": 4.0}, {"alpha": 4.0}),
        ({"lora_dropout": 0.5}, {"dropout": 0.5}),
        ({"target_modules": ["k_proj"]}, {"targets": ["k_proj"]}),
        ({"target_modules": ("v_proj", "k_proj")}, {"targets": ["k_proj", "v_proj"]}),
        ({"r": 4, "lora_alpha": 2.0, "target_modules": "ffn"}, {"rank": 4, "alpha": 2.0, "targets": "ffn"}),
    ],
)
@pytest.mark.parametrize("method", ["lora", "mosld"])
def test_adapt_takes_the_words_of_peft(method, theirs, ours):
    configs = [
        mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, **options).active_peft_config.to_dict()
        for options in (theirs, ours)
    ]
    assert configs[0] == configs[1]


def test_one_option_under_two_names_is_refused(tiny):
    with pytest.raises(UserError, match="r: is PEFT's name of rank; give one of the two"):
        mosld.adapt(tiny, "lora", r=4, rank=8)
