"""docs/how-to/adding_a_method.md: the YAML that it shows is a whole method, trained and scored with no other change."""

import json
import re
from pathlib import Path

import pytest

import mosld
from mosld import eval, train
from tests.helpers.toy_runs import evaluation_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "how-to" / "adding_a_method.md").read_text()


@pytest.fixture
def with_the_new_method(tmp_path, monkeypatch):
    """The document's YAML where it says."""
    (yaml,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.S)
    path = tmp_path / "conf" / "method" / "mosld_ffn.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml)
    monkeypatch.chdir(tmp_path)


def test_the_yaml_of_the_document_is_a_method_that_trains_and_evaluates(with_the_new_method, tmp_path, toy_root):
    run = tmp_path / "run"
    data = ["source=local", f"source.root={toy_root}", "data.tasks=[obqa,arc_e]"]
    options = ["method=mosld_ffn", "model=tiny", "debug=fast", "logger=files", f"output_dir={run}"]
    assert train.main([*options, *data]) == 0
    assert eval.main([f"run={run}"]) == 0
    before = json.loads((run / "results.json").read_text())
    after = json.loads((evaluation_of(run, "mixture") / "results.json").read_text())
    assert before["method"] == "mosld_ffn"
    assert after["scores"] == before["scores"]


def test_it_works_from_python(with_the_new_method, tiny):
    model = mosld.adapt(tiny, "mosld_ffn")
    layer = model.base_model.model.model.layers[0]
    assert layer.mlp.gate_proj.mosld_mixture["default"].router is not None
    assert layer.self_attn.q_proj.mosld_mixture["default"].router is None
