"""How many rows each task gives to an epoch, and the order of the rows as a function of (seed, epoch, index)."""

from collections import Counter
from dataclasses import replace

import pytest

from mosld.config.schema import DataConfig
from mosld.data.mixing import Order, apportion, quotas

COUNTS = {"big": 900, "small": 90, "tiny": 10}
DATA = DataConfig()


def drawn(order: Order, epochs: int) -> Counter:
    return Counter(row for step in range(epochs * order.steps_per_epoch) for row in order.rows(step))


def test_concatenation_takes_every_row():
    assert quotas(COUNTS, DATA) == COUNTS


def test_cap_limits_the_rows_of_each_task():
    assert quotas(COUNTS, replace(DATA, mixing="cap", cap=50)) == {"big": 50, "small": 50, "tiny": 10}


def test_weights_divide_the_same_number_of_rows():
    data = replace(DATA, mixing="weights", weights={"big": 1, "small": 1, "tiny": 2})
    assert quotas(COUNTS, data) == {"big": 250, "small": 250, "tiny": 500}


@pytest.mark.parametrize(("temperature", "big"), [(1, 900), (2, 702), (1e9, 333)])
def test_higher_temperature_is_more_even(temperature, big):
    rows = quotas(COUNTS, replace(DATA, mixing="temperature", temperature=temperature))
    # 30 / (30 + sqrt 90 + sqrt 10) of 1000 rows at temperature 2
    assert rows["big"] == pytest.approx(big, abs=1)
    assert sum(rows.values()) == 1000


def test_apportioned_parts_sum_to_the_total_and_none_is_empty():
    assert apportion(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    assert apportion(1000, {"a": 1e6, "b": 1})["b"] == 1


def test_epoch_of_all_rows_has_each_once():
    assert drawn(Order((7, 5), (7, 5), 4, 0), 1) == Counter(range(12))


def test_smaller_quota_continues_in_the_next_epoch():
    assert drawn(Order((10, 4), (5, 4), 3, 0), 2) == Counter(
        {**dict.fromkeys(range(10), 1), 10: 2, 11: 2, 12: 2, 13: 2}
    )


def test_larger_quota_repeats_all_rows_equally_often():
    assert drawn(Order((3, 2), (3, 6), 4, 0), 1) == Counter({0: 1, 1: 1, 2: 1, 3: 3, 4: 3})


def test_order_is_a_function_of_seed_epoch_and_index():
    order = Order((50, 9), (20, 18), 7, 3)
    later = order.rows(17)
    [order.rows(step) for step in range(30)]
    assert Order((50, 9), (20, 18), 7, 3).rows(17) == later
    assert Order((50, 9), (20, 18), 7, 4).rows(17) != later
    assert order.rows(0) != order.rows(order.steps_per_epoch)
