"""Ranks of probes against brute force in float64, with exact ties, against scikit-learn, and over blocks."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch

from interproto_lib.analysis import (
    IdentificationResult,
    cmc_curve,
    identification_accuracy,
    identification_ranks,
    rank_accuracy,
)
from interproto_lib.errors import ConfigError, DatasetError


def make_set(p=60, g=700, n_identities=150, d=12, seed=0, noise=1.0, dtype=np.float32):
    """Probes and a gallery of about g / n_identities images a person; every probe has a mate."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_identities, d))
    of_gallery = np.concatenate([np.arange(n_identities), rng.integers(0, n_identities, g - n_identities)])
    of_probe = rng.integers(0, n_identities, p)
    gallery = centres[of_gallery] + noise * rng.normal(size=(g, d))
    probes = centres[of_probe] + noise * rng.normal(size=(p, d))
    return probes.astype(dtype), of_probe, (3 * gallery).astype(dtype), of_gallery


def brute_force(probes, of_probe, gallery, of_gallery):
    """Sort out every probe alone, with exactly rounded float64 cosines of the raw values."""
    ranks = []
    for probe, identity in zip(probes.astype(np.float64), of_probe, strict=True):
        scores = [
            float(np.sum(probe / np.linalg.norm(probe) * image / np.linalg.norm(image)))
            for image in gallery.astype(np.float64)
        ]
        mate = max(score for score, other in zip(scores, of_gallery, strict=True) if other == identity)
        ranks.append(
            1 + sum(score >= mate for score, other in zip(scores, of_gallery, strict=True) if other != identity)
        )
    return ranks


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("noise", [1.0, 2.5])
def test_ranks_equal_brute_force(dtype, noise):
    case = make_set(noise=noise, dtype=dtype)
    ranks = identification_ranks(*case)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == brute_force(*case)
    assert ranks.min() == 1
    assert ranks.max() > 1


@pytest.mark.parametrize("block_rows", [1, 7, 240, 699, 700, 5000])
def test_blocks_do_not_matter(block_rows):
    case = make_set(seed=1)
    one = identification_ranks(*case, block_rows=700)
    assert identification_ranks(*case, block_rows=block_rows).tolist() == one.tolist()


def test_more_probes_than_are_taken_at_a_time():
    probes, of_probe, *gallery = make_set(p=1100, g=150, d=6, seed=2)
    some = [0, 1023, 1024, 1099]
    ranks = identification_ranks(probes, of_probe, *gallery)
    assert ranks[some].tolist() == brute_force(probes[some], of_probe[some], *gallery)


@pytest.mark.parametrize("block_rows", [1, 3, 64, 1000])
@pytest.mark.parametrize("order", ["C", "F"])
def test_ties_count_against_the_probe(block_rows, order):
    # Copies of the best mate under other names, at other lengths: the cosine is the same to the last bit.
    rng = np.random.default_rng(3)
    d, n_copies = 200, 5
    probes = rng.normal(size=(4, d)).astype(np.float32)
    mates = probes + rng.normal(size=(4, d)).astype(np.float32)
    far = -probes[rng.integers(0, 4, 50)] + 0.1 * rng.normal(size=(50, d)).astype(np.float32)
    copies = np.concatenate([mates * np.float32(2.0**k) for k in range(n_copies)])
    gallery = np.asarray(np.concatenate([mates, far, copies]), order=order)
    identities = ["a", "b", "c", "d", *[f"far {k}" for k in range(50)], *[f"copy {k}" for k in range(4 * n_copies)]]
    assert (
        identification_ranks(probes, ["a", "b", "c", "d"], gallery, identities, block_rows=block_rows).tolist()
        == [1 + n_copies] * 4
    )


def test_the_smallest_difference_in_float64_decides():
    # A rival above or below the mate by far less than float32 can tell.
    probe = np.array([[1.0, 0.0, 0.0]])
    mate, rival = np.array([0.8, 0.6, 0.0]), np.array([0.8 - 1e-12, 0.6, 0.0])
    for gallery, rank in ((np.stack([mate, rival]), 1), (np.stack([rival, mate]), 2)):
        assert identification_ranks(probe, ["a"], gallery, ["a", "b"]).tolist() == [rank]


def test_a_network_that_maps_all_to_one_point_is_never_right():
    rows = np.ones((6, 4), dtype=np.float32)
    assert identification_ranks(rows[:2], [0, 1], rows, np.arange(6)).tolist() == [6, 6]


def test_other_images_of_the_own_identity_do_not_count():
    gallery = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [0.0, 1.0]])
    assert identification_ranks(np.array([[1.0, 0.0]]), [7], gallery, [7, 7, 7, 8]).tolist() == [1]
    # Images, not identities, are counted: two images of one stranger before the mate make rank 3.
    assert identification_ranks(np.array([[1.0, 0.0]]), [8], gallery, [7, 7, 9, 8]).tolist() == [4]


