"""README.md of what is saved or exported: what it is, what it scored, how to load it; the name of its base model."""

from pathlib import Path

from mosld.common.errors import HUB
from mosld.common.files import JsonObject, write_text
from mosld.config.schema import Config, MethodConfig, ModelConfig
from mosld.runs.power import accuracy_text, independent_note

EMBEDDED_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_BASE = "SmolLM2-135M-Instruct rounded to 4 bits, with its chat template"
GGUF_FILE = "adapter.gguf"
CARD = """---
library_name: {library}
base_model: {base_model}
{license}pipeline_tag: text-generation
tags:
{tags}
---
# {title}

{what} trained by mosld on {data} ({tasks}; source {source}), seed {seed}{facts}

Base model: {base}
{scores}
## Loading

{loading}
"""
PYTHON = "```python\n{}\n```"
LOAD_ADAPTER = """{register}from peft import PeftModel
{base}
model = PeftModel.from_pretrained(base, "path/to/this/directory")"""
LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("path/to/this/directory"{remote})
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory"{remote})"""
LOAD_GGUF = f"llama-server --model path/to/base.gguf --lora path/to/this/directory/{GGUF_FILE}"
REGISTER = "import mosld.adapters  # registers the mixture with peft; without it: KeyError 'MOSLD'\n"
# By the form of an export: library, what stands before the run's name, the tag beside the method's.
EXPORTED = {
    "model": ("transformers", "{base} with {method} as a model that needs transformers alone. The adapter was", ""),
    "lora": ("peft", "A plain LoRA for {base}, exported from {method}", "lora"),
    "merged": (
        "transformers",
        "{base} with {method} merged into its weights: a stand-alone model. The LoRA was",
        "lora",
    ),
    "gguf": ("gguf", "A plain LoRA as GGUF for {base}, exported from {method}", "lora"),
}


def base_reference(model: ModelConfig) -> tuple[str, str | None]:
    """What an adapter's config calls its base model: the hub's name and revision, or a name with how to get it.

    The sentence is no name that the hub could have, so that a library that looks it up fails at once and shows it.
    """
    if model.hub:
        return model.hub, model.revision
    return f"{model.name} ({_how_to_get(model)}; then PeftModel.from_pretrained(base, directory))", None


def write_model_card(folder: Path, config: Config, results: JsonObject) -> None:
    """Write the README.md of what a run trained."""
    method, model = config.method, config.model
    whole = method.kind == "full"
    parts = [] if whole else ["In PEFT:", PYTHON.format(_load_adapter(config))]
    if whole:
        parts = [PYTHON.format(LOAD_MODEL.format(remote=""))]
    parts.append(
        "In mosld: `python -m mosld.chat path/to/this/directory`, and to score it "
        "`python -m mosld.eval run=path/to/this/directory`."
    )
    if method.kind in ("mixture", "lora"):
        forms = "as=merged" if method.kind == "lora" else "as=model"
        parts.append(
            "For other software (transformers alone, vLLM, llama.cpp): "
            f"`python -m mosld.export path/to/this/directory {forms} output=DIR`, or `as=lora` or `as=gguf`."
        )
    card = _card(
        config,
        library="transformers" if whole else "peft",
        title=results["name"],
        what=f"{_describe(method)} {_base_name(model)},",
        facts=f", {results['parameters']['trainable']:,} trainable parameters{_start(config)}.",
        tags=[method.name],
        scores=_score_table(results, config.prompt, average=True),
        loading="\n\n".join(parts),
    )
    write_text(folder / "README.md", card)


