"""Projections: exact neighbours against brute force, quality against scikit-learn, methods on separable clusters."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.manifold
import torch

from interproto_lib.analysis import nearest_neighbours, project_prototypes, projection_quality
from interproto_lib.errors import ConfigError


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_vectors(n=200, d=16, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * rng.uniform(0.1, 5, size=(n, 1))).astype(np.float32)


def clusters(n_clusters=4, size=30, d=32, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(n_clusters, d)))
    members = np.repeat(np.arange(n_clusters), size)
    return (centres[members] + noise * rng.normal(size=(len(members), d))).astype(np.float32), members


def reference_neighbours(vectors, k):
    rows = unit(vectors.astype(np.float64))
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1)[:, :k]
    return order, np.take_along_axis(cosines, order, axis=1)


@pytest.mark.parametrize("k", [1, 5, 199])
def test_neighbours_equal_brute_force(k):
    vectors = random_vectors()
    indices, cosines = nearest_neighbours(vectors, k)
    expected, expected_cosines = reference_neighbours(vectors, k)
    assert np.array_equal(np.sort(indices), np.sort(expected))
    np.testing.assert_allclose(cosines, expected_cosines, atol=1e-6)
    if k < 199:  # over all ranks some cosines differ by less than float32 tells apart
        assert np.array_equal(indices, expected)


def test_neighbours_across_blocks_and_for_some_rows(monkeypatch):
    from interproto_lib.analysis import projection

    vectors = random_vectors()
    expected, _ = reference_neighbours(vectors, 7)
    monkeypatch.setattr(projection, "_BLOCK_BYTES", 4 * 200 * 33)  # 33 rows at a time
    assert np.array_equal(nearest_neighbours(vectors, 7)[0], expected)
    rows = np.array([150, 3, 77])
    assert np.array_equal(nearest_neighbours(vectors, 7, rows=rows)[0], expected[rows])


def test_identical_vectors_are_each_others_neighbours_but_never_their_own():
    vectors = np.repeat(random_vectors(n=5), 3, axis=0)
    indices, cosines = nearest_neighbours(vectors, 2)
    for i in range(15):
        assert i not in indices[i]
        assert {j // 3 for j in indices[i].tolist()} == {i // 3}
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    nearest_neighbours(random_vectors(n=20), 3, n_threads=1)
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match="n_threads"):
        nearest_neighbours(random_vectors(n=20), 3, n_threads=0)


def purity_in_plane(points, members):
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :5]
    return float((members[nearest] == members[:, None]).mean())


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_clusters_stay_clusters(method):
    if method == "umap":
        pytest.importorskip("umap")
    vectors, members = clusters()
    points = project_prototypes(vectors, method=method, seed=0, n_threads=1)
    assert points.shape == (120, 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert purity_in_plane(points, members) > 0.95
    # Lengths do not matter, and the seed fixes the result.
    scaled = vectors * np.linspace(0.5, 4, 120, dtype=np.float32)[:, None]
    again = project_prototypes(unit(vectors), method=method, seed=0, n_threads=1)
    assert np.array_equal(project_prototypes(unit(vectors), method=method, seed=0, n_threads=1), again)
    assert purity_in_plane(project_prototypes(scaled, method=method, seed=1, n_threads=1), members) > 0.95


@pytest.mark.parametrize("method", ["tsne", "umap"])
@pytest.mark.parametrize("n", [10, 12])
def test_few_prototypes(method, n):
    if method == "umap":
        pytest.importorskip("umap")
    points = project_prototypes(random_vectors(n=n), method=method)
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()


def test_projection_errors(monkeypatch):
    from interproto_lib.analysis import projection

    with pytest.raises(ConfigError, match="9 prototypes are too few to project: at least 10"):
        project_prototypes(random_vectors(n=9))
    with pytest.raises(ConfigError, match="unknown projection 'pca'"):
        project_prototypes(random_vectors(), method="pca")
    with pytest.raises(ConfigError, match="vector 4 has length zero"):
        project_prototypes(random_vectors() * (np.arange(200) != 4)[:, None])
    monkeypatch.setattr(projection, "LARGEST_TSNE", 100)
    with pytest.raises(ConfigError, match=r"200 prototypes are too many for t-SNE .* method='umap'"):
        project_prototypes(random_vectors())
    with pytest.raises(ConfigError, match="k is 200"):
        nearest_neighbours(random_vectors(), 200)
    with pytest.raises(ConfigError, match="shape"):
        nearest_neighbours(random_vectors()[0], 2)


@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("k", [3, 15])
def test_trustworthiness_and_recall_equal_references(noise, k):
    vectors = random_vectors(d=3)
    rows = unit(vectors)
    points = rows[:, :2] + noise * np.random.default_rng(1).normal(size=(200, 2))
    quality = projection_quality(vectors, points, np.arange(200) < 40, k_recall=k)
    expected = sklearn.manifold.trustworthiness(rows.astype(np.float64), points, n_neighbors=k)
    assert quality.trustworthiness == pytest.approx(expected, abs=1e-6)
    original, _ = reference_neighbours(vectors, k)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    plane = np.argsort(distances, axis=1)[:, :k]
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(original, plane, strict=True)])
    assert quality.recall == pytest.approx(recall, abs=1e-9)
    assert (quality.n, quality.n_queries, quality.k_recall) == (200, 200, k)


def test_purity_equals_the_loop():
    vectors = random_vectors(d=4)
    points = np.random.default_rng(2).normal(size=(200, 2))
    is_child = np.random.default_rng(3).uniform(size=200) < 0.3
    quality = projection_quality(vectors, points, is_child)
    original, _ = reference_neighbours(vectors, 5)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    plane = np.argsort(distances, axis=1)[:, :5]
    children = np.flatnonzero(is_child)
    assert quality.child_purity_original == pytest.approx(np.mean([is_child[original[i]].mean() for i in children]))
    assert quality.child_purity_plane == pytest.approx(np.mean([is_child[plane[i]].mean() for i in children]))
    assert quality.base_rate == pytest.approx((len(children) - 1) / 199)
    assert quality.n_child == len(children)


def test_bunched_children_are_pure_and_scattered_ones_are_at_the_base_rate():
    vectors, members = clusters(n_clusters=5, size=40)
    points = np.random.default_rng(0).normal(size=(200, 2))
    bunched = projection_quality(vectors, points, members == 2)
    assert bunched.child_purity_original == 1
    assert bunched.base_rate == pytest.approx(39 / 199)
    assert bunched.child_purity_plane == pytest.approx(bunched.base_rate, abs=0.12)
    scattered = np.random.default_rng(1).permutation(200) < 40
    assert projection_quality(vectors, points, scattered).child_purity_original == pytest.approx(39 / 199, abs=0.1)


def test_sampled_queries_come_close():
    vectors = random_vectors(n=600, d=4)
    points = unit(vectors)[:, :2].astype(np.float64)
    child = np.arange(600) < 60
    every = projection_quality(vectors, points, child)
    some = projection_quality(vectors, points, child, max_queries=200)
    assert (every.n_queries, some.n_queries) == (600, 200)
    assert some.recall == pytest.approx(every.recall, abs=0.05)
    assert some.trustworthiness == pytest.approx(every.trustworthiness, abs=0.05)
    assert some.child_purity_original == every.child_purity_original


def test_no_children_and_one_child():
    vectors, points = random_vectors(), np.random.default_rng(0).normal(size=(200, 2))
    none = projection_quality(vectors, points, np.zeros(200, bool))
    assert np.isnan(none.child_purity_original)
    assert np.isnan(none.child_purity_plane)
    assert none.base_rate == 0
    one = projection_quality(vectors, points, np.arange(200) == 7)
    assert (one.child_purity_original, one.child_purity_plane, one.base_rate) == (0, 0, 0)


def test_quality_errors():
    vectors, points, child = random_vectors(), np.zeros((200, 2)), np.zeros(200, bool)
    with pytest.raises(ConfigError, match=r"\(199, 2\)"):
        projection_quality(vectors, points[1:], child)
    with pytest.raises(ConfigError, match="int64"):
        projection_quality(vectors, points, child.astype(np.int64))
    with pytest.raises(ConfigError, match="k_recall=100"):
        projection_quality(vectors, points, child, k_recall=100)
