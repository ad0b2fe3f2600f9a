"""Orders of identities: what each promises, on small cases that can be counted by hand and on groups that are known."""

from __future__ import annotations

import numpy as np
import pytest

from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer import orders
from interproto_lib.views.explorer.orders import (
    ORDERS,
    cluster_order,
    cluster_order_in_background,
    name_order,
    similarity_order,
    value_order,
)


def groups(sizes, d=16, seed=0, spread=0.15):
    """Unit rows around one direction a group, shuffled; and the group of each row."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    directions = np.linalg.qr(rng.normal(size=(d, d)))[0][: len(sizes)]
    rows = directions[labels] + spread * rng.normal(size=(len(labels), d)) / np.sqrt(d)
    return rows.astype(np.float32), labels


def runs_of(labels):
    """How many stretches of equal labels there are."""
    return 1 + int((np.diff(labels) != 0).sum())


def test_names_are_sorted_as_text_and_equal_ones_stay():
    assert name_order(["b", "10", "a", "9", "a"]).tolist() == [1, 3, 2, 4, 0]


@pytest.mark.parametrize(("descending", "expected"), [(False, [3, 0, 2, 1, 4]), (True, [0, 2, 3, 1, 4])])
def test_values_are_sorted_with_missing_ones_last_and_equal_ones_in_place(descending, expected):
    assert value_order([0.5, np.nan, 0.5, 0.1, np.nan], descending=descending).tolist() == expected


def test_the_chosen_identity_comes_first_and_missing_ones_last():
    similarities = np.array([0.2, 0.9, np.nan, -0.4, 0.5], dtype=np.float32)
    assert similarity_order(similarities, chosen=2).tolist() == [2, 1, 4, 0, 3]
    assert similarity_order(similarities).tolist() == [1, 4, 0, 3, 2]
    assert np.isnan(similarities[2]), "the caller's values stay as they are"


@pytest.mark.parametrize("chosen", [-1, 5])
def test_a_chosen_identity_that_is_not_there_is_refused(chosen):
    with pytest.raises(ConfigError, match="no identity"):
        similarity_order(np.zeros(5), chosen)


def test_members_of_a_cluster_stand_side_by_side():
    rows, labels = groups([9, 14, 5, 22])
    order = cluster_order(rows)
    assert np.array_equal(np.sort(order), np.arange(50))
    assert runs_of(labels) > 20
    assert runs_of(labels[order]) == 4


def test_length_does_not_matter_but_direction_does():
    rows, labels = groups([10, 10, 10])
    scaled = rows * np.random.default_rng(1).uniform(0.1, 9, (30, 1)).astype(np.float32)
    assert runs_of(labels[cluster_order(scaled)]) == 3


def test_identities_without_a_direction_come_last():
    rows, labels = groups([8, 8])
    rows[[3, 11]] = np.nan
    rows[5] = 0
    order = cluster_order(rows)
    assert order[-3:].tolist() == [3, 5, 11]
    assert runs_of(labels[order[:-3]]) == 2


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_identities_have_an_order_too(n):
    assert sorted(cluster_order(np.ones((n, 3), dtype=np.float32)).tolist()) == list(range(n))


def test_many_identities_are_put_into_clusters_first(monkeypatch):
    monkeypatch.setattr(orders, "MOST_IN_ONE_TREE", 40)
    rows, labels = groups([60, 70, 45, 30, 20], spread=0.1)
    order = cluster_order(rows, seed=3)
    assert np.array_equal(np.sort(order), np.arange(225))
    assert runs_of(labels[order]) == 5
    assert np.array_equal(cluster_order(rows, seed=3), order)


def test_a_cluster_too_large_for_a_tree_runs_outward_from_its_middle(monkeypatch):
    monkeypatch.setattr(orders, "MOST_IN_ONE_TREE", 12)
    rows, _ = groups([60], spread=0.4)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    members = np.flatnonzero(np.arange(60) % 3)
    order = orders._within(unit, members)
    nearness = unit[order] @ unit[members].mean(axis=0)
    assert np.array_equal(np.sort(order), members)
    assert (np.diff(nearness) <= 1e-6).all()


def test_what_is_no_table_is_refused():
    with pytest.raises(ConfigError, match="shape"):
        cluster_order(np.zeros(4))


def test_the_background_gives_the_same_order_and_hands_on_errors():
    rows, _ = groups([9, 14])
    assert np.array_equal(cluster_order_in_background(rows).result(30), cluster_order(rows))
    with pytest.raises(ConfigError, match="shape"):
        cluster_order_in_background(np.zeros(4)).result(30)


def test_every_order_has_its_words():
    assert list(ORDERS) == ["identity", "cluster", "child_share", "age", "similarity"]
    assert all(ORDERS.values())
