"""Figures: those that the runs allow, labelled with units, readable without colour, the same bytes each time."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib import colormaps

from mosld.reporting import figures
from mosld.reporting import style as drawing
from mosld.reporting.blocks import grids, make_blocks, sweeps
from mosld.reporting.collect import collect
from mosld.reporting.compare import Outcomes
from mosld.reporting.figures_across import MOST_LINES, loss_figure, openorca_figures, subject_figure
from mosld.reporting.tables import gains_table
from tests.helpers.result_trees import SIX, blocks, right, run, single, write_run

SHADES = colormaps[drawing.SHADES]


def drawn(plans: list[figures.Plan]) -> list[str]:
    return [figure.title.split(",")[0] for plan in plans if (figure := plan())]


def test_a_sweep_is_a_line_by_task():
    (block,) = blocks(*(run(config={"method.dropout": dropout}) for dropout in (0.0, 0.1, 0.3)))
    ((method, key, rows),) = sweeps(block)
    assert (method, key, [x for x, _ in rows]) == ("mosld", "method.dropout", [0.0, 0.1, 0.3])
    assert drawn(figures.setting_figures(block)) == ["mosld by dropout"]


def test_rows_that_differ_in_two_settings_are_no_line():
    (block,) = blocks(run(), run(config={"method.dropout": 0.3, "method.rank": 4}))
    assert list(sweeps(block)) == []


def test_dropout_and_rank_are_a_map():
    places = [(rank, dropout) for rank in (4, 8) for dropout in (0.1, 0.3)][:3]
    (block,) = blocks(*(run(config={"method.rank": rank, "method.dropout": dropout}) for rank, dropout in places))
    ((_, ranks, dropouts, cells),) = grids(block)
    assert (ranks, dropouts, sorted(cells)) == ([4, 8], [0.1, 0.3], sorted(places))
    assert "mosld by dropout and rank" in drawn(figures.setting_figures(block))


def test_allocations_are_bars():
    shapes = ([8, 6, 4, 2], [5, 5, 5, 5])
    (block,) = blocks(*(run(config={"allocation.experts": shape}) for shape in shapes))
    assert drawn(figures.setting_figures(block)) == ["mosld by allocation of experts"]


def test_mosld_comes_first():
    settings = [(method, rank) for method in ("lora", "mosld") for rank in (4, 8)]
    (block,) = blocks(*(run(method=method, config={"method.rank": rank}) for method, rank in settings))
    assert drawn(figures.setting_figures(block)) == ["mosld by rank", "lora by rank"]


def test_weights_are_compared_where_they_differ():
    sizes = {"lora": 100, "mola": 500}
    (block,) = blocks(*(run(method=m, parameters={"trainable": n, "total": 1000}) for m, n in sizes.items()))
    figure = figures.price_figure(block)
    assert figure is not None
    assert figure.title.startswith("accuracy against trained weights")
    assert figures.price_figure(blocks(run())[0]) is None


def test_gains_are_bars():
    mixture, alone = blocks(run(), single("obqa"))
    table = gains_table(mixture, [alone], {})
    assert table is not None
    assert figures.gain_figure(table).title.startswith("mixture minus single")


def test_mmlu_is_a_box_of_subjects(tmp_path: Path):
    path = write_run(tmp_path / "a", {"mmlu": right("1100")}, data="mmlu")
    predictions = path / "predictions" / "mmlu.jsonl"
    predictions.write_text(predictions.read_text().replace("mmlu/", "anatomy/test/").replace("test/3", "x/3"))
    (block,) = make_blocks(collect([str(tmp_path)]))
    figure = subject_figure(block, Outcomes())
    assert figure is not None
    assert figure.title.startswith("accuracy by subject")


def test_other_tasks_have_no_subjects():
    assert subject_figure(blocks(run())[0], Outcomes()) is None


def openorca(amount: int, rows: str):
    found = run(data="mixture_openorca", rows=rows, name=rows)
    found.results["data"]["fingerprints"] = {task: f"{task}-a" for task in found.scores}
    found.results["data"]["counts"] = {"openorca": {"train": amount}}
    return found


def test_amounts_of_openorca_are_joined_over_tables():
    titles = [figure.title for _, figure in openorca_figures(blocks(run(), openorca(1375, "b"), openorca(2750, "c")))]
    assert [title.split(",")[0] for title in titles] == ["accuracy by rows of OpenOrca"]


def test_one_amount_of_openorca_is_no_line():
    assert list(openorca_figures(blocks(openorca(1375, "b")))) == []


def test_losses_are_lines(tmp_path: Path):
    path = write_run(tmp_path / "a", {task: right("10") for task in SIX})
    lines = [f'{{"step": {i}, "epoch": 0.1, "tokens": 3, "cross_entropy": {5 / i}, "x": 1}}' for i in range(1, 300)]
    (path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 300, "cross_entropy": null}', '{"step": 3']))
    (block,) = make_blocks(collect([str(tmp_path)]))
    figure = loss_figure(block)
    assert figure is not None
    assert figure.title.startswith("loss")


def test_no_losses_no_figure():
    assert loss_figure(blocks(run())[0]) is None


@pytest.fixture(scope="module")
def figure() -> drawing.Drawn:
    (block,) = blocks(*(run(config={"method.rank": rank}) for rank in (4, 8)))
    (plan,) = figures.setting_figures(block)
    found = plan()
    assert found is not None
    return found


def test_the_same_runs_give_the_same_bytes(figure: drawing.Drawn):
    (block,) = blocks(*(run(config={"method.rank": rank}) for rank in (4, 8)))
    (plan,) = figures.setting_figures(block)
    assert plan() == figure


def test_a_figure_is_svg_and_png(figure: drawing.Drawn):
    root = ElementTree.fromstring(figure.svg)
    assert (root.tag.endswith("svg"), figure.png[:8]) == (True, b"\x89PNG\r\n\x1a\n")


def test_axes_are_labelled(figure: drawing.Drawn):
    assert ["rank r" in figure.svg, "accuracy, %" in figure.svg] == [True, True]


def test_no_two_of_the_first_lines_look_alike_in_grey():
    looks = [(look["marker"], str(look["linestyle"])) for look in map(drawing.line_style, range(20))]
    assert len(set(looks)) == 20
    assert len({look["marker"] for look in map(drawing.line_style, range(8))}) == 8


def test_no_two_points_of_a_figure_look_alike_in_grey():
    looks = [(look["marker"], look["fillstyle"]) for look in map(drawing.line_style, range(MOST_LINES))]
    assert len(set(looks)) == MOST_LINES


def test_bars_differ_by_hatch():
    assert len(set(drawing.HATCHES)) == len(drawing.HATCHES)


def test_numbers_in_a_map_are_white_on_dark_cells_alone():
    with drawing.style():
        _, ((axes,),) = drawing.new_panels("a map", 1, 1, (2, 2))
        image = drawing.heat_map(axes, [[0, 1], [float("nan"), 0.3]], 0, 1)
        drawing.write_in(axes, [["least", "most"], ["no run", "some"]], image)
    found = {text.get_text(): text.get_color() for text in axes.texts}
    assert found == {"least": "black", "most": "white", "no run": "black", "some": "black"}
    assert axes.patch.get_hatch() == "////"


def test_the_shades_of_a_map_only_darken_in_grey():
    greys = [sum(w * c for w, c in zip((0.299, 0.587, 0.114), SHADES(i / 20)[:3], strict=True)) for i in range(21)]
    assert greys == sorted(greys, reverse=True)


def test_a_figure_is_written_under_one_name(figure: drawing.Drawn, tmp_path: Path):
    assert figure.write(tmp_path, "rank") == ["rank.png", "rank.svg"]
    assert ((tmp_path / "rank.png").read_bytes(), (tmp_path / "rank.svg").read_text()) == (figure.png, figure.svg)


def test_a_long_legend_widens_the_figure_and_not_a_short_one():
    widths = {}
    for name in ("lora", "mosld experts=2468 (inverted_triangle) rank=32"):
        with drawing.style():
            figure, axes = drawing.new_axes("t", "x", "y")
            axes.plot([0, 1], label=name)
            drawing.legend(axes, 1)
        widths[name] = figure.get_size_inches()[0]
    assert list(widths.values()) == [7.2, pytest.approx(9, abs=1.5)]
    assert widths.popitem()[1] > 7.3


def test_rows_without_openorca_are_no_part_of_its_figure():
    plain = [run(method="lora"), run(), openorca(125, "b"), openorca(250, "c")]
    ((_, figure),) = openorca_figures(blocks(*plain))
    assert ("lora" in figure.svg, "mosld" in figure.svg) == (False, True)
