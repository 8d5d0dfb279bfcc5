"""The composed config: defaults, every option of every group, the contract's names, null defaults, hash, directory."""

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
from mosld.config.identity import identity, run_directory
from mosld.config.schema import TASKS as SCHEMA_TASKS
from mosld.config.schema import Config
from mosld.data.tasks import TASKS

LOCAL = ["source=local", "source.root=rows"]
OPTIONS = [(group, option) for group, options in group_options().items() for option in options]

# These say where a run lies, what it shows and how often it saves; a key that is new here must not move a score.
NOT_HASHED = {
    "output_dir",
    "check",
    "model.score_base",
    "model.prompt",  # `prompt` holds the one that is used
    "allocation.name",
    "training.name",
    "training.checkpoint_every",
    "training.keep_last",
    "training.resume",
    "evaluation.base",
    "method.own_learning_rate",  # `training.learning_rate` holds the one that is used
}  # and every key of logger and hub
GROUPS = [
    "model",
    "method",
    "allocation",
    "data",
    "source",
    "training",
    "logger",
    "experiment",
    "scale",
    "debug",
    "sweep",
    "launcher",
]
KEYS = [
    "seed",
    "output_dir",
    "check",
    "prompt",
    "model.dtype",
    "model.path",
    "model.quantize",
    "method.rank",
    "method.alpha",
    "method.top_k",
    "method.dropout",
    "method.balance",
    "method.balance_weight",
    "method.targets",
    "method.share",
    "allocation.experts",
    "data.tasks",
    "data.limit",
    "data.n_openorca",
    "data.columns",
    "source.root",
    "source.on_bad_row",
    "training.epochs",
    "training.max_steps",
    "training.batch_size",
    "training.micro_batch_size",
    "training.learning_rate",
    "training.gradient_checkpointing",
    "training.compile",
    "training.checkpoint_every",
    "training.resume",
    "evaluation.base",
    "evaluation.limit",
    "logger.mode",
]


def leaves(cls: Any = Config, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Every key with its type and its field."""
    found = {}
    for field in dataclasses.fields(cls):
        hint = field_types(cls)[field.name]
        if dataclasses.is_dataclass(hint):
            found.update(leaves(hint, f"{field.name}."))
        else:
            found[where + field.name] = (hint, field)
    return found


def choosing(group: str, option: str) -> list[str]:
    own = {("source", "local"): LOCAL, ("data", "local"): ["data=local", *LOCAL]}
    return own.get((group, option), [f"{group}={option}"])


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


def test_the_defaults_compose_to_mosld_on_the_mixture(default: Config):
    assert (default.method.name, default.data.name, default.model.name) == ("mosld", "mixture", "smollm2_135m")


def test_there_is_a_method_and_a_model_to_choose():
    assert {"lora", "mosl", "mosld"} <= set(group_options()["method"])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_passes_the_checks_and_is_named_after_its_file(group: str, option: str):
    config = load_config(choosing(group, option))
    assert getattr(getattr(config, group, None), "name", option) == option


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if f"{g}.name" in leaves()])
def test_every_key_of_a_group_can_be_set_whatever_its_option(group: str, option: str):
    config = load_config(choosing(group, option))
    keys = [key for key, (hint, _) in leaves().items() if key.startswith(f"{group}.") and "dict" not in str(hint)]
    again = [f"{key}={json.dumps(get(config, key))}" for key in keys]
    assert load_config([*choosing(group, option), *again]) == config


def test_tasks_of_the_schema_are_the_tasks_of_the_data_stage():
    assert set(SCHEMA_TASKS) == set(TASKS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_the_contract_exists(group: str):
    assert group in group_options()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_the_contract_exists(key: str):
    assert key in leaves()


@pytest.mark.parametrize("key", leaves())
def test_every_key_has_a_help_line_that_ends_in_a_full_stop(key: str):
    assert re.fullmatch(r"\S.*\.(\.\.)?", leaves()[key][1].metadata["help"])


@pytest.mark.parametrize(("model", "prompt"), [("tiny", "letter"), ("smollm2_135m", "cloze"), ("llama2_7b", "letter")])
def test_a_null_prompt_becomes_the_models_own(model: str, prompt: str):
    assert load_config([f"model={model}"]).prompt == prompt


def test_a_prompt_that_is_given_wins_over_the_models_own():
    assert load_config(["model=tiny", "prompt=cloze"]).prompt == "cloze"


@pytest.mark.parametrize(("model", "scored"), [("tiny", False), ("smollm2_135m", True)])
def test_a_null_evaluation_base_becomes_the_models_own(model: str, scored: bool):
    assert load_config([f"model={model}"]).evaluation.base is scored


def test_an_evaluation_base_that_is_given_wins_over_the_models_own():
    assert load_config(["model=tiny", "evaluation.base=true"]).evaluation.base is True


def test_a_relative_source_root_becomes_absolute():
    assert load_config(LOCAL).source.root == str(Path("rows").resolve())


def test_a_model_path_names_the_model_after_its_directory(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert load_config([f"model.path={tmp_path / 'mine'}"]).model.name == "mine"


@pytest.mark.parametrize("group", ["experiment", "scale", "debug", "sweep"])
def test_an_optional_group_may_be_set_to_null(group: str, default: Config):
    assert load_config([f"{group}=null"]) == default


def test_overrides_are_applied_after_a_debug_option():
    assert load_config(["training.max_steps=5", "debug=fast"]).training.max_steps == 5


def test_the_hash_of_equal_configs_is_equal(default: Config):
    assert identity(load_config([])) == identity(default)


def test_the_hash_does_not_depend_on_the_order_of_overrides():
    assert identity(load_config(["seed=1", "method.rank=4"])) == identity(load_config(["method.rank=4", "seed=1"]))


def test_naming_a_default_leaves_the_hash(default: Config):
    assert identity(load_config(["method.rank=8", "prompt=cloze"])) == identity(default)


@pytest.mark.parametrize("key", sorted(leaves()))
def test_the_hash_changes_with_a_key_if_and_only_if_it_affects_results(key: str, default: Config):
    hint, field = leaves()[key]
    value = another(get(default, key), hint, field.metadata["choices"])
    assert (identity(put(default, key, value)) == identity(default)) == (
        key in NOT_HASHED or key.startswith(("logger.", "hub."))
    )


def test_the_allocation_changes_the_hash_of_a_mixture(default: Config):
    assert identity(load_config(["allocation=rectangle"])) != identity(default)


@pytest.mark.parametrize("override", ["allocation=rectangle", "allocation.experts=3"])
def test_the_allocation_leaves_the_hash_of_lora(override: str):
    assert identity(load_config(["method=lora", override])) == identity(load_config(["method=lora"]))


def test_the_run_directory_names_data_model_method_and_hash(default: Config):
    pattern = r"outputs/mixture/smollm2_135m/mosld-r8-s0-[0-9a-f]{8}"
    assert re.fullmatch(pattern, run_directory(default).as_posix())


def test_the_run_directory_ends_in_the_hash(default: Config):
    assert run_directory(default).name.endswith(identity(default))


def test_output_dir_is_the_run_directory_itself():
    assert run_directory(load_config(["output_dir=my/run"])) == Path("my/run")


def test_a_name_with_a_slash_is_refused_as_it_would_leave_outputs():
    with pytest.raises(UserError, match=r"method\.name"):
        load_config(["method.name=../../elsewhere"])
