"""MTLFace's attention, which splits a feature map into an age part and an identity part, and a backbone with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interproto_lib.models import Backbone

PYRAMID: tuple[int, ...] = (1, 2, 3)
"""Rows and columns of the grids over which a map is pooled: 14 cells together."""

REDUCTION = 16
"""Pooled values of an image divided by the width of the hidden layer."""

SPATIAL_KERNEL = 7
STATISTICS_MOMENTUM = 0.01
"""Weight of a batch in the running statistics of the two branches, a tenth of the usual one."""


class AgeAttention(nn.Module):
    """Attention that says how much of each value of a feature map x is age.

    Formula: x_age = x (channel + spatial) / 2, x_id = x - x_age.

    - channel = sigmoid(BN(W2 ReLU(W1 p))), one value a channel. p are the averages of x over the cells of grids of 1,
      2 and 3 rows and columns, plus the maxima over the same cells: 14 c values; W1 leads to 14 c / 16, W2 to c.
    - spatial = sigmoid(BN(conv 7x7([max, mean] of x over its channels))), one value a place.

    Source: Huang, Zhang and Shan, *When Age-Invariant Face Recognition Meets Face Age Synthesis* (CVPR 2021), section
    3.1; sizes, order of the pooled values, initialisation (Xavier-uniform) and momentum as in its authors' code.
    No layer but the batch normalisations has a bias.

    Args:
        channels: Channels c of the map; 512 in MTLFace.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        pooled = channels * sum(cells**2 for cells in PYRAMID)
        hidden = max(1, pooled // REDUCTION)
        self.channel = nn.Sequential(
            nn.Conv2d(pooled, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels, momentum=STATISTICS_MOMENTUM),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2, bias=False),
            nn.BatchNorm2d(1, momentum=STATISTICS_MOMENTUM),
            nn.Sigmoid(),
        )
        for layer in self.modules():
            # Without values ("meta") there is nothing to draw.
            if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Split feature maps (b, c, h, w) into (x_id, x_age), of the same shape each."""
        channel = self.channel(_pyramid(features))
        spatial = self.spatial(torch.cat([features.amax(1, keepdim=True), features.mean(1, keepdim=True)], dim=1))
        age = features * (channel + spatial) * 0.5
        return features - age, age


def _pyramid(features: Tensor) -> Tensor:
    """Averages plus maxima over the cells of all grids, (b, 14 c, 1, 1): grid by grid, there channel by channel."""
    pooled = [
        (F.adaptive_avg_pool2d(features, cells) + F.adaptive_max_pool2d(features, cells)).flatten(1)
        for cells in PYRAMID
    ]
    return torch.cat(pooled, dim=1)[:, :, None, None]


class AttentiveBackbone(Backbone):
    """A backbone that embeds the identity part of its last feature map.

    Args:
        backbone: Gives the feature map x, and embeds x_id with its own output layers.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(embedding_dim=backbone.embedding_dim, image_size=backbone.image_size, dropout=backbone.dropout)
        self.backbone = backbone
        self.feature_shape = backbone.feature_shape
        self.attention = AgeAttention(self.feature_shape[0])

    def separate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give x_id and x_age, (b, c, h, w) each, of a batch of images (see `forward`)."""
        self._check_images(images)
        identity, age = self.attention(self.backbone.feature_map(images))
        return identity, age

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute what is embedded: x_id."""
        return self.separate(images)[0]

    def embed_feature_map(self, features: Tensor) -> Tensor:
        """Embed x_id with the backbone's own output layers."""
        return self.backbone.embed_feature_map(features)
