"""What a launcher asks for: followed, or refused with a message before anything is loaded. Nothing runs as another."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.options import config_directory
from mosld.distributed import launch as launching
from mosld.distributed.launch import Launch, launch, require_launch

FILES = sorted((config_directory() / "accelerate").glob("*.yaml"))
TWO = {"WORLD_SIZE": "2"}
FSDP = {**TWO, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ONE = {**FSDP, "WORLD_SIZE": "1", "RANK": "0", "FSDP_OFFLOAD_PARAMS": "true"}
DEEPSPEED = {**TWO, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
# What `accelerate launch` (1.15) hands down where it starts one process though two were asked for.
ALONE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the variables of a launcher, and no others of it."""
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT", *ALONE, *ONE):
        monkeypatch.delenv(name, raising=False)

    def put(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "1"}, Launch()),
        (TWO, Launch(2, "ddp")),
        (FSDP, Launch(2, "fsdp")),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, Launch(2, "fsdp", offload=True)),
        ({**FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"}, Launch(2, "fsdp", reshard=False)),
        (DEEPSPEED, Launch(2, "zero3")),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, Launch(2, "zero2")),
        (ONE, Launch(1, "fsdp", offload=True)),
    ],
)
def test_launch_is_read_from_the_environment(
    variables: dict, expected: Launch, environment: Any, monkeypatch: pytest.MonkeyPatch
):
    environment(variables)
    monkeypatch.setattr(launching, "find_spec", lambda name: name)
    require_launch(load_config(["model=tiny"]))
    assert launch() == expected


@pytest.mark.parametrize(
    ("variables", "overrides", "message"),
    [
        (ALONE, [], "several processes were asked for and one was started"),
        ({**FSDP, "WORLD_SIZE": "1"}, [], "there is one"),
        ({**FSDP, "FSDP_VERSION": "1"}, [], "fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", **TWO}, [], "fsdp_version=1"),
        ({**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, [], r"training\.gradient_checkpointing=true"),
        ({**FSDP, "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, [], "SIZE_BASED_WRAP: is not followed"),
        ({**TWO, "ACCELERATE_MIXED_PRECISION": "bf16"}, [], r"choose model\.dtype"),
        ({**TWO, "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, [], r"training\.compile"),
        ({**DEEPSPEED, "WORLD_SIZE": "1"}, [], r"DeepSpeed: .*there is one"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, [], r"zero_stage=1: .*ddp\.yaml"),
        ({**DEEPSPEED, "ACCELERATE_GRADIENT_CLIPPING": "1.0"}, [], r"gradient_clipping=1\.0: .*max_grad_norm"),
        ({**DEEPSPEED, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, [], r"_steps=4: .*training\.micro_batch_size"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, [], r"_device=cpu: .*fsdp_off"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, [], r"config_file=ds\.json: is not followed"),
        (DEEPSPEED, ["model.quantize=int8"], "quantized weights cannot be sharded by DeepSpeed"),
        (DEEPSPEED, ["training.micro_batch_size=auto"], "waiting with DeepSpeed; give a number"),
        (DEEPSPEED, ["training.compile=true"], r"training\.compile=true: does not work with DeepSpeed"),
        (DEEPSPEED, ["training.optimizer=adamw_8bit"], r"adamw_8bit: its state cannot be sharded by DeepSpeed"),
        ({**TWO, "ACCELERATE_USE_MEGATRON_LM": "true"}, [], "Megatron-LM"),
        (FSDP, ["model.quantize=int8"], "quantized weights cannot be sharded"),
        (FSDP, ["training.micro_batch_size=auto"], "give a number"),
        (FSDP, ["training.compile=true"], r"training\.compile=true.*ddp\.yaml"),
    ],
)  # fmt: skip
def test_unsupported_request_is_rejected(variables: dict, overrides: list[str], message: str, environment: Any):
    environment(variables)
    with pytest.raises(UserError, match=message):
        require_launch(load_config(["model=tiny", *overrides]))


def test_all_errors_are_reported_at_once(environment: Any):
    environment({**FSDP, "FSDP_VERSION": "1", "ACCELERATE_MIXED_PRECISION": "fp16"})
    with pytest.raises(UserError) as caught:
        require_launch(load_config(["model=tiny", "training.micro_batch_size=auto"]))
    assert len(caught.value.messages) == 3


@pytest.mark.parametrize("key", ["model.quantize=nf4", "training.optimizer=adamw_8bit"])
def test_missing_bitsandbytes_is_named(key: str, monkeypatch: pytest.MonkeyPatch, environment: Any):
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{key}: needs bitsandbytes; pip install 'mosld\[quant\]'"):
        require_launch(load_config(["model=tiny", key]))


@pytest.mark.parametrize("variables", [FSDP, {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}])
def test_full_fine_tuning_may_be_sharded(variables: dict, environment: Any):
    environment(variables)
    require_launch(load_config(["model=tiny", "method=full"]))
    assert launching.launch().engine == "fsdp"


def test_missing_deepspeed_is_named(monkeypatch: pytest.MonkeyPatch, environment: Any):
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    environment(DEEPSPEED)
    with pytest.raises(UserError, match=r"DeepSpeed: is not installed; pip install 'mosld\[deepspeed\]'"):
        require_launch(load_config(["model=tiny"]))


def test_every_launch_has_an_accelerate_file():
    named = {path.stem for path in FILES}
    wanted = {"single", "ddp", "fsdp", "fsdp_offload", "deepspeed_zero2", "deepspeed_zero3", "multi_node"}
    assert named == wanted


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_file_is_valid_and_shows_its_command(path: Path):
    found = load_config_from_file(str(path))
    tree = yaml.safe_load(path.read_text())
    assert str(found.distributed_type).endswith(tree["distributed_type"])
    assert f"accelerate launch --config_file conf/accelerate/{path.name}" in path.read_text()
    assert found.mixed_precision == "no"


@pytest.mark.parametrize("path", [p for p in FILES if "fsdp" in p.stem], ids=lambda path: path.stem)
def test_fsdp_file_is_accepted(path: Path, environment: Any):
    asked = yaml.safe_load(path.read_text())["fsdp_config"]
    assert json.dumps(asked["fsdp_version"]) == "2"
    variables = {name.upper(): str(value) for name, value in asked.items()}
    environment({**FSDP, **variables})
    require_launch(load_config(["model=tiny"]))
    assert launch() == Launch(2, "fsdp", offload=path.stem == "fsdp_offload")


@pytest.mark.parametrize("path", [p for p in FILES if "deepspeed" in p.stem], ids=lambda path: path.stem)
def test_deepspeed_file_is_accepted(path: Path, environment: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launching, "find_spec", lambda name: name)
    asked = yaml.safe_load(path.read_text())["deepspeed_config"]
    environment({**DEEPSPEED, **{f"ACCELERATE_DEEPSPEED_{name.upper()}": str(value) for name, value in asked.items()}})
    require_launch(load_config(["model=tiny"]))
    assert launch() == Launch(2, path.stem.removeprefix("deepspeed_"))
