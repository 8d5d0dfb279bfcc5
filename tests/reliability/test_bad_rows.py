"""Row 6: every kind of bad data row is named as file:line: reason, all at once, and nothing is made."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import bad_rows
from tests.helpers.cases import Case, Outcome, check_case, toy_data

pytestmark = pytest.mark.slow

# The command itself; whether it came as far as loading what a model needs.
TRAIN = "import sys; from mosld.train import main; code = main(sys.argv[1:]); print('torch' in sys.modules); exit(code)"


def cases(full: bool) -> list[Case]:
    """Every kind in one file of the project's form, and in the user's own csv and parquet files."""
    return [
        Case("every kind of bad row in one file", _all_at_once),
        *(Case(f"every kind of bad row in {form} files", partial(_own_files, form)) for form in bad_rows.FORMATS),
        Case("the command stops before a model loads", _before_a_model_loads),
    ]


def _all_at_once(folder: Path) -> Outcome:
    from mosld.config.schema import DataConfig

    path = toy_data(folder / "data") / "obqa" / "train.jsonl"
    kinds = bad_rows.BAD["obqa"].values()
    lines = [bad_rows.line(id="first"), *(content.split(b"\n")[0] for content, _ in kinds), bad_rows.line(id="last")]
    path.write_bytes(b"\n".join(lines))
    expected = [(f"{path}:{number}: ", reason) for number, (_, reason) in enumerate(kinds, start=2)]
    return Outcome(len(expected), bad_rows.unnamed_rows(DataConfig(tasks=["obqa"]), folder / "data", expected))


def _own_files(form: str, folder: Path) -> Outcome:
    count = sum(len(rows) for rows in bad_rows.FORMATS[form](folder).values())
    return Outcome(count, bad_rows.read_own_files(folder, form))


def _before_a_model_loads(folder: Path) -> None:
    (folder / "data").mkdir()
    expected = bad_rows.write_csv(folder / "data")["law"]
    columns = ", ".join(f"{field}: {column}" for field, column in bad_rows.MAPS["law"].items())
    command = [
        "data=local", "source=local", f"source.root={folder / 'data' / 'law.csv'}", f"data.columns={{{columns}}}",
        "model=tiny", "debug=fast", "logger=files", f"output_dir={folder / 'run'}",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", TRAIN, *command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stdout == "False\n"
    messages = [line.removeprefix("error: ") for line in done.stderr.splitlines()]
    assert bad_rows.missed(messages, expected) == [], done.stderr
    assert not (folder / "run").exists()


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
