"""MobileFaceNet, a face network of one million parameters.

Source: Chen, Liu, Gao, Han, *MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices*
(CCBR 2018), Table 1, with PReLU and batch normalisation after every convolution but the linear ones (batch
normalisation only). At 112x112 and d = 128 the paper states 0.99 M parameters and 221 M multiply-adds.

Deviations: the last 1x1 convolution over the single remaining pixel is written as a linear layer, which is the same
product; the embedding is returned without L2 normalisation; dropout before it is possible but off by default, as the
paper has none. Initialisation: PyTorch's defaults (the paper states none).
"""

from __future__ import annotations

from torch import Tensor, nn

from interproto_lib.models.backbone import Backbone, downsampled_side
from interproto_lib.models.prelu import PReLU

BOTTLENECKS: tuple[tuple[int, int, int, int], ...] = (
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)
"""Rows of Table 1: expansion t, channels c, repetitions n, stride s of the first repetition."""

STEM_WIDTH = 64
HEAD_WIDTH = 512


def _convolution(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> list[nn.Module]:
    """Convolution without bias, and batch normalisation."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class MobileBottleneck(nn.Module):
    """Inverted bottleneck: conv 1x1 to t * c_in, depthwise conv 3x3, linear conv 1x1; plus x where the shape stays.

    Source: Sandler et al., *MobileNetV2* (CVPR 2018), with PReLU.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        expansion: Factor t of the hidden width.
        stride: 1 or 2, of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            *_convolution(in_channels, hidden, 1),
            PReLU(hidden),
            *_convolution(hidden, hidden, 3, stride=stride, padding=1, groups=hidden),
            PReLU(hidden),
            *_convolution(hidden, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c_in, h, w) to (b, c_out, h / stride, w / stride)."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


class MobileFaceNet(Backbone):
    """MobileFaceNet with a global depthwise convolution in the place of global average pooling.

    Args:
        embedding_dim: Length d of an embedding (128 in the paper).
        image_size: Side of the images in pixels, a multiple of 16; the global convolution has the kernel
            `image_size` / 16 (7 at 112).
        dropout: Share of the 512 pooled features zeroed while training.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(self, *, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> None:
        super().__init__(embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
        side = downsampled_side(self.image_size, "MobileFaceNet")
        self.input_layer = nn.Sequential(
            *_convolution(3, STEM_WIDTH, 3, stride=2, padding=1),
            PReLU(STEM_WIDTH),
            *_convolution(STEM_WIDTH, STEM_WIDTH, 3, padding=1, groups=STEM_WIDTH),
            PReLU(STEM_WIDTH),
        )
        units: list[nn.Module] = []
        in_channels = STEM_WIDTH
        for expansion, width, repetitions, first_stride in BOTTLENECKS:
            for position in range(repetitions):
                stride = first_stride if position == 0 else 1
                units.append(MobileBottleneck(in_channels, width, expansion=expansion, stride=stride))
                in_channels = width
        self.body = nn.Sequential(*units)
        self.feature_shape = (in_channels, side, side)
        self.output_layer = nn.Sequential(
            *_convolution(in_channels, HEAD_WIDTH, 1),
            PReLU(HEAD_WIDTH),
            *_convolution(HEAD_WIDTH, HEAD_WIDTH, side, groups=HEAD_WIDTH),
            nn.Flatten(),
            nn.Dropout(self.dropout),
            nn.Linear(HEAD_WIDTH, self.embedding_dim, bias=False),
            nn.BatchNorm1d(self.embedding_dim),
        )

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute what the body ends with; see `Backbone.feature_map`."""
        return self.body(self.input_layer(images))

    def embed_feature_map(self, features: Tensor) -> Tensor:
        """Embed what the body ends with."""
        return self.output_layer(features)


def mobilefacenet(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> MobileFaceNet:
    """MobileFaceNet: about 1 M parameters. Arguments: see `MobileFaceNet`."""
    return MobileFaceNet(embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
