# ruff: noqa: PD011 (SimilarityMatrix.values is an array)
"""Summaries of similarity matrices against plain loops over pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis import (
    SimilarityMatrix,
    most_confused_pairs,
    prototype_feature_gap,
    prototype_similarity,
    summarise_similarity,
)
from interproto_lib.errors import ConfigError
from interproto_lib.losses import inter_prototype_loss


def make_matrix(k=30, cohort="child-child", seed=0, missing=()):
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.5, 0.9, size=(k, k)).astype(np.float32)
    if cohort != "child-adult":
        values = (values + values.T) / 2
        np.fill_diagonal(values, np.nan)
    values[list(missing)] = np.nan
    values[:, list(missing)] = np.nan
    names = np.array([f"p{i:04d}" for i in range(k)], dtype=object)
    return SimilarityMatrix(
        values=values,
        row_identities=names,
        column_identities=names,
        cohort=cohort,
        intra=rng.uniform(size=k).astype(np.float32),
        n_row_images=rng.integers(1, 9, k),
        n_column_images=rng.integers(1, 9, k),
    )


def counted_pairs(matrix):
    """Every pair of different identities, once where the cohort is symmetric."""
    k = len(matrix.row_identities)
    return [
        (i, j)
        for i in range(k)
        for j in range(k)
        if i != j and (matrix.cohort == "child-adult" or i < j) and not np.isnan(matrix.values[i, j])
    ]


@pytest.mark.parametrize("cohort", ["child-child", "child-adult", "adult-adult"])
@pytest.mark.parametrize("missing", [(), (3, 17)])
def test_summary_equals_the_loop(cohort, missing):
    matrix = make_matrix(cohort=cohort, missing=missing)
    pairs = np.array([matrix.values[i, j] for i, j in counted_pairs(matrix)], dtype=np.float64)
    summary = summarise_similarity(matrix, threshold=0.25)
    k = 30 - len(missing)
    assert summary.n_pairs == len(pairs) == k * (k - 1) // (1 if cohort == "child-adult" else 2)
    assert summary.mean == pytest.approx(pairs.mean(), abs=1e-7)
    assert summary.rms == pytest.approx(np.sqrt((pairs**2).mean()), abs=1e-7)
    assert [summary.p05, summary.median, summary.p95] == pytest.approx(np.percentile(pairs, [5, 50, 95]), abs=1e-6)
    assert summary.max == pairs.max()
    assert summary.share_above == (pairs > 0.25).mean()
    assert summary.to_dict()["threshold"] == 0.25


def test_summary_of_several_blocks():
    matrix = make_matrix(k=1100)
    upper = matrix.values[np.triu_indices(1100, 1)].astype(np.float64)
    summary = summarise_similarity(matrix)
    assert summary.n_pairs == len(upper)
    assert summary.mean == pytest.approx(upper.mean(), abs=1e-9)


def test_array_is_taken_as_unordered_pairs_when_symmetric():
    rows = np.random.default_rng(1).normal(size=(40, 6))
    cosines = prototype_similarity(rows)
    summary = summarise_similarity(cosines)
    upper = cosines[np.triu_indices(40, 1)].astype(np.float64)
    assert summary.n_pairs == 780
    assert summary.mean == pytest.approx(upper.mean(), abs=1e-8)
    cosines[0, 1] += 0.1
    with pytest.raises(ConfigError, match="not symmetric"):
        summarise_similarity(cosines)
    assert summarise_similarity(cosines, both_orders=True).n_pairs == 1560
    with pytest.raises(ConfigError, match="square"):
        summarise_similarity(cosines[:5])
    with pytest.raises(ConfigError, match="leave both_orders out"):
        summarise_similarity(make_matrix(), both_orders=True)
    with pytest.raises(ConfigError, match="no pair"):
        summarise_similarity(make_matrix(k=1))


def test_rms_of_prototypes_is_the_loss():
    import torch

    rows = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    rms = summarise_similarity(prototype_similarity(rows.numpy())).rms
    assert rms**2 * 50 * 49 == pytest.approx(inter_prototype_loss(rows).item(), rel=1e-5)


@pytest.mark.parametrize("cohort", ["child-child", "child-adult"])
@pytest.mark.parametrize("k", [30, 600])
def test_most_confused_pairs(cohort, k):
    matrix = make_matrix(k=k, cohort=cohort, missing=(2,))
    table = most_confused_pairs(matrix, top=25)
    ranked = sorted(counted_pairs(matrix), key=lambda pair: -matrix.values[pair])[:25]
    assert list(zip(table["row_identity"], table["column_identity"], strict=True)) == [
        (matrix.row_identities[i], matrix.column_identities[j]) for i, j in ranked
    ]
    assert table["similarity"].tolist() == [float(matrix.values[pair]) for pair in ranked]
    assert table["n_row_images"].tolist() == [int(matrix.n_row_images[i]) for i, _ in ranked]
    assert table["n_column_images"].tolist() == [int(matrix.n_column_images[j]) for _, j in ranked]


def test_fewer_pairs_than_asked_for():
    assert len(most_confused_pairs(make_matrix(k=3), top=20)) == 3
    assert len(most_confused_pairs(make_matrix(k=1), top=20)) == 0
    with pytest.raises(ConfigError, match="at least 1"):
        most_confused_pairs(make_matrix(), top=0)


@pytest.mark.parametrize("cohort", ["child-child", "child-adult"])
def test_prototype_feature_gap_equals_the_loop(cohort):
    matrix = make_matrix(cohort=cohort, missing=(4,))
    rng = np.random.default_rng(2)
    prototypes = rng.normal(size=(40, 6))
    order = rng.permutation(40)
    names = np.array([f"p{i:04d}" for i in range(40)], dtype=object)[
        order
    ]  # classes in another order, and more of them
    classes = pd.DataFrame({"identity": names})
    row_of = {name: i for i, name in enumerate(names)}
    feature, cosine = [], []
    for i, j in counted_pairs(matrix):
        a, b = prototypes[row_of[f"p{i:04d}"]], prototypes[row_of[f"p{j:04d}"]]
        cosine.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        feature.append(float(matrix.values[i, j]))
    gap = np.array(cosine) - np.array(feature)
    result = prototype_feature_gap(matrix, prototypes, classes)
    assert result.n_pairs == len(gap)
    assert result.prototype_mean == pytest.approx(np.mean(cosine), abs=1e-6)
    assert result.feature_mean == pytest.approx(np.mean(feature), abs=1e-6)
    assert result.gap_mean == pytest.approx(gap.mean(), abs=1e-6)
    assert result.gap_rms == pytest.approx(np.sqrt((gap**2).mean()), abs=1e-6)
    assert [result.gap_p05, result.gap_median, result.gap_p95] == pytest.approx(
        np.percentile(gap, [5, 50, 95]), abs=1e-6
    )
    assert result.correlation == pytest.approx(np.corrcoef(cosine, feature)[0, 1], abs=1e-5)


def test_gap_errors():
    matrix = make_matrix()
    classes = pd.DataFrame({"identity": [f"p{i:04d}" for i in range(10)]})
    with pytest.raises(ConfigError, match="20 of 30 identities are not training classes"):
        prototype_feature_gap(matrix, np.ones((10, 3)), classes)
    with pytest.raises(ConfigError, match="9 prototypes do not fit 10 classes"):
        prototype_feature_gap(matrix, np.ones((9, 3)), classes)
