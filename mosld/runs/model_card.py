"""README.md of a saved adapter or model: what it is, what it scored, how to load it."""

from pathlib import Path

from mosld.common.files import JsonObject, write_text
from mosld.config.schema import Config, MethodConfig, ModelConfig
from mosld.runs.power import independent_note

EMBEDDED_BASE = "SmolLM2-135M-Instruct rounded to 4 bits, with its chat template"
CARD = """---
library_name: {library}
{base_model}tags:
- mosld
{tag}---
# {title}

{what} trained by mosld on {data} ({tasks}; source {source}), seed {seed}{facts}
{scores}
## Loading

```python
{loading}
```

Score it: `python -m mosld.eval run=path/to/this/directory`
"""
LOAD_ADAPTER = """{register}from peft import PeftModel
{base}
model = PeftModel.from_pretrained(base, "path/to/this/directory")"""
LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")"""
REGISTER = "import mosld.adapters  # registers the mixture with peft; without it: KeyError 'MOSLD'\n"


def write_model_card(folder: Path, config: Config, results: JsonObject) -> None:
    """Write the README.md of what a run trained."""
    method, model = config.method, config.model
    card = _card(
        config,
        title=results["name"],
        what=f"{_describe(method)} {_base_name(model)},",
        facts=f", {results['parameters']['trainable']:,} trainable parameters{_start(config)}.",
        tag=method.name if method.name != "mosld" else "",
        scores=_score_table(results, config.prompt, average=True),
        whole=method.kind == "full",
    )
    write_text(folder / "README.md", card)


def write_merged_card(
    folder: Path, config: Config, results: JsonObject | None, title: str, run: str, dtype: str
) -> None:
    """Write the README.md of a model with a LoRA merged into its weights.

    Args:
        folder: where the file goes.
        config: the config of the run that trained the LoRA.
        results: the run's results; None leaves out the scores.
        title: the name of the merged model.
        run: the name of the run.
        dtype: the type of the saved weights.
    """
    method, model = config.method, config.model
    scores = _score_table(results, config.prompt, average=False) if results and results.get("scores") else ""
    card = _card(
        config,
        title=title,
        what=(
            f"{model.hub or _base_name(model)} with a LoRA (rank {method.rank}, alpha {method.alpha:g}) merged into "
            "its weights: a stand-alone model. The LoRA was"
        ),
        facts=f".\nRun: `{run}`. Type of the weights: {dtype}.",
        tag="lora",
        scores=f"\nScores of base + adapter before merging:\n{scores}" if scores else "",
        whole=True,
    )
    write_text(folder / "README.md", card)


def _card(config: Config, *, title: str, what: str, facts: str, tag: str, scores: str, whole: bool) -> str:
    method, model = config.method, config.model
    adapter = LOAD_ADAPTER.format(register=REGISTER if method.kind == "mixture" else "", base=_load_base(model))
    return CARD.format(
        library="transformers" if whole else "peft",
        base_model=f"base_model: {model.hub}\n" if model.hub else "",
        tag=f"- {tag}\n" if tag else "",
        title=title,
        what=what,
        data=config.data.name,
        tasks=", ".join(config.data.tasks),
        source=config.source.name,
        seed=config.seed,
        facts=facts,
        scores=scores,
        loading=LOAD_MODEL if whole else adapter,
    )


def _start(config: Config) -> str:
    return f", started from the weights in `{config.init_from}`" if config.init_from else ""


def _describe(method: MethodConfig) -> str:
    if method.kind == "full":
        return "All weights of"
    if method.kind == "prefix":
        return f"{method.name} adapter ({method.virtual_tokens} virtual tokens) for"
    return f"{method.name} adapter (rank {method.rank}, alpha {method.alpha:g}) for"


def _score_table(results: JsonObject, prompt: str | None, average: bool) -> str:
    scores = results["scores"]
    rows = [
        f"| {task} | {100 * score['accuracy']:.1f} ± {100 * score['stderr']:.1f} | {score['n']} |\n"
        for task, score in scores.items()
    ]
    if average and scores:
        rows.append(f"| average | {100 * results['average']:.1f} | |\n")
    note = f"\n{independent_note(scores)}.\n" if scores else ""
    return f"\n| task | accuracy (prompt {prompt}) | items |\n|---|---|---|\n{''.join(rows)}{note}"


def _base_name(model: ModelConfig) -> str:
    """The name of the base model; of the embedded one, which says less, also what it is."""
    embedded = model.kind == "embedded" and not model.path
    return f"{model.name} ({EMBEDDED_BASE})" if embedded else model.name


def _load_base(model: ModelConfig) -> str:
    if model.kind != "hub" and not model.path:
        return f'import mosld\nbase, tokenizer = mosld.load_base("{model.name}")'
    source = f'"{model.path}"' if model.path else f'"{model.hub}", revision="{model.revision}"'
    return f"from transformers import AutoModelForCausalLM\nbase = AutoModelForCausalLM.from_pretrained({source})"
