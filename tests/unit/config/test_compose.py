"""The composed config: defaults, every option of every group, the promised names, null defaults, hash, directory."""

import dataclasses
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.fields import field_types
from mosld.config.groups import group_options
from mosld.config.identity import all_results_keys, identity, results_keys, run_directory, unhashed_defaults
from mosld.config.rerun import rerun_config
from mosld.config.schema import TASKS as SCHEMA_TASKS
from mosld.config.schema import Config, DataConfig
from mosld.data.tasks import TASKS

LOCAL = ["source=local", "source.root=rows"]
OPTIONS = [(group, option) for group, options in group_options().items() for option in options]

# Keys that only say where a run lies, what it prints and how often it saves; a new key is hashed by default.
# `prompt` and `training.learning_rate` hold the values that model.prompt and method.own_learning_rate lead to.
NOT_HASHED = {
    "output_dir", "check", "model.score_base", "model.prompt", "model.license", "model.allow_other_base",
    "allocation.name", "training.name",
    "training.checkpoint_every", "training.keep_last", "training.resume", "evaluation.base", "method.own_learning_rate",
}  # fmt: skip
GROUPS = {
    "model", "method", "allocation", "data", "source", "training", "logger", "experiment", "scale", "debug", "sweep",
    "launcher",
}  # fmt: skip
KEYS = {
    "seed", "output_dir", "check", "prompt", "model.dtype", "model.path", "model.quantize", "method.rank",
    "method.alpha", "method.top_k", "method.dropout", "method.balance", "method.balance_weight", "method.targets",
    "method.share", "allocation.experts", "data.tasks", "data.limit", "data.n_openorca", "data.columns", "source.root",
    "source.on_bad_row", "training.epochs", "training.max_steps", "training.batch_size", "training.micro_batch_size",
    "training.learning_rate", "training.gradient_checkpointing", "training.compile", "training.checkpoint_every",
    "training.resume", "evaluation.base", "evaluation.limit", "logger.mode",
}  # fmt: skip


def leaves(cls: Any = Config, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Every key with its type and its field."""
    keys = {}
    for field in dataclasses.fields(cls):
        hint = field_types(cls)[field.name]
        if dataclasses.is_dataclass(hint):
            keys.update(leaves(hint, f"{field.name}."))
        else:
            keys[where + field.name] = (hint, field)
    return keys


def choosing(group: str, option: str) -> list[str]:
    special = {("source", "local"): LOCAL, ("data", "local"): ["data=local", *LOCAL]}
    return special.get((group, option), [f"{group}={option}"])


def get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def put(config: Any, key: str, value: Any) -> Any:
    first, _, rest = key.partition(".")
    return dataclasses.replace(config, **{first: put(getattr(config, first), rest, value) if rest else value})


def another(value: Any, hint: Any, choices: tuple[str, ...]) -> Any:
    """A value of the key's type that differs from the one it has."""
    kinds = typing.get_args(hint) or (hint,)
    if choices:
        other = next((choice for choice in choices if value not in (choice, [choice])), "other")
        return [other] if isinstance(value, list) else other
    if isinstance(value, bool) or bool in kinds:
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 1]
    if isinstance(value, dict):
        return {**value, "more": 1}
    return "other" if str in kinds else 7


@pytest.fixture(scope="module")
def default() -> Config:
    return load_config([])


def test_defaults_compose_to_mosld_on_the_mixture(default: Config):
    assert (default.method.name, default.data.name, default.model.name) == ("mosld", "mixture", "smollm2_135m")


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_passes_the_checks_and_has_the_name_of_its_file(group: str, option: str):
    config = load_config(choosing(group, option))
    assert getattr(getattr(config, group, None), "name", option) == option


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if f"{g}.name" in leaves()])
@pytest.mark.slow
def test_every_key_of_a_group_can_be_set_with_any_option(group: str, option: str):
    config = load_config(choosing(group, option))
    keys = [key for key, (hint, _) in leaves().items() if key.startswith(f"{group}.") and "dict" not in str(hint)]
    chosen = [text for text in choosing(group, option) if text.partition("=")[0] not in keys]
    again = [f"{key}={json.dumps(get(config, key))}" for key in keys]
    assert load_config([*chosen, *again]) == config


def test_promised_groups_keys_and_tasks_exist():
    assert set(group_options()) >= GROUPS
    assert leaves().keys() >= KEYS
    assert set(SCHEMA_TASKS) == set(TASKS)


