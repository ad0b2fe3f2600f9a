"""From files as people have them to the cells of the paper's tables: a pair list with photographs, and a .bin."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from toy import tiny, toy_dataset

from interproto_lib.analysis import judge_methods, pair_trials, score_methods, trial_cells
from interproto_lib.config import EvaluationConfig
from interproto_lib.data import evaluation_sets
from interproto_lib.training import train
from interproto_lib.views import paper_table

TEN_FOLD = EvaluationConfig(verification_threshold="ten_fold", epoch_choice="last")


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(n_identities=8, n_heldout=12, n_images=8)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return train(tiny(epochs=2), dataset, tmp_path_factory.mktemp("exp") / "arcface-s0", progress="none")


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def held_out_pairs(dataset):
    """Twenty pairs of one person and twenty of two, a child's image first."""
    rows = dataset.rows("heldout").reshape(12, 8)
    same = [(rows[i % 12, i // 12], rows[i % 12, 4 + i // 12]) for i in range(20)]
    different = [(rows[i % 12, i // 12], rows[(i + 1) % 12, 4 + i // 12]) for i in range(20)]
    return same, different


def brute_force_scores(run, dataset, pairs):
    from interproto_lib.analysis import embed_images, load_backbone

    vectors = embed_images(load_backbone(run), dataset.images).astype(np.float64)
    return np.array([vectors[left] @ vectors[right] for left, right in pairs])


def test_a_bin_and_a_list_of_the_same_pairs_fill_their_tables_alike(run, dataset, tmp_path):
    same, different = held_out_pairs(dataset)
    interleaved = [pair for both in zip(same, different, strict=True) for pair in both]
    labels = [True, False] * 20
    encoded = [png(dataset.images[row]) for pair in interleaved for row in pair]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((encoded, labels)))

    lines = []
    for row in sorted({row for pair in interleaved for row in pair}):
        person = f"P{row // 8:02d}"
        (tmp_path / "images" / person).mkdir(parents=True, exist_ok=True)
        age = int(dataset.manifest["age_years"][row])
        (tmp_path / "images" / person / f"{row}_{person}_{age}.png").write_bytes(png(dataset.images[row]))
    for label, pairs in ((1, same), (0, different)):
        for pair in pairs:
            named = [
                f"P{row // 8:02d}/{row}_P{row // 8:02d}_{int(dataset.manifest['age_years'][row])}.png" for row in pair
            ]
            lines.append(f"{label} dataset/test/AgeDB-aligned/{named[0]} dataset/test/AgeDB-aligned/{named[1]}")
    (tmp_path / "agedb20_child.txt").write_text("\n".join(lines) + "\n")

    sets = evaluation_sets(
        dataset,
        {
            "LFW": {"bin": str(tmp_path / "lfw.bin")},
            "AgeDB-C20": {
                "pairs": str(tmp_path / "agedb20_child.txt"),
                "images": str(tmp_path / "images"),
                "names": "agedb",
            },
        },
    )
    scored = score_methods({"ArcFace": [run]}, sets, evaluation=TEN_FOLD)
    of_run = scored["ArcFace"][0].tests
    np.testing.assert_allclose(of_run["LFW"].at(2), brute_force_scores(run, dataset, interleaved), atol=1e-5)
    np.testing.assert_allclose(of_run["AgeDB-C20"].at(2), brute_force_scores(run, dataset, same + different), atol=1e-5)

    judged = judge_methods(scored, TEN_FOLD)
    cells = trial_cells(pair_trials(judged)).set_index("test_set")
    assert cells.loc["LFW", "n_identities"] == 0, "a .bin does not say who is who"
    assert cells.loc["AgeDB-C20", "n_identities"] == 12
    for number, column in ((4, "LFW"), (1, "AgeDB-C20")):
        frame = paper_table(number, cells.reset_index()).frame
        ours = frame[(frame["source"] == "ours") & frame["mean"].notna()].iloc[0]
        assert (ours["row"], ours["column"]) == ("ArcFace", column)
        assert ours["mean"] == pytest.approx(100 * judged["ArcFace"][0].judgements[column].accuracy)
        assert ours["low"] <= ours["mean"] <= ours["high"]