def write_exported_card(
    folder: Path, config: Config, results: JsonObject | None, form: str, fact: str, title: str, run: str, dtype: str
) -> None:
    """Write the README.md of an export.

    Args:
        folder: where the file goes.
        config: the config of the run.
        results: the run's results; None leaves out the scores.
        form: the form of the export, a key of `EXPORTED`.
        fact: a sentence on how it was made.
        title: the name of the export.
        run: the name of the run.
        dtype: the type of the saved weights.
    """
    method, model = config.method, config.model
    scores = _score_table(results, config.prompt, average=False) if results and results.get("scores") else ""
    before = "base + adapter before merging" if form == "merged" else "the run"
    loading = {
        "model": PYTHON.format(LOAD_MODEL.format(remote=", trust_remote_code=True")),
        "lora": PYTHON.format(LOAD_ADAPTER.format(register="", base=_load_base(model))),
        "merged": PYTHON.format(LOAD_MODEL.format(remote="")),
        "gguf": f"```bash\n{LOAD_GGUF}\n```",
    }
    library, what, tag = EXPORTED[form]
    called = "a LoRA" if method.kind == "lora" else f"a {method.name} adapter"
    card = _card(
        config,
        library=library,
        title=title,
        what=what.format(base=model.hub or _base_name(model), method=f"{called} ({_size(method)})"),
        facts=f".\n{fact}{' ' * bool(fact)}Run: `{run}`. Type of the weights: {dtype}.",
        tags=[tag, *([method.name] if method.name != tag else [])],
        scores=f"\nScores of {before}:\n{scores}" if scores else "",
        loading=loading[form],
    )
    write_text(folder / "README.md", card)


def _card(
    config: Config, *, library: str, title: str, what: str, facts: str, tags: list[str], scores: str, loading: str
) -> str:
    model = config.model
    embedded = model.kind == "embedded" and not model.path
    listed = dict.fromkeys(["mosld", *filter(None, tags)])
    return CARD.format(
        library=library,
        base_model=model.hub or (EMBEDDED_HUB if embedded else model.name),
        license=f"license: {model.license}\n" if model.license else "",
        tags="\n".join(f"- {tag}" for tag in listed),
        title=title,
        what=what,
        data=config.data.name,
        tasks=", ".join(config.data.tasks),
        source=config.source.name,
        seed=config.seed,
        facts=facts,
        base=_describe_base(model),
        scores=scores,
        loading=loading,
    )


def _start(config: Config) -> str:
    return f", started from the weights in `{config.init_from}`" if config.init_from else ""


def _describe(method: MethodConfig) -> str:
    if method.kind == "full":
        return "All weights of"
    if method.kind == "prefix":
        return f"{method.name} adapter ({method.virtual_tokens} virtual tokens) for"
    return f"{method.name} adapter ({_size(method)}) for"


def _size(method: MethodConfig) -> str:
    size = f"rank {method.rank}, alpha {method.alpha:g}"
    return f"as many weights as {method.match} with {size}" if method.match else size


def _score_table(results: JsonObject, prompt: str | None, average: bool) -> str:
    scores = results["scores"]
    rows = [f"| {task} | {accuracy_text(score)} | {score['n']} |\n" for task, score in scores.items()]
    if average and scores:
        rows.append(f"| average | {100 * results['average']:.1f} | |\n")
    note = f"\n{independent_note(scores)}.\n" if scores else ""
    return f"\n| task | accuracy (prompt {prompt}) | items |\n|---|---|---|\n{''.join(rows)}{note}"


def _base_name(model: ModelConfig) -> str:
    """The name of the base model; of the embedded one, which says less, also what it is."""
    embedded = model.kind == "embedded" and not model.path
    return f"{model.name} ({EMBEDDED_BASE})" if embedded else model.name


def _describe_base(model: ModelConfig) -> str:
    """Where the base model comes from, and its licence."""
    if model.hub:
        source = f"[{model.hub}]({HUB}/{model.hub}), revision {model.revision}"
    else:
        source = f"{_base_name(model)}; {_how_to_get(model)}"
    license = f" Its licence: {model.license}." if model.license else ""
    return f"{source}.{license}"


def _how_to_get(model: ModelConfig) -> str:
    if model.path:
        return "a checkpoint of whoever trained this: ask for it, and load it"
    return f"with mosld installed, mosld.load_base('{model.name}') loads it and its save_pretrained writes it"


def _load_adapter(config: Config) -> str:
    register = REGISTER if config.method.kind == "mixture" else ""
    return LOAD_ADAPTER.format(register=register, base=_load_base(config.model, register))


def _load_base(model: ModelConfig, register: str = "") -> str:
    if model.hub:
        source = f'"{model.hub}", revision="{model.revision}"'
    elif register and not model.path:
        return f'import mosld\nbase, tokenizer = mosld.load_base("{model.name}")'
    else:
        source = f'"path/to/{model.name}"'
    return f"from transformers import AutoModelForCausalLM\nbase = AutoModelForCausalLM.from_pretrained({source})"
