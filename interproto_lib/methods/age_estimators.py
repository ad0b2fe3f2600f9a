"""Two age estimators beside face age synthesis: one that it learns from, and one that judges what it learned."""

from __future__ import annotations

from torch import Tensor, nn

from interproto_lib.models.small import SmallUnit

JUDGE_WIDTHS: tuple[int, ...] = (16, 32, 64)
"""Channels of the units of `AgeJudge`."""

JUDGE_UNIT_YEARS = 25.0
JUDGE_MIDDLE_YEARS = 40.0
"""The judge's network gives 0 for this age, and 1 for one that is `JUDGE_UNIT_YEARS` older."""

_MOST_HIDDEN = 512


class AgeGroupHead(nn.Module):
    """Age group from the age part of a recogniser's feature map: BN, flatten, linear, ReLU, linear.

    This is what the generator learns from. In MTLFace it is the age head trained with the recogniser; a run of ours
    keeps no part that is for training only, so a new head learns on the frozen maps. As there, the hidden layer has as
    many values as the map has channels (512), but the 101 ages before the groups are left out.

    Args:
        channels: Channels of the map.
        side: Height and width of the map.
        n_groups: Age groups.
    """

    def __init__(self, channels: int, side: int, *, n_groups: int) -> None:
        super().__init__()
        hidden = min(_MOST_HIDDEN, channels)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(),
            nn.Linear(hidden, n_groups),
        )

    def forward(self, age_maps: Tensor) -> Tensor:
        """Give logits (b, g) of maps (b, c, h, w)."""
        return self.layers(age_maps)


class AgeJudge(nn.Module):
    """Age in years from the pixels of a face, by a small network of its own that the generator never sees.

    Own design: the units of `interproto_lib.models.small`, mean over the last map, linear.

    Args:
        widths: Channels of the units; the stem has as many as the first.
    """

    def __init__(self, widths: tuple[int, ...] = JUDGE_WIDTHS) -> None:
        super().__init__()
        before = (widths[0], *widths[:-1])
        self.layers = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
            *(SmallUnit(channels, width) for channels, width in zip(before, widths, strict=True)),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Give ages in years (b,) of images (b, 3, h, w) in [-1, 1]."""
        return JUDGE_MIDDLE_YEARS + JUDGE_UNIT_YEARS * self.layers(images).squeeze(1)
