"""mosld from Python: what the commands do, with keywords for overrides and exceptions for exit codes.

`mosld.train`, `mosld.evaluate`, `mosld.load` and `mosld.generate` work in notebooks, in threads and many times in one
process. As in the commands, what can be refused is refused before torch is imported.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from mosld.common.errors import UserError
from mosld.common.files import JsonObject, read_json
from mosld.common.kernel_cache import limit_kernel_cache
from mosld.common.machine import check_machine
from mosld.common.process import silence_imports, silence_libraries
from mosld.common.threads import limit_spinning
from mosld.config.compose import parse_override
from mosld.config.fields import field_types
from mosld.config.schema import Config
from mosld.config.sweep import is_sweep
from mosld.recipes.request import check_evaluation, check_request
from mosld.runs.saved import saved_run

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Model = PreTrainedModel | PeftModel

Settings = Mapping[str, object] | None
# The libraries keep their state in globals (Hydra's config, random numbers): threads take turns.
_turn = threading.RLock()
# The tokenizer and the prompt format of each model that `load` returned.
_loaded: "WeakKeyDictionary[Model, tuple[PreTrainedTokenizerBase, str]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        results: the content of its results.json; empty with check=True.
    """

    path: Path
    results: JsonObject = field(repr=False)

    @property
    def scores(self) -> dict[str, JsonObject]:
        """By task: accuracy, stderr and n."""
        return self.results.get("scores", {})

    @property
    def average(self) -> float | None:
        """The mean accuracy over the tasks."""
        return self.results.get("average")


def train(settings: Settings = None, /, **overrides: object) -> TrainedRun:
    """Train one run and score it; a finished run is read, an unfinished one goes on.

    Args:
        settings: dotted keys, as in ``{"training.max_steps": 10}``, or maps by group.
        overrides: groups and keys, as in ``method="mosld", data="mixture"``.

    Raises:
        UserError: with one message for each mistake.
        DivergedError: loss or weights are not finite.
        KeyboardInterrupt: a signal stopped the run; the same call resumes it.
    """
    texts = as_overrides(settings, overrides)
    if is_sweep(texts):
        raise UserError(
            "sweep: is for the command (python -m mosld.train -m ...); from Python call train for each run."
        )
    with _turn_of(texts):
        request = check_request(texts)
        status = "finished"
        if not request.show_finished():
            from mosld.recipes.train import train_run

            status = train_run(request).status
    results = read_json(request.run.results) if status != "checked" else None
    if status == "interrupted":
        raise KeyboardInterrupt(f"{request.run.path}: interrupted; the same call resumes")
    if status == "diverged":
        from mosld.training.loop import DivergedError

        raise DivergedError((results or {}).get("error", "diverged"))
    return TrainedRun(request.run.path, results or {})


def evaluate(
    run: "str | Path | TrainedRun", settings: Settings = None, /, **overrides: object
) -> dict[str, JsonObject]:
    """Score a run, adapter or model directory on its own data or any other; returns accuracy, stderr and n by task.

    Args:
        run: a directory, or what `train` returned.
        settings: as for `train`, of the keys that ``python -m mosld.eval --help`` lists.
        overrides: the same as keywords, as in ``data="single_arc_e"``.

    Raises:
        UserError: with one message for each mistake.
    """
    texts = as_overrides(settings, overrides)
    with _turn_of(texts):
        request = check_evaluation(_directory(run), texts)
        from mosld.recipes.evaluate import evaluate_run

        result = evaluate_run(request)
    return cast("dict[str, JsonObject]", result.results["scores"])


def load(
    run: "str | Path | TrainedRun", settings: Settings = None, /, **overrides: object
) -> "tuple[Model, PreTrainedTokenizerBase]":
    """What a run trained, on its base model and in eval mode, and the tokenizer.

    Args:
        run: a run, adapter or model directory, or what `train` returned.
        settings: as for `evaluate`, as in ``{"model.dtype": "float32"}``.
        overrides: the same as keywords.

    Raises:
        UserError: base model or trained weights cannot be had, and why.
    """
    texts = as_overrides(settings, overrides)
    with _turn_of(texts):
        saved = saved_run(_directory(run))
        config = saved.config(texts)
        from mosld.recipes.load import load_trained

        silence_libraries()
        model, tokenizer = load_trained(config.model, saved)
    _loaded[model] = (tokenizer, str(config.prompt))
    return model, tokenizer


def generate(
    run: "str | Path | TrainedRun | Model",
    prompt: str,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    format: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """The answer of a trained model.

    Args:
        run: a directory, what `train` returned, or a model. Load the model once to ask more than once.
        tokenizer: that of a model that does not come from `mosld.load`.
        format: "question", "plain" or "chat" as in ``python -m mosld.chat --help``; None: as the run was trained, and
            plain for a model with a tokenizer of its own.
        temperature: of sampling; 0: the likeliest token.

    Raises:
        UserError: no such run, no tokenizer, or a prompt that is too long.
    """
    model = load(run)[0] if isinstance(run, str | Path | TrainedRun) else run
    known, style = _loaded.get(model, (None, ""))
    tokenizer = tokenizer or known
    if tokenizer is None:
        raise UserError("generate: the model does not come from mosld.load, so give its tokenizer (tokenizer=...).")
    from accelerate.utils import set_seed

    from mosld.recipes.generate import Answerer

    form = format or ("question" if style else "plain")
    answerer = Answerer(model, tokenizer, style or "letter", form, max_new_tokens, temperature)
    training = model.training
    with _turn_of([]):
        if temperature:
            set_seed(seed)
        try:
            model.eval()
            return answerer.read(answerer.generate(answerer.encode(prompt).prompt))[1]
        finally:
            model.train(training)


def as_overrides(settings: Settings, keywords: Mapping[str, object]) -> list[str]:
    """The overrides of a command line that say what Python values say.

    Raises:
        UserError: a value is no number, text, list or map.
    """
    types = field_types(Config)
    texts = []
    for key, value in [*(settings or {}).items(), *keywords.items()]:
        # training={"max_steps": 10} sets the keys of a group, data.weights={...} is the value of one key.
        grouped = isinstance(value, Mapping) and is_dataclass(types.get(key))
        values = {f"{key}.{name}": entry for name, entry in value.items()} if grouped else {key: value}  # type: ignore[attr-defined]
        texts += [f"{name}={_as_text(entry, name)}" for name, entry in values.items()]
    return texts


def _as_text(value: object, key: str) -> str:
    """The value in Hydra's grammar; a text stands in quotes only where it would be read as something else."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_as_text(entry, key)}' for name, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_as_text(entry, key) for entry in value)}]"
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return value if _is_plain(value) else QuotedString(value, Quote.single).with_quotes()
    # A number of numpy or torch.
    value = value.item() if hasattr(value, "item") else value
    if value is None or isinstance(value, bool | int | float):
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    raise UserError(f"{key}: takes a number, a text, a list or a map, not a {type(value).__name__}.")


def _is_plain(text: str) -> bool:
    try:
        # In a list, where a comma would end it.
        return parse_override(f"key=[{text}]").value() == [text]
    except HydraException:
        return False


def _directory(run: "str | Path | TrainedRun") -> str:
    return str(run.path if isinstance(run, TrainedRun) else run)


@contextmanager
def _turn_of(overrides: list[str]) -> Iterator[None]:
    """Prepare the process as a command does, and let other threads wait."""
    limit_spinning()
    limit_kernel_cache()
    silence_imports()
    check_machine(overrides)
    with _turn:
        yield
