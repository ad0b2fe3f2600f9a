"""Prototypes out of the heads of other codes: rows of identities, whichever way they were kept."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interproto_lib.errors import CheckpointError
from interproto_lib.models import load_foreign_head

ROWS = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
KERNEL = torch.from_numpy(ROWS.T.copy())  # one column an identity
WEIGHT = torch.from_numpy(ROWS)
ADAFACE = {"head.kernel": KERNEL, "head.t": torch.zeros(1), "head.batch_mean": torch.ones(1)}


@pytest.mark.parametrize(
    "content",
    [
        {"kernel": KERNEL},
        {"module.kernel": KERNEL},
        {"weight": WEIGHT},
        {"weight": WEIGHT, "weight_exp_avg": torch.zeros(7, 4)},
        {
            "epoch": 1,
            "state_dict_backbone": {"fc.weight": torch.ones(4, 4)},
            "state_dict_softmax_fc": {"weight": WEIGHT},
        },
        {"state_dict": {"model.input_layer.0.weight": torch.ones(64, 3, 3, 3)} | ADAFACE},
        {"kernel": KERNEL, "input_layer.0.weight": torch.ones(64, 3, 3, 3)},
        WEIGHT,
        torch.nn.Parameter(WEIGHT),
    ],
)
def test_every_head_gives_one_row_an_identity(tmp_path, content):
    torch.save(content, tmp_path / "head.pth")
    found = load_foreign_head(tmp_path / "head.pth", embedding_dim=4)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, ROWS)
    (tmp_path / "head.pth").write_bytes(b"")  # the rows do not depend on the file
    np.testing.assert_array_equal(found, ROWS)


def test_safetensors_and_half_precision(tmp_path):
    save_file({"kernel": KERNEL.half()}, tmp_path / "head.safetensors")
    np.testing.assert_array_equal(load_foreign_head(tmp_path / "head.safetensors"), ROWS.astype(np.float16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"input_layer.0.weight": torch.ones(2, 2)}, "holds no head: expected kernel"),
        ({"kernel": KERNEL, "weight": WEIGHT}, "holds 2 heads"),
        ({"kernel": torch.ones(4)}, r"of shape \(4,\), expected two axes"),
        ({"kernel": torch.ones(4, 0)}, "an identity"),
        ({"kernel": KERNEL.T}, "which is 4 prototypes of length 7, expected length 4"),
        ({"weight": KERNEL}, "which is 4 prototypes of length 7, expected length 4"),
        ({"kernel": KERNEL * float("inf")}, "not finite"),
        (
            {"kernel": torch.cat([KERNEL, torch.zeros(4, 2)], dim=1)},
            "2 prototypes that are all 0, .*number 7",
        ),
        ({"kernel": torch.ones(4, 7, dtype=torch.int64)}, "torch.int64"),
        ({"kernel": "text"}, "no tensors by name"),
        ([KERNEL], "a list of 1"),
    ],
)
def test_what_is_no_head_is_said(tmp_path, content, message):
    torch.save(content, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_foreign_head(tmp_path / "head.pth", embedding_dim=4)
    assert str(tmp_path / "head.pth") in str(caught.value)
