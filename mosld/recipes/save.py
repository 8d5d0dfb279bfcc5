"""Saving what a run trained, with its card, config and checksums, and pushing it to the hub where asked for."""

import json
import shutil
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from mosld.adapters.load import Model
from mosld.common.files import JsonObject, write_json
from mosld.config.schema import Config, HubConfig, ModelConfig
from mosld.distributed.processes import processes
from mosld.distributed.tensors import gather_state_dict
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.model_card import base_reference, write_model_card
from mosld.tracking.hub import push


def save_trained(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    run: RunDirectory,
    results: JsonObject,
    console: Console,
) -> Path:
    """Write adapter/, or model/ after full fine-tuning: whole or not there. Returns the directory."""
    target = run.adapter if isinstance(model, PeftModel) else run.model

    def write(folder: Path) -> None:
        if isinstance(model, PeftModel):
            save_adapter(model, config.model, folder)
        else:
            model.save_pretrained(folder, state_dict=gather_state_dict(model, processes()))
            tokenizer.save_pretrained(folder)
        shutil.copy(run.config, folder / "config.yaml")
        write_model_card(folder, config, results)

    def send_shards() -> None:
        """The other processes take part in gathering a sharded model; adapters are whole in every process."""
        if not isinstance(model, PeftModel):
            gather_state_dict(model, processes())

    with console.working(f"saving {target.name}/"):
        run.seal.write_folder(target, write, prose=("README.md",), meanwhile=send_shards)
    return target


def save_adapter(model: PeftModel, base: ModelConfig, folder: Path) -> None:
    """Write an adapter in PEFT's format, its base model under a name that means something on other machines."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    file = folder / "adapter_config.json"
    name, revision = base_reference(base)
    write_json(file, {**json.loads(file.read_text()), "base_model_name_or_path": name, "revision": revision})


def push_to_hub(folder: Path, hub: HubConfig, method: str, console: Console) -> str | None:
    """Push what was saved to `hub.push_to`; a failure costs the push and not the run. Returns the address."""
    repository = hub.push_to
    try:
        with console.working(f"pushing to {repository}"):
            address = push(folder, hub, f"{method} trained by mosld")
    except Exception as error:  # whatever the hub or the network says: the files are on this disk
        console.say(f"not pushed to {repository}: {str(error).splitlines()[0]}")
        return None
    console.say(f"pushed to {address}")
    return address
