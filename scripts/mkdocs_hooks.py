"""Hook of mkdocs.yml: the tables of docs/reference/configuration.md, generated from the schema of the config."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

from mosld.config.groups import group_options
from mosld.config.schema import Config

PAGE = "reference/configuration.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the tables where the page has a comment for them; mkdocs calls this for every page."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace("<!-- groups -->", groups_table()).replace("<!-- keys -->", "\n".join(key_tables(Config)))


def groups_table() -> str:
    """One row for each config group."""
    rows = [
        f"| `{group}=` | {' '.join(f'`{option}`' for option in options)} |"
        for group, options in group_options().items()
        if options
    ]
    return "\n".join(["| group | options |", "|---|---|", *rows])


def key_tables(cls: type, prefix: str = "") -> Iterator[str]:
    """A table of the keys of a config dataclass, then one section for each group inside it."""
    hints = get_type_hints(cls)
    groups = [field for field in dataclasses.fields(cls) if dataclasses.is_dataclass(hints[field.name])]
    yield from ["| key | type | default | meaning | affects results |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        if field not in groups:
            yield key_row(prefix + field.name, field, hints[field.name])
    for field in groups:
        yield from ["", f"### {prefix}{field.name}", "", str(hints[field.name].__doc__), ""]
        yield from key_tables(hints[field.name], f"{prefix}{field.name}.")


def key_row(key: str, field: dataclasses.Field[Any], hint: Any) -> str:
    """The row of one key: type, default, help, choices and range."""
    rules = field.metadata
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
    meaning = rules["help"]
    if rules["choices"]:
        meaning += f" One of {', '.join(f'`{choice}`' for choice in rules['choices'])}."
    if rules["minimum"] is not None:
        meaning += f" At least {rules['minimum']}."
    if rules["below"] is not None:
        meaning += f" Below {rules['below']}."
    affects = "yes" if rules["affects_results"] else "no"
    return f"| `{key}` | {type_name(hint)} | `{yaml_value(default)}` | {escape(meaning)} | {affects} |"


def type_name(hint: Any) -> str:
    """A type as the user sees it in YAML."""
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    return name.replace("typing.", "").replace("dict[str, Any]", "map").replace("None", "null").replace(" | ", " or ")


def yaml_value(value: Any) -> str:
    """A default as YAML writes it."""
    words = {None: "null", True: "true", False: "false", "": '""'}
    return words[value] if isinstance(value, bool | str | None) and value in words else str(value)


def escape(text: str) -> str:
    """Text for a cell of a Markdown table: `<task>` and `|` would be read as markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
