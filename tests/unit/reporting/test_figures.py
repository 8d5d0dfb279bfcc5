"""Figures: those that the runs allow, labelled with units, readable without colour, the same bytes each time."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib import colormaps

from mosld.evaluation.validation import Validation
from mosld.reporting import style as drawing
from mosld.reporting.blocks import Block, grids, make_blocks, sweeps
from mosld.reporting.collect import collect
from mosld.reporting.compare import Predictions
from mosld.reporting.figures import gain_figure, setting_figures, weights_figure
from mosld.reporting.figures_across import MAX_LINES, loss_figure, openorca_figures, subject_figure
from mosld.reporting.run import Run
from mosld.reporting.style import RenderedFigure
from mosld.reporting.tables import gains_table
from tests.helpers.result_trees import SIX, answers, blocks, run, single, write_run


def kind(figure: RenderedFigure | None) -> str | None:
    return figure.title.split(",")[0] if figure else None


def drawn(block: Block) -> list[str | None]:
    return [kind(plan()) for plan in setting_figures(block)]


def test_rows_that_differ_in_one_setting_are_lines_by_task():
    (block,) = blocks(*(run(config={"method.dropout": dropout}) for dropout in (0.0, 0.1, 0.3)))
    (sweep,) = sweeps(block)
    assert (sweep.name, sweep.key, [x for x, _ in sweep.rows]) == ("mosld", "method.dropout", [0.0, 0.1, 0.3])
    assert drawn(block) == ["mosld by dropout"]


def test_rows_that_differ_in_two_settings_are_no_line():
    (block,) = blocks(run(), run(config={"method.dropout": 0.3, "method.rank": 4}))
    assert list(sweeps(block)) == []


def test_dropout_and_rank_are_a_heat_map():
    cells = [(rank, dropout) for rank in (4, 8) for dropout in (0.1, 0.3)][:3]
    (block,) = blocks(*(run(config={"method.rank": rank, "method.dropout": dropout}) for rank, dropout in cells))
    (grid,) = grids(block)
    assert (grid.ranks, grid.dropouts, sorted(grid.rows)) == ([4, 8], [0.1, 0.3], sorted(cells))
    assert "mosld by dropout and rank" in drawn(block)


def test_allocations_are_bars():
    (block,) = blocks(*(run(config={"allocation.experts": shape}) for shape in ([8, 6, 4, 2], [5, 5, 5, 5])))
    assert drawn(block) == ["mosld by allocation of experts"]


def test_figures_of_mosld_come_first():
    settings = [(method, rank) for method in ("lora", "mosld") for rank in (4, 8)]
    (block,) = blocks(*(run(method=method, config={"method.rank": rank}) for method, rank in settings))
    assert drawn(block) == ["mosld by rank", "lora by rank"]


def test_accuracy_is_drawn_against_weights_if_they_differ():
    sizes = {"lora": 100, "mola": 500}
    (block,) = blocks(*(run(method=m, parameters={"trainable": n, "total": 1000}) for m, n in sizes.items()))
    assert kind(weights_figure(block)) == "accuracy against trained weights"
    assert weights_figure(blocks(run())[0]) is None


def test_gains_are_bars():
    mixture, alone = blocks(run(), single("obqa"))
    table = gains_table(mixture, [alone], {})
    assert table
    assert kind(gain_figure(table)) == "mixture minus single"


def test_mmlu_is_a_box_of_subjects(tmp_path: Path):
    path = write_run(tmp_path / "a", {"mmlu": answers("1100")}, data="mmlu")
    predictions = path / "predictions" / "mmlu.jsonl"
    predictions.write_text(predictions.read_text().replace("mmlu/", "anatomy/test/").replace("test/3", "x/3"))
    (block,) = make_blocks(collect([str(tmp_path)]))
    assert kind(subject_figure(block, Predictions())) == "accuracy by subject"
    assert subject_figure(blocks(run())[0], Predictions()) is None  # no MMLU


def openorca(train_rows: int, rows: str) -> Run:
    mixture = run(data="mixture_openorca", rows=rows, name=rows)
    mixture.results["data"]["fingerprints"] = {task: f"{task}-a" for task in mixture.scores}
    mixture.results["data"]["counts"] = {"openorca": {"train": train_rows}}
    return mixture


def test_amounts_of_openorca_are_joined_over_tables_without_rows_that_have_none():
    ((_, figure),) = openorca_figures(blocks(run(method="lora"), run(), openorca(125, "b"), openorca(250, "c")))
    assert kind(figure) == "accuracy by rows of OpenOrca"
    assert ("lora" in figure.svg, "mosld" in figure.svg) == (False, True)
    assert list(openorca_figures(blocks(openorca(1375, "b")))) == []  # one amount is no line


def test_losses_are_lines(tmp_path: Path):
    path = write_run(tmp_path / "a", {task: answers("10") for task in SIX})
    lines = [f'{{"step": {i}, "epoch": 0.1, "tokens": 3, "cross_entropy": {5 / i}, "x": 1}}' for i in range(1, 300)]
    (path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 300, "cross_entropy": null}', '{"step": 3']))
    (block,) = make_blocks(collect([str(tmp_path)]))
    figure = loss_figure(block)
    assert kind(figure) == "loss"
    assert "<!-- validation -->" not in figure.svg
    validation = Validation(dict.fromkeys(SIX, 0.5), dict.fromkeys(SIX, 2.5)).record()
    (path / "metrics.jsonl").write_text("\n".join([*lines, json.dumps({"step": 300, **validation})]))
    assert "<!-- validation -->" in loss_figure(block).svg
    assert loss_figure(blocks(run())[0]) is None  # no metrics.jsonl


def test_same_runs_give_the_same_labelled_svg_and_png(tmp_path: Path):
    (block,) = blocks(*(run(config={"method.rank": rank}) for rank in (4, 8)))
    (plan,) = setting_figures(block)
    figure = plan()
    assert figure is not None
    assert plan() == figure
    assert ["rank r" in figure.svg, "accuracy, %" in figure.svg] == [True, True]
    assert figure.write(tmp_path, "rank") == ["rank.png", "rank.svg"]
    assert ElementTree.parse(tmp_path / "rank.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "rank.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_lines_and_points_and_bars_differ_in_grey():
    lines = [(look["marker"], str(look["linestyle"])) for look in map(drawing.line_style, range(20))]
    assert len(set(lines)) == 20
    assert len({look["marker"] for look in map(drawing.line_style, range(8))}) == 8
    points = [(look["marker"], look["fillstyle"]) for look in map(drawing.line_style, range(MAX_LINES))]
    assert len(set(points)) == MAX_LINES
    assert len(set(drawing.HATCHES)) == len(drawing.HATCHES)


def test_heat_map_only_darkens_in_grey_and_its_numbers_are_white_on_dark_cells():
    colours = colormaps[drawing.HEAT_MAP_COLOURS]
    greys = [sum(w * c for w, c in zip((0.299, 0.587, 0.114), colours(i / 20)[:3], strict=True)) for i in range(21)]
    assert greys == sorted(greys, reverse=True)
    with drawing.style():
        _, ((axes,),) = drawing.new_panels("a map", 1, 1, (2, 2))
        image = drawing.heat_map(axes, [[0, 1], [float("nan"), 0.3]], 0, 1)
        drawing.annotate_cells(axes, [["least", "most"], ["no run", "some"]], image)
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        "least": "black", "most": "white", "no run": "black", "some": "black",
    }  # fmt: skip
    assert axes.patch.get_hatch() == "////"


def test_long_legend_widens_the_figure_and_a_short_one_does_not():
    widths = []
    for name in ("lora", "mosld experts=2468 (inverted_triangle) rank=32"):
        with drawing.style():
            figure, axes = drawing.new_axes("t", "x", "y")
            axes.plot([0, 1], label=name)
            drawing.legend(axes, 1)
        widths.append(figure.get_size_inches()[0])
    assert widths == [7.2, pytest.approx(9, abs=1.5)]
    assert widths[1] > 7.3
