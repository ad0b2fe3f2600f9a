# ruff: noqa: PD011 (SimilarityMatrix.values is an array)
"""Similarity by class means against loops over image pairs written from Eq. 1 and Eq. 2."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis import (
    COHORTS,
    SimilarityMatrix,
    class_means,
    cohort_identities,
    cohort_similarity,
    inter_class_similarity,
    intra_class_similarity,
    prototype_similarity,
    sample_identities,
)
from interproto_lib.errors import ConfigError, DatasetError


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embeddings_and_labels(n=60, d=8, k=7, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(n, d)) + 0.5).astype(np.float32), rng.integers(0, k, n)


def reference_inter(x, labels, y, other_labels, k, k2):
    """Eq. 2, image pair by image pair, in float64."""
    values = np.full((k, k2), np.nan)
    for i in range(k):
        for j in range(k2):
            products = [
                math.fsum(float(a) * float(b) for a, b in zip(x[p], y[q], strict=True))
                for p in np.flatnonzero(labels == i)
                for q in np.flatnonzero(other_labels == j)
            ]
            if products:
                values[i, j] = math.fsum(products) / len(products)
    return values


def reference_intra(x, labels, prototypes):
    """Eq. 1, image by image."""
    result = []
    for i, prototype in enumerate(prototypes.astype(np.float64)):
        cosines = [
            float(x[p].astype(np.float64) @ prototype) / np.linalg.norm(prototype) for p in np.flatnonzero(labels == i)
        ]
        result.append(np.mean(cosines) if cosines else np.nan)
    return np.array(result)


def test_class_means_equal_numpy_means():
    x, labels = embeddings_and_labels()
    labels[5:9] = -1
    means, counts = class_means(x, labels, 9)
    for i in range(7):
        np.testing.assert_allclose(means[i], x[labels == i].astype(np.float64).mean(axis=0), rtol=1e-14)
    assert counts.tolist() == [int((labels == i).sum()) for i in range(9)]
    assert np.isnan(means[7:]).all()
    assert means.dtype == np.float64


def test_class_means_do_not_depend_on_blocks_or_order():
    rng = np.random.default_rng(3)
    x = unit(rng.normal(size=(20_000, 4))).astype(np.float32)  # more than two blocks of rows
    labels = rng.integers(0, 3, len(x))
    means, counts = class_means(x, labels, 3)
    expected = np.stack([x[labels == i].astype(np.float64).mean(axis=0) for i in range(3)])
    np.testing.assert_allclose(means, expected, atol=1e-14)
    order = rng.permutation(len(x))
    again, again_counts = class_means(x[order], labels[order], 3)
    np.testing.assert_allclose(again, means, atol=1e-14)
    assert np.array_equal(counts, again_counts)


def test_intra_equals_the_loop():
    x, labels = embeddings_and_labels()
    prototypes = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32) * 3
    result = intra_class_similarity(x, labels, prototypes)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference_intra(x, labels, prototypes), atol=1e-6)
    assert np.isnan(result[7])


def test_inter_equals_the_loop_over_pairs():
    x, labels = embeddings_and_labels()
    expected = reference_inter(x, labels, x, labels, 8, 8)
    np.fill_diagonal(expected, np.nan)
    result = inter_class_similarity(x, labels, n_classes=8)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert np.isnan(result[7]).all()
    assert np.isnan(np.diagonal(result)).all()
    assert np.array_equal(result, result.T, equal_nan=True)


def test_inter_between_two_groups_equals_the_loop():
    x, labels = embeddings_and_labels(n=30, k=4)
    y, other_labels = embeddings_and_labels(n=25, k=5, seed=9)
    result = inter_class_similarity(x, labels, y, other_labels)
    np.testing.assert_allclose(result, reference_inter(x, labels, y, other_labels, 4, 5), atol=1e-6)
    assert not np.isnan(result).any()


def test_many_identities_across_blocks():
    x, labels = embeddings_and_labels(n=4000, d=6, k=2500, seed=4)
    result = inter_class_similarity(x, labels, n_classes=2500)
    means = np.full((2500, 6), np.nan)
    for i in set(labels.tolist()):
        means[i] = x[labels == i].astype(np.float64).mean(axis=0)
    expected = means @ means.T
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(result, expected, atol=1e-7)


def test_embeddings_that_are_not_unit_rows_are_refused():
    x, labels = embeddings_and_labels()
    x[17] *= 1.5
    with pytest.raises(ConfigError, match=r"row 17 of embeddings has length 1\.5"):
        inter_class_similarity(x, labels)
    x[17] = np.nan
    with pytest.raises(ConfigError, match="row 17"):
        intra_class_similarity(x, labels, np.ones((7, 8)))
    labels[17] = -1  # left out: not looked at
    inter_class_similarity(x, labels)


def make_case():
    """Six identities: a-d with child and adult images, e only child, f only adult; some unlabelled, some held out."""
    rng = np.random.default_rng(5)
    rows = []
    for identity in "fbadce":  # not sorted
        for age in {"e": [3, 5], "f": [40, 41, np.nan]}.get(identity, [4, 12.5, 13, 30, np.nan]):
            rows.append((identity, age, "train"))
        rows.append((identity, 7, "heldout"))
    manifest = pd.DataFrame(rows, columns=["identity", "age_years", "split"])
    x = unit(rng.normal(size=(len(manifest), 5)) + 0.4).astype(np.float32)
    classes = pd.DataFrame({"identity": list("abcdef")})
    prototypes = rng.normal(size=(6, 5)).astype(np.float32)
    return x, manifest, prototypes, classes


def select(manifest, group):
    ages, train = manifest["age_years"].to_numpy(), (manifest["split"] == "train").to_numpy()
    return train & {"child": ages < 13, "adult": ages >= 13, "all": np.ones(len(ages), dtype=bool)}[group]


@pytest.mark.parametrize(
    ("cohort", "expected_identities"),
    [("child-child", "abcde"), ("child-adult", "abcd"), ("adult-adult", "abcdf"), ("all", "abcdef")],
)
def test_cohorts_equal_the_loops(cohort, expected_identities):
    x, manifest, prototypes, classes = make_case()
    matrix = cohort_similarity(x, manifest, prototypes, classes, cohort=cohort)
    assert list(matrix.row_identities) == list(matrix.column_identities) == list(expected_identities)
    assert list(cohort_identities(manifest, cohort)) == list(expected_identities)
    k = len(expected_identities)
    labels = manifest["identity"].map({name: i for i, name in enumerate(expected_identities)}).fillna(-1).to_numpy(int)
    rows, columns = COHORTS[cohort]
    row_labels = np.where(select(manifest, rows), labels, -1)
    column_labels = np.where(select(manifest, columns), labels, -1)
    expected = reference_inter(x, row_labels, x, column_labels, k, k)
    if rows == columns:
        np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(matrix.values, expected, atol=1e-6)
    own = prototypes[["abcdef".index(name) for name in expected_identities]]
    intra = reference_intra(x, row_labels, own)
    np.testing.assert_allclose(matrix.intra, intra, atol=1e-6)
    assert matrix.n_row_images.tolist() == [int((row_labels == i).sum()) for i in range(k)]
    assert matrix.n_column_images.tolist() == [int((column_labels == i).sum()) for i in range(k)]
    with_diagonal = matrix.with_diagonal()
    np.testing.assert_allclose(np.diagonal(with_diagonal), intra, atol=1e-6)
    off = ~np.eye(k, dtype=bool)
    assert np.array_equal(with_diagonal[off], matrix.values[off])
    assert matrix.both_orders is (cohort == "child-adult")


def test_named_identities_keep_their_places_as_nan():
    x, manifest, prototypes, classes = make_case()
    matrix = cohort_similarity(x, manifest, prototypes, classes, cohort="child-adult", identities=["e", "b", "f"])
    assert list(matrix.row_identities) == ["e", "b", "f"]
    assert np.isnan(matrix.values[:, 0]).all()  # e has no adult image
    assert np.isnan(matrix.values[2]).all()  # f has no child image
    assert np.isfinite(matrix.values[:2, 1:]).all()
    assert np.isfinite(matrix.intra[:2]).all()
    assert np.isnan(matrix.intra[2])


def test_child_and_adult_ages_can_leave_a_gap_and_held_out_images_have_no_prototypes():
    x, manifest, prototypes, classes = make_case()
    strict = cohort_similarity(x, manifest, prototypes, classes, cohort="adult-adult", adult_from_years=18)
    assert strict.n_row_images.tolist() == [1, 1, 1, 1, 2]
    held_out = cohort_similarity(x, manifest, None, None, cohort="child-child", split="heldout")
    assert held_out.n_row_images.tolist() == [1] * 6
    assert np.isnan(held_out.intra).all()
    rows = (manifest["split"] == "heldout").to_numpy()
    order = np.argsort(manifest["identity"][rows].to_numpy())
    expected = x[rows][order].astype(np.float64) @ x[rows][order].T.astype(np.float64)
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(held_out.values[off], expected[off], atol=1e-6)


def test_cohort_errors():
    x, manifest, prototypes, classes = make_case()
    with pytest.raises(ConfigError, match="unknown cohort 'old'"):
        cohort_similarity(x, manifest, prototypes, classes, cohort="old")
    with pytest.raises(ConfigError, match="embeddings do not fit"):
        cohort_similarity(x[1:], manifest, prototypes, classes)
    with pytest.raises(ConfigError, match="'b' is given twice"):
        cohort_similarity(x, manifest, prototypes, classes, identities=["b", "b"])
    with pytest.raises(ConfigError, match="is empty"):
        cohort_similarity(x, manifest, prototypes, classes, identities=[])
    with pytest.raises(ConfigError, match="'z': they have no prototype"):
        cohort_similarity(x, manifest, prototypes, classes, identities=["a", "z"])
    with pytest.raises(ConfigError, match="overlap"):
        cohort_similarity(x, manifest, prototypes, classes, adult_from_years=10)
    with pytest.raises(ConfigError, match="together"):
        cohort_similarity(x, manifest, prototypes, None)
    with pytest.raises(ConfigError, match="5 prototypes do not fit 6 classes"):
        cohort_similarity(x, manifest, prototypes[1:], classes)
    with pytest.raises(ConfigError, match="prototype 2 has length zero"):
        cohort_similarity(x, manifest, prototypes * (np.arange(6) != 2)[:, None], classes)
    with pytest.raises(DatasetError, match="child-child"):
        cohort_similarity(x, manifest.assign(age_years=np.nan), prototypes, classes)


def test_class_means_errors():
    x, labels = embeddings_and_labels()
    with pytest.raises(ConfigError, match=r"label 7 in row 3 is outside \[-1, 7\)"):
        class_means(x, np.where(np.arange(60) == 3, 7, labels), 7)
    with pytest.raises(ConfigError, match="do not fit"):
        class_means(x, labels[1:], 7)
    with pytest.raises(ConfigError, match="integers"):
        class_means(x, labels.astype(float), 7)
    with pytest.raises(ConfigError, match="together"):
        inter_class_similarity(x, labels, x)
    with pytest.raises(ConfigError, match="n_other_classes"):
        inter_class_similarity(x, labels, n_other_classes=3)


def test_sample_identities():
    names = [f"{i:03d}" for i in range(50)]
    manifest = pd.DataFrame(
        {
            "identity": np.repeat(names, 2),
            "age_years": [age for i in range(50) for age in ((5.0, 30.0) if i < 20 else (np.nan, 30.0))],
            "split": "train",
        }
    )
    children = sample_identities(manifest, cohort="child-child", n=8, seed=1)
    assert len(children) == 8
    assert set(children) <= set(names[:20])
    assert list(children) == sorted(children)
    assert list(sample_identities(manifest, cohort="child-child", n=8, seed=1)) == list(children)
    assert list(sample_identities(manifest, cohort="child-child", n=8, seed=2)) != list(children)
    assert list(sample_identities(manifest, cohort="child-adult")) == names[:20]
    assert list(sample_identities(manifest, cohort="adult-adult")) == names
    assert list(sample_identities(manifest.assign(age_years=np.nan), cohort="all")) == names
    assert list(sample_identities(manifest, cohort="child-child", among=["030", "007", "002"])) == ["002", "007"]
    with pytest.raises(DatasetError, match="child-child"):
        sample_identities(manifest, cohort="child-child", among=["030"])
    assert len(cohort_identities(manifest, "child-child", split="heldout")) == 0
    with pytest.raises(DatasetError, match="heldout"):
        sample_identities(manifest, cohort="adult-adult", split="heldout")
    with pytest.raises(ConfigError, match="at least 1"):
        sample_identities(manifest, cohort="adult-adult", n=0)


def test_prototype_similarity_equals_numpy():
    rows = np.random.default_rng(0).normal(size=(12, 5)) * 4
    expected = unit(rows) @ unit(rows).T
    result = prototype_similarity(rows.astype(np.float32))
    np.testing.assert_allclose(result, expected, atol=3e-7)
    assert np.array_equal(np.diagonal(result), np.ones(12))


def test_matrix_checks_its_parts():
    names = np.array(["a", "b"], dtype=object)
    parts = {
        "values": np.zeros((2, 2), np.float32),
        "row_identities": names,
        "column_identities": names,
        "cohort": "child-child",
        "intra": np.zeros(2, np.float32),
        "n_row_images": np.ones(2, np.int64),
        "n_column_images": np.ones(2, np.int64),
    }
    SimilarityMatrix(**parts)
    with pytest.raises(ConfigError, match="2 x 2"):
        SimilarityMatrix(**{**parts, "intra": np.zeros(3, np.float32)})
    with pytest.raises(ConfigError, match="unknown cohort"):
        SimilarityMatrix(**{**parts, "cohort": "x"})
    other = np.array(["a", "c"], dtype=object)
    with pytest.raises(ConfigError, match="symmetric"):
        SimilarityMatrix(**{**parts, "column_identities": other})
    with pytest.raises(ConfigError, match="no diagonal"):
        SimilarityMatrix(**{**parts, "column_identities": other, "cohort": "child-adult"}).with_diagonal()
