"""A dataset folder is made once, loaded when it is there, and never replaced by another."""

import numpy as np
import pytest
from toy import toy_dataset

from interproto_lib.data import prepare_dataset, verify_dataset
from interproto_lib.errors import DatasetError


def test_made_once_then_loaded_then_refused(tmp_path):
    made = []

    def make():
        made.append(1)
        return toy_dataset(n_identities=3, n_images=2)

    requested = {"dataset": "toy", "seed": 0, "child_images": [1, 2]}
    first = prepare_dataset(tmp_path / "d", requested=requested, make=make)
    again = prepare_dataset(tmp_path / "d", requested=requested, make=make)
    assert len(made) == 1
    assert np.array_equal(first.images, again.images)
    assert again.settings == {"seed": 0, "requested": requested}
    with pytest.raises(DatasetError, match=r"seed was 0, now 1; fit was None, now 'pad'.*Choose another experiment"):
        prepare_dataset(tmp_path / "d", requested={**requested, "seed": 1, "fit": "pad"}, make=make)
    assert len(made) == 1
    verify_dataset(tmp_path / "d")


def test_a_making_that_fails_leaves_nothing(tmp_path):
    def make():
        raise DatasetError("no images")

    with pytest.raises(DatasetError, match="no images"):
        prepare_dataset(tmp_path / "d", requested={}, make=make)
    assert not (tmp_path / "d").exists()
