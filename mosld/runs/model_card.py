"""The README.md of what a run saved: what it is, what it scored, how to load it."""

from pathlib import Path
from typing import Any

from mosld.common.files import write_text
from mosld.config.schema import Config

ADAPTER = """{register}from peft import PeftModel
{base}
model = PeftModel.from_pretrained(base, "path/to/this/directory")"""
WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")"""
REGISTER = "import mosld.adapters  # registers the mixture with peft; without it: KeyError 'MOSLD'\n"


def write_model_card(folder: Path, config: Config, results: dict[str, Any]) -> None:
    """Write README.md; hub metadata stands in its YAML head."""
    model = config.model
    head = [
        "---",
        f"library_name: {'transformers' if config.method.kind == 'full' else 'peft'}",
        *([f"base_model: {model.hub}"] if model.hub else []),
        "tags:",
        "- mosld",
    ]
    lines = [
        *head,
        *([f"- {config.method.name}"] if config.method.name != "mosld" else []),
        "---",
        f"# {results['name']}",
        "",
    ]
    lines += [
        f"{_what(config)} {model.name}, trained by mosld on "
        f"{config.data.name} ({', '.join(config.data.tasks)}; source {config.source.name}), "
        f"seed {config.seed}, {results['parameters']['trainable']:,} trainable parameters.",
        "",
        f"| task | accuracy (prompt {config.prompt}) | items |",
        "|---|---|---|",
    ]
    lines += [
        f"| {task} | {100 * score['accuracy']:.1f} ± {100 * score['stderr']:.1f} | {score['n']} |"
        for task, score in results["scores"].items()
    ]
    if results["scores"]:
        lines.append(f"| average | {100 * results['average']:.1f} | |")
    lines += ["", "## Loading", "", "```python"]
    lines += [
        _loading(config),
        "```",
        "",
        "Score it: `python -m mosld.eval run=path/to/this/directory`",
    ]
    write_text(folder / "README.md", "\n".join(lines) + "\n")


def _what(config: Config) -> str:
    method = config.method
    if method.kind == "full":
        return "All weights of"
    size = f"{method.virtual_tokens} virtual tokens" if method.kind == "prefix" else f"rank {method.rank}"
    scale = "" if method.kind == "prefix" else f", alpha {method.alpha:g}"
    return f"{method.name} adapter ({size}{scale}) for"


def _loading(config: Config) -> str:
    if config.method.kind == "full":
        return WHOLE
    return ADAPTER.format(register=REGISTER if config.method.kind == "mixture" else "", base=_base_line(config))


def _base_line(config: Config) -> str:
    model = config.model
    if model.kind != "hub" and not model.path:
        return f'import mosld\nbase, tokenizer = mosld.load_base("{model.name}")'
    place = f'"{model.path}"' if model.path else f'"{model.hub}", revision="{model.revision}"'
    return f"from transformers import AutoModelForCausalLM\nbase = AutoModelForCausalLM.from_pretrained({place})"
