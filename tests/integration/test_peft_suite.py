"""PEFT's own tests: a mixture fails none that LoRA passes, but for what it refuses clearly.

The files are those of the sdist of the pinned version, which pip downloads once into pytest's cache. Of the methods,
MoSLD runs on all models, MixLoRA and MoA on those that generate, and each part of a mixture on PEFT's small MLP.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.helpers.peft_suite.tiny_hub import make_hub

PLUGIN = Path(__file__).parents[1] / "helpers/peft_suite"
FILES = {
    "test_custom_models": 200,
    "test_decoder_models": 150,
    "test_encoder_decoder_models": 30,
    "test_feature_extraction_models": 40,
    "test_seq_classifier": 30,
    "test_token_classification_qa": 5,
}
"""At least so many tests of mixtures pass in each."""

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def peft_tests(pytestconfig) -> Path:
    """The folder tests/ of the installed version's sdist."""
    pinned = version("peft")
    folder = pytestconfig.cache.mkdir(f"peft-{pinned}")
    sdist = folder / f"peft-{pinned}.tar.gz"
    if not sdist.exists():
        command = [sys.executable, "-m", "pip", "download", f"peft=={pinned}", "--no-deps", "--no-build-isolation"]
        done = subprocess.run([*command, "--no-binary", "peft", "--dest", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot download the sdist of peft {pinned}: {done.stderr.strip()[-200:]}")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    tests = folder / f"peft-{pinned}" / "tests"
    (tests / "__init__.py").touch()
    return tests


@pytest.fixture(scope="module")
def outcomes(peft_tests, tmp_path_factory) -> list[dict]:
    """The outcome of every test of LoRA and of a mixture."""
    hub = tmp_path_factory.mktemp("hub")
    make_hub(hub)
    file = hub / "outcomes.jsonl"
    paths = os.pathsep.join([str(PLUGIN), str(PLUGIN.parents[2])])
    variables = {"PYTHONPATH": paths, "OUTCOMES_FILE": str(file), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    options = ["-p", "mosld_rows", "-p", "no:cacheprovider", "-q", "--timeout=180", "-c", os.devnull]
    tests = [peft_tests / f"{name}.py" for name in FILES]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", peft_tests.parent, *tests]
    done = subprocess.run(command, cwd=hub, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode in (0, 1), (done.stdout + done.stderr)[-3000:]
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", FILES)
def test_a_mixture_fails_no_test_that_lora_passes(name, outcomes):
    failed: dict[str, dict[str, str]] = {"LORA": {}, "MOSLD": {}}
    counts = Counter()
    for line in outcomes:
        if line["file"] == name:
            counts[line["group"], line["outcome"]] += 1
            if line["outcome"] == "failed":
                failed[line["group"]][line["function"]] = f"{line['test']}: {line['error']}"
    print(name, dict(counts))
    assert {function: failed["MOSLD"][function] for function in failed["MOSLD"].keys() - failed["LORA"].keys()} == {}
    assert counts["MOSLD", "passed"] >= FILES[name]
    assert counts["LORA", "passed"] > counts["LORA", "failed"]