def test_equals_scikit_learn_with_one_image_a_person():
    rng = np.random.default_rng(4)
    gallery = rng.normal(size=(40, 8))
    of_probe = rng.integers(0, 40, 200)
    probes = gallery[of_probe] + 1.2 * rng.normal(size=(200, 8))
    scores = (probes @ gallery.T) / np.linalg.norm(gallery, axis=1)
    result = identification_accuracy(probes, of_probe, gallery, np.arange(40))
    assert isinstance(result, IdentificationResult)
    for k, ours in ((1, result.rank_1), (5, result.rank_5), (10, result.rank_10)):
        assert ours == pytest.approx(sklearn.metrics.top_k_accuracy_score(of_probe, scores, k=k, labels=np.arange(40)))
    assert (result.n_probes, result.n_gallery, result.n_gallery_identities) == (200, 40, 40)
    assert 0 < result.rank_1 < result.rank_10 < 1
    curve = cmc_curve(result.ranks, max_rank=40)
    assert (curve[0], curve[4], curve[9], curve[39]) == (result.rank_1, result.rank_5, result.rank_10, 1)


def test_a_memory_mapped_half_precision_gallery(tmp_path):
    probes, of_probe, gallery, of_gallery = make_set(seed=5, dtype=np.float16)
    path = tmp_path / "gallery.npy"
    np.save(path, gallery)
    mapped = np.load(path, mmap_mode="r")
    expected = identification_ranks(probes, of_probe, gallery, of_gallery)
    assert identification_ranks(probes, of_probe, mapped, of_gallery, block_rows=64).tolist() == expected.tolist()


def test_reduced_precision_elsewhere_does_not_matter():
    case = make_set(p=200, d=256, seed=6, noise=2.5)
    expected = identification_ranks(*case)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert identification_ranks(*case).tolist() == expected.tolist()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_devices_agree():
    case = make_set(p=200, d=256, seed=6, noise=2.5)
    assert identification_ranks(*case, device="cuda").tolist() == identification_ranks(*case).tolist()


def test_shuffled_identities_are_chance():
    rng = np.random.default_rng(7)
    gallery = rng.normal(size=(20, 64))
    probes = np.repeat(gallery, 100, axis=0)
    right = np.repeat(np.arange(20), 100)
    assert identification_accuracy(probes, right, gallery, np.arange(20)).rank_1 == 1
    chance = identification_accuracy(probes, rng.integers(0, 20, 2000), gallery, np.arange(20))
    # 4.4 standard deviations of a binomial with 2,000 trials.
    assert abs(chance.rank_1 - 1 / 20) < 4.4 * np.sqrt(0.05 * 0.95 / 2000)
    assert abs(chance.rank_10 - 1 / 2) < 4.4 * np.sqrt(0.25 / 2000)


def test_curves_by_hand():
    ranks = [1, 2, 2, 5, 11, 1]
    assert cmc_curve(ranks, max_rank=6).tolist() == [2 / 6, 4 / 6, 4 / 6, 4 / 6, 5 / 6, 5 / 6]
    assert rank_accuracy(ranks) == {1: 2 / 6, 5: 5 / 6, 10: 5 / 6}
    assert rank_accuracy(np.array(ranks), (11, 2)) == {11: 1, 2: 4 / 6}
    for wrong in ([], [0, 1], [1.5], [[1]]):
        with pytest.raises(ConfigError, match="integers from 1"):
            cmc_curve(wrong, max_rank=2)
    with pytest.raises(ConfigError, match="max_rank is 0"):
        rank_accuracy(ranks, (0,))


def test_errors():
    probes, of_probe, gallery, of_gallery = make_set(p=5, g=20, n_identities=10)
    names = np.array([f"person {k}" for k in range(10)])
    with pytest.raises(DatasetError, match=r"probe 2 \(identity stranger\) has no image .* nor have 1 other probes"):
        identification_ranks(
            probes, ["person 1", "person 2", "stranger", "none", "person 0"], gallery, names[of_gallery]
        )
    with pytest.raises(DatasetError, match=r"probe 0 \(identity 1\)"):  # the number 1 is not the name "1"
        identification_ranks(probes, [1] * 5, gallery, of_gallery.astype(str))
    with pytest.raises(ConfigError, match="probes have 12 dimensions, the gallery 11"):
        identification_ranks(probes, of_probe, gallery[:, :11], of_gallery)
    is_mate = np.isin(of_gallery, of_probe)
    mate, stranger = np.flatnonzero(is_mate)[-1], np.flatnonzero(~is_mate)[-1]
    for where, row, value, what in (
        ("probe", 3, 0.0, "has length zero"),
        ("gallery", mate, np.nan, "is not finite"),
        ("gallery", stranger, np.inf, "is not finite"),
    ):
        broken = {"probe": probes.copy(), "gallery": gallery.copy()}
        broken[where][row] = value
        with pytest.raises(ConfigError, match=f"{where} embedding {row} {what}"):
            identification_ranks(broken["probe"], of_probe, broken["gallery"], of_gallery, block_rows=4)
    with pytest.raises(ConfigError, match="4 probe identities do not fit 5"):
        identification_ranks(probes, of_probe[:4], gallery, of_gallery)
    with pytest.raises(ConfigError, match="gallery row 3 has no identity"):
        identification_ranks(probes, of_probe, gallery, np.where(np.arange(20) == 3, np.nan, of_gallery))
    with pytest.raises(ConfigError, match="gallery must be floating point"):
        identification_ranks(probes, of_probe, gallery.astype(int), of_gallery)
    with pytest.raises(ConfigError, match="block_rows is 0"):
        identification_ranks(probes, of_probe, gallery, of_gallery, block_rows=0)
    with pytest.raises(ConfigError, match="device"):
        identification_ranks(probes, of_probe, gallery, of_gallery, device="abacus")
