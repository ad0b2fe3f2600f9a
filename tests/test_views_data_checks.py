"""What notebook 01 says of a dataset: how it lay, its labels, the paper's numbers beside it, people seen twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy import toy_dataset

from interproto_lib.data import class_table, find_seen_twice, save_dataset
from interproto_lib.data.card_counts import CardCount
from interproto_lib.views import (
    card_counts_table,
    describe_layout,
    describe_paper_ages,
    describe_seen_twice,
    label_coverage_table,
)


def test_layout_of_files_and_of_drawn_faces():
    assert "drawn by formula" in describe_layout({"n_identities": 3})
    settings = {
        "root": "/faces",
        "format": "identity_folders",
        "fit": "pad",
        "original_sizes": {"92x112": 400, "60x60": 2},
        "files_not_read": {"count": 3, "examples": ["Thumbs.db"]},
        "dropped": [{"path": "a/1.png", "reason": "not an image"}],
    }
    said = describe_layout(settings)
    for part in ("`/faces`", "92 x 112 (400)", "scaled and padded", "3 other files", "1 image could not be used"):
        assert part in said
    assert "a/1.png: not an image" in said
    assert "Every image could be read." in describe_layout({**settings, "dropped": []})
    more = {"files_not_read": {"count": 1, "examples": ["notes.txt"]}, "dropped": settings["dropped"] * 2}
    said = describe_layout({**settings, **more})
    assert "1 other file was not read" in said
    assert "2 images could not be used" in said


def test_counts_beside_the_card_leave_what_is_unknown_empty():
    counts = [
        CardCount(key="images", found=1234, expected=1235, meaning="one is missing"),
        CardCount(key="child_images", found=None, expected=None),
    ]
    table = card_counts_table(counts)
    assert table.to_numpy().tolist() == [["images", "1,234", "1,235", "one is missing"], ["child images", "", "", ""]]


def test_labels_are_counted_split_by_split():
    manifest = pd.DataFrame(
        {"split": ["train"] * 4 + ["heldout"] * 2, "age_years": [5.0, 13.0, np.nan, 12.9, np.nan, np.nan]}
    )
    table = label_coverage_table(manifest).set_index("split")
    assert table.loc["train"].tolist() == [4, 3, 1, 2, 75.0]
    assert table.loc["heldout"].tolist() == [2, 0, 2, 0, 0.0]


def test_children_beside_the_papers():
    dataset = toy_dataset(n_identities=4, n_child=2, n_images=12)
    classes = class_table(dataset.manifest, min_child_images=1)
    said = describe_paper_ages(dataset.manifest, classes)
    n_children = int((dataset.manifest["age_years"] < 13).sum())
    n_with_ten = int((classes["n_child_images"] >= 10).sum())
    assert f"Here {n_children} of 48 labelled training images do" in said
    assert f"{n_with_ten} of 4 training identities have ten or more" in said
    assert "9,326 of the 490,623" in said
    ageless = dataset.manifest.assign(age_years=np.nan)
    assert "No training image here has an age" in describe_paper_ages(ageless, classes)


def test_people_and_images_seen_twice(tmp_path):
    dataset = toy_dataset(n_identities=6, n_heldout=2)
    (clean,) = find_seen_twice(dataset)
    assert len(clean.identities) == 0
    assert not clean.images["is_equal"].any()
    assert "no identity has the name of a training identity" in describe_seen_twice(clean)
    train, judged = dataset.rows("train"), dataset.rows("heldout")
    images = np.array(dataset.images)
    images[judged[0]] = images[train[0]]
    leaking = replace(dataset, images=images, images_sha256=None)
    save_dataset(dataset, tmp_path / "other")
    within, beside = find_seen_twice(leaking, [tmp_path / "other"], max_distance=0)
    assert within.images["is_equal"].sum() == 1
    assert "**1 images are equal to a training image**" in describe_seen_twice(within)
    assert beside.n_images == len(dataset)
    assert set(beside.identities["second_identity"]) >= set(dataset.manifest["identity"].iloc[train])
    assert beside.images["is_equal"].sum() >= len(train)
    assert find_seen_twice(replace(dataset, manifest=dataset.manifest.assign(split="heldout"))) == []


def test_the_paper_s_numbers_are_those_of_the_facts():
    """Of methods.md: 9,326 child images of 490,623; 229 and 1,148 child identities of 10,572 and 85,742."""
    from interproto_lib.views.data_checks import PAPER_CHILD_IDENTITIES, PAPER_CHILD_IMAGES

    assert PAPER_CHILD_IMAGES[0] / PAPER_CHILD_IMAGES[1] == pytest.approx(0.019, abs=5e-4)
    assert PAPER_CHILD_IDENTITIES == {"CASIA-WebFace": (229, 10_572), "MS1MV2": (1_148, 85_742)}
