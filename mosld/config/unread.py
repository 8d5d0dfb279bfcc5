"""Keys that have no effect beside others: one table for all groups. What a method reads stands in `method_checks`."""

from collections.abc import Collection, Iterator

from mosld.common.errors import format_value
from mosld.config.schema import Config, DataConfig, LoggerConfig

# The value of a key that only counts where the user typed the key: the files of options may set it.
FROM_FILE = object()
# A key, the value at which it asks for nothing, and why it has no effect otherwise.
Unread = tuple[str, object, str]
# The groups whose recorded values are checked again when a run is scored; of others, what is typed.
SCORED_GROUPS = ("data.", "source.", "evaluation.")


def check_unread(config: Config, training: bool, typed: Collection[str]) -> Iterator[str]:
    """A message for each key that asks for something and has no effect."""
    for key, off, reason in _unread_keys(config, typed):
        asked = [name for name in typed if name == key or name.startswith(f"{key}.")]
        if not asked and (off is FROM_FILE or not (training or key.startswith(SCORED_GROUPS))):
            continue
        for name in asked or [key]:
            value = key_value(config, name)
            if value != off:
                yield f"{name}={format_value(value)}: {reason}"


def key_value(tree: object, key: str) -> object:
    """The value of a dotted key in a config or a tree; None where a tree has none."""
    first, _, rest = key.partition(".")
    value = tree.get(first) if isinstance(tree, dict) else getattr(tree, first, None)
    return key_value(value, rest) if rest else value


def _unread_keys(config: Config, typed: Collection[str]) -> Iterator[Unread]:
    yield from _model_keys(config)
    yield from _data_keys(config.data)
    data, source, logger = config.data, config.source, config.logger
    if config.prompt is not None:
        yield "model.prompt", FROM_FILE, f"has no effect beside prompt={config.prompt}; leave one out."
    if config.evaluation.base is not None:
        base = format_value(config.evaluation.base)
        yield "model.score_base", FROM_FILE, f"has no effect beside evaluation.base={base}; leave one out."
    if "training.learning_rate" in typed:
        yield "method.own_learning_rate", FROM_FILE, "has no effect beside training.learning_rate; leave one out."
    if config.method.kind == "mixture" and config.method.balance == "none":
        yield "method.balance_weight", 0.01, "has no effect with method.balance=none; choose a formula of the loss."
    if "mmlu" not in data.tasks:
        tasks = ", ".join(data.tasks)
        yield "evaluation.shots", 0, f"has no effect on {tasks}; only mmlu has solved examples."
    if source.name != "local":
        reason = f"the {source.name} source has no directory; leave source={source.name} out."
        yield "source.root", None, reason
    if source.name == "bundled":
        yield "source.on_bad_row", "error", "has no effect with source=bundled, which has no bad rows."
    if logger.name == "files":
        for name in ("mode", "project", "entity", "group", "job_type", "artifact"):
            yield f"logger.{name}", getattr(LoggerConfig(), name), "has no effect with logger=files; take logger=wandb."
    if config.hub.push_to is None:
        yield "hub.private", True, "has no effect without hub.push_to."


def _model_keys(config: Config) -> Iterator[Unread]:
    model = config.model
    if model.path:
        for name in ("kind", "hub", "revision", "architecture", "shape"):
            yield f"model.{name}", FROM_FILE, f"has no effect: the model is read from model.path={model.path}."
        return
    if model.kind != "hub":
        advice = f"take model={model.hub or 'owner/name'}"
        for name in ("hub", "revision"):
            yield f"model.{name}", None, f"has no effect on model={model.name} (model.kind={model.kind}); {advice}."
    if model.kind != "random":
        for name in ("architecture", "shape"):
            yield f"model.{name}", FROM_FILE, f"has no effect on the weights of model={model.name}; take model=tiny."


def _data_keys(data: DataConfig) -> Iterator[Unread]:
    if data.kind == "benchmarks":
        for name, default in {"columns": {}, "answer_as": "auto", "holdout": 0.1, "score_replies": True}.items():
            yield f"data.{name}", default, "applies to your own files only; take data=local."
        yield "data.train_turns", "all", "has no effect on benchmarks; conversations are your own files (data=local)."
    if "openorca" not in data.tasks:
        yield "data.n_openorca", None, "has no effect without openorca; take data=mixture_openorca."
    for name, default in {"weights": {}, "temperature": 1.0, "cap": None}.items():
        if data.mixing != name:
            reason = f"has no effect with data.mixing={data.mixing}; set data.mixing={name}."
            yield f"data.{name}", default, reason