def test_every_key_has_a_help_line_that_ends_in_a_full_stop():
    helps = {key: field.metadata["help"] for key, (_, field) in leaves().items()}
    assert [key for key, text in helps.items() if not re.fullmatch(r"\S.*\.(\.\.)?", text)] == []


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["model=tiny"], "prompt", "letter"),
        (["model=smollm2_135m"], "prompt", "cloze"),
        (["model=tiny", "prompt=cloze"], "prompt", "cloze"),
        (["model=tiny"], "evaluation.base", False),
        (["model=smollm2_135m"], "evaluation.base", True),
        (["model=tiny", "evaluation.base=true"], "evaluation.base", True),
        (LOCAL, "source.root", str(Path("rows").resolve())),
        (["training.max_steps=5", "debug=fast"], "training.max_steps", 5),
    ],
)
def test_null_takes_the_models_value_and_an_override_wins(overrides: list[str], key: str, value: object):
    assert get(load_config(overrides), key) == value


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("output_dir", "2024", "2024"),
        ("method.dropout", "0", 0.0),
        ("data.limit", "null", None),
        ("allocation.experts", "3", 3),
        ("allocation.experts", "[8,2]", [8, 2]),
        ("method.targets", "[q_proj]", ["q_proj"]),
        ("check", "true", True),
        ("method.experts_from", "{}", {}),
    ],
)
def test_typed_value_has_the_type_of_its_key(key: str, text: str, value: object):
    converted = get(load_config([f"{key}={text}"]), key)
    assert (converted, type(converted)) == (value, type(value))


def test_default_list_is_not_shared_between_configs():
    assert DataConfig().tasks is not DataConfig().tasks


def test_model_path_names_the_model_after_its_directory(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert load_config([f"model.path={tmp_path / 'mine'}"]).model.name == "mine"


@pytest.mark.parametrize("group", ["experiment", "scale", "debug", "sweep"])
def test_optional_group_may_be_null(group: str, default: Config):
    assert load_config([f"{group}=null"]) == default


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ([], ["method.rank=8", "prompt=cloze"], True),
        (["seed=1", "method.rank=4"], ["method.rank=4", "seed=1"], True),
        ([], ["allocation=rectangle"], False),
        (["method=lora"], ["method=lora", "allocation=rectangle"], True),
        (["method=lora"], ["method=lora", "allocation.experts=3"], True),
    ],
    ids=["defaults named", "another order", "allocation of a mixture", "allocation of lora", "experts of lora"],
)
def test_hash_is_equal_for_equal_runs(one: list[str], other: list[str], equal: bool):
    assert (identity(load_config(one)) == identity(load_config(other))) == equal


@pytest.mark.parametrize("key", sorted(leaves()))
def test_hash_changes_with_exactly_the_keys_that_affect_results(key: str, default: Config):
    hint, field = leaves()[key]
    value = another(get(default, key), hint, field.metadata["choices"])
    assert (identity(put(default, key, value)) == identity(default)) == (
        key in NOT_HASHED or key.startswith(("logger.", "hub."))
    )


def test_run_directory_names_data_model_method_and_hash(default: Config):
    name = f"mosld-r8-s0-{identity(default)}"
    assert run_directory(default).as_posix() == f"outputs/mixture/smollm2_135m/{name}"
    assert re.fullmatch("[0-9a-f]{8}", identity(default))


def test_output_dir_is_the_run_directory():
    assert run_directory(load_config(["output_dir=my/run"])) == Path("my/run")


def test_name_with_a_slash_is_refused_as_it_would_leave_outputs():
    with pytest.raises(UserError, match=r"method\.name"):
        load_config(["method.name=../../elsewhere"])


@pytest.mark.parametrize(
    ("overrides", "recipe"),
    [
        ([], ("own", 3, None, 8, 3e-4)),
        (["method=full"], ("own", 3, None, 8, 2e-5)),
        (["training.max_steps=7"], ("own", 3, 7, 8, 3e-4)),
        (["training.epochs=1", "training.learning_rate=1e-3"], ("own", 1, None, 8, 1e-3)),
        (["training=default"], ("default", 3, 200, 4, 3e-3)),
        (["training=paper"], ("paper", 10, None, 128, 3e-4)),
        (["debug=fast"], ("own", 3, 2, 4, 3e-4)),
        (["debug=overfit"], ("own", 30, None, 16, 3e-4)),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_own_files_choose_their_recipe_and_what_is_typed_wins(overrides: list[str], recipe: tuple, first: bool):
    data = ["data=local", *LOCAL]
    training = load_config([*data, *overrides] if first else [*overrides, *data]).training
    values = (training.name, training.epochs, training.max_steps, training.batch_size, training.learning_rate)
    assert values == recipe


def test_eval_reads_an_option_of_data_that_chooses_in_another_group(default: Config):
    config = rerun_config(dataclasses.asdict(default), ["data=local", *LOCAL])
    assert (config.data.kind, config.training) == ("own", default.training)


def test_keys_with_unhashed_defaults_are_hashed_when_set():
    plain = load_config([])
    assert results_keys(plain).keys() & unhashed_defaults().keys() == set()
    assert all_results_keys(plain).keys() >= unhashed_defaults().keys()
    cosine = load_config(["training.schedule=cosine"])
    assert results_keys(cosine) == {**results_keys(plain), "training.schedule": "cosine"}
