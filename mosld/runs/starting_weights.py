"""`init_from`: the trained weights that a run starts from, checked against its config before a model loads."""

from collections.abc import Iterator
from pathlib import Path

from mosld.common.errors import UserError, format_value
from mosld.common.files import MANIFEST, JsonObject
from mosld.common.reading import load_json, load_yaml
from mosld.common.seal import seal_of
from mosld.config.method_checks import LORA_VARIANTS, PISSA, experts_of, target_modules
from mosld.config.schema import Config
from mosld.runs.directory import RunDirectory
from mosld.runs.saved import find_weights

# By PEFT's type, the method.kind that trains it.
KINDS = {"LORA": "lora", "PREFIX_TUNING": "prefix", "MOSLD": "mixture"}
# By method.kind, the keys of adapter_config.json that say what the weights mean, with those of the method group. What
# only steers training (dropout, balance_weight, ...) may change.
KEYS = {
    "lora": {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"},
    "prefix": {"num_virtual_tokens": "virtual_tokens"},
    "mixture": {
        "r": "rank", "alpha": "alpha", "share": "share", "router": "router", "top_k": "top_k", "domains": "domains",
        "pool": "pool", "dropout_on": "dropout_on",
    },
    "full": {},
}  # fmt: skip
# Parts of an adapter that no method of a run has.
FOREIGN_KEYS = (*LORA_VARIANTS, "layers_to_transform", "modules_to_save", "exclude_modules")


def starting_weights(config: Config) -> Path | None:
    """The directory of the weights that `init_from` names; None without that key.

    Raises:
        UserError: there are none, the run is not finished, or the weights are of another method, rank, or base model.
    """
    if config.init_from is None:
        return None
    path, key = Path(config.init_from), f"init_from={config.init_from}"
    if not path.is_dir():
        raise UserError(f"{key}: no such directory.")
    run, weights = RunDirectory(path), find_weights(path)
    if run.config.is_file() and run.data.is_file() and not run.finished():
        raise UserError(f"{key}: the run is not finished; type its train command again to finish it.")
    if weights is None:
        raise UserError(f"{key}: no trained weights (looked for adapter/adapter_config.json and model/config.json).")
    if faults := seal_of(path).folder_faults(weights) if (weights / MANIFEST).is_file() else []:
        raise UserError(*(f"{key}: is damaged: {fault}." for fault in faults))
    differences = list(_differences(config, weights, path))
    if differences:
        raise UserError(f"{key}: does not fit this run: {'; '.join(differences)}.")
    return weights


def _differences(config: Config, weights: Path, run: Path) -> Iterator[str]:
    """What the weights are, and what this run trains."""
    method = config.method
    recorded = next((folder / "config.yaml" for folder in (weights, run) if (folder / "config.yaml").is_file()), None)
    model = load_yaml(recorded).get("model") if recorded else None
    base = model.get("name") if isinstance(model, dict) else None
    if base not in (None, config.model.name):
        yield f"base model {base} there, {config.model.name} here"
    file = weights / "adapter_config.json"
    adapter = load_json(file, JsonObject) if file.is_file() else {}
    kind = KINDS.get(str(adapter.get("peft_type")), adapter.get("peft_type")) if adapter else "full"
    if kind != method.kind:
        yield f"method.kind={kind} there, {method.kind} here (method={method.name})"
        return
    for theirs, ours in KEYS[kind].items():
        value = getattr(method, ours)
        matched = method.match is not None and ours in ("rank", "alpha")  # they follow from the model
        if theirs in adapter and adapter[theirs] != value and not matched:
            yield f"method.{ours}={format_value(adapter[theirs])} there, {format_value(value)} here"
    if kind == "lora" and (adapter.get("init_lora_weights") == PISSA) != (method.init == PISSA):
        there = "method.init=pissa" if method.init != PISSA else "another method.init"
        yield f"{there} there, method.init={method.init} here: PiSSA's update counts from a base of its own"
    if kind == "mixture" and method.router != "domain":
        experts, saved = experts_of(method, config.allocation), adapter.get("experts")
        if _per_part(experts) != _per_part(saved):
            key = "allocation.experts" if method.experts is None else "method.experts"
            yield f"{key}={format_value(saved)} there, {format_value(experts)} here"
    names = adapter.get("target_modules")
    targets = target_modules(method)
    # An expression means other names on each model; weights that do not fit are refused when they are loaded.
    if kind in ("lora", "mixture") and isinstance(targets, list) and _sorted(names) != sorted(targets):
        shown = ",".join(sorted(names)) if isinstance(names, list) else names
        yield f"target_modules={shown} there, {','.join(sorted(targets))} here (method.targets, method.plain_targets)"
    foreign = [key for key in FOREIGN_KEYS if key not in KEYS[kind]]
    yield from (f"{key}={format_value(adapter[key])} there, none here" for key in foreign if adapter.get(key))


def _sorted(names: object) -> object:
    return sorted(names) if isinstance(names, list) else names


def _per_part(experts: object) -> object:
    """One number for one part of the depth, and lists of equal numbers, as one number."""
    return experts[0] if isinstance(experts, list) and len(set(experts)) == 1 else experts
