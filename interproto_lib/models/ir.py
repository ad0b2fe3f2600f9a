"""IR and IR-SE residual networks, with the layers and parameter names of the paper's official code.

Source: the improved residual unit of Deng et al., *ArcFace* (CVPR 2019), section 3.2; squeeze and excitation of Hu et
al. (CVPR 2018); layer order, strides and names as in the official code of the Inter-Prototype loss (BMVC 2021), so
that bare state dicts written by that code fit without renaming.

Deviations, none of which changes a cosine: the embedding is returned without its L2 normalisation; the parameter-free
shortcut of stride 1 is the identity rather than a max-pooling of one pixel.

Initialisation: PyTorch's defaults for every layer, as in the official code (Kaiming-uniform with a = sqrt(5) for
convolutions and the linear layer, ones and zeros for batch normalisation, 0.25 for PReLU).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from interproto_lib.models.backbone import Backbone, downsampled_side
from interproto_lib.models.prelu import PReLU

STAGE_WIDTHS: tuple[int, ...] = (64, 128, 256, 512)
"""Channels of the four stages."""

UNITS_PER_STAGE: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
}
"""Units in each of the four stages, by nominal depth."""


class SqueezeExcitation(nn.Module):
    """Rescale each channel by a gate computed from the channel means: x * sigmoid(W2 relu(W1 mean(x))).

    Source: Hu et al., *Squeeze-and-Excitation Networks* (CVPR 2018), Eqs. 2-4, as 1x1 convolutions without bias.

    Args:
        channels: Channels in and out.
        reduction: Channels divided by the width of the hidden layer.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Gate a feature map (b, c, h, w); the shape stays."""
        # Not AdaptiveAvgPool2d: its gradient comes channels first, and adding it to one with channels last is slow.
        means = F.avg_pool2d(x, x.shape[-2:])
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(means))))


class IRUnit(nn.Module):
    """One improved residual unit: shortcut(x) + residual(x).

    Residual: BN, conv 3x3 at stride 1, PReLU, conv 3x3 at `stride`, BN, and squeeze-excitation where asked. There is no
    batch normalisation between the first convolution and PReLU unless `mid_normalisation` asks for it. Shortcut: every
    `stride`-th pixel where the width stays, else conv 1x1 and BN.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: 1 or 2.
        squeeze_excitation: Whether the residual ends with `SqueezeExcitation`.
        mid_normalisation: Whether BN stands between the first convolution and PReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        squeeze_excitation: bool,
        mid_normalisation: bool = False,
    ) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if in_channels != out_channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        elif stride > 1:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Identity()
        residual: list[nn.Module] = [
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            *([nn.BatchNorm2d(out_channels)] if mid_normalisation else []),
            PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.res_layer = nn.Sequential(*residual)
        if squeeze_excitation:
            # The names of the official code and of AdaFace's, so that their state dicts fit.
            self.res_layer.add_module("se_block" if mid_normalisation else "5", SqueezeExcitation(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c_in, h, w) to (b, c_out, h / stride, w / stride)."""
        return self.shortcut_layer(x) + self.res_layer(x)


class IRBackbone(Backbone):
    """IR or IR-SE network: stem, four stages whose first unit has stride 2 (112 -> 56 -> 28 -> 14 -> 7), linear head.

    State-dict keys: `input_layer.{0,1,2}`, `body.{i}.res_layer.{0..4}` (and `.5.fc1`, `.5.fc2` with
    squeeze-excitation), `body.{i}.shortcut_layer.{0,1}` where the width grows, `output_layer.{0,3,4}`. With
    `mid_normalisation` the unit is `res_layer.{0..5}`, its squeeze-excitation `res_layer.se_block`.

    Args:
        depth: Nominal depth, a key of `UNITS_PER_STAGE`.
        squeeze_excitation: IR-SE instead of IR.
        mid_normalisation: Whether each unit has BN between its first convolution and PReLU.
        scaled_embedding: Whether the last BN has a learned scale and shift.
        embedding_dim: Length d of an embedding.
        image_size: Side of the images in pixels, a multiple of 16; the linear layer adapts.
        dropout: Share of the last feature map zeroed before the linear layer while training.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(
        self,
        depth: int,
        *,
        squeeze_excitation: bool,
        mid_normalisation: bool = False,
        scaled_embedding: bool = True,
        embedding_dim: int = 512,
        image_size: int = 112,
        dropout: float = 0.6,
    ) -> None:
        super().__init__(embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
        side = downsampled_side(self.image_size, f"IR{'-SE' if squeeze_excitation else ''}-{depth}")
        stem_width, last_width = STAGE_WIDTHS[0], STAGE_WIDTHS[-1]
        self.feature_shape = (last_width, side, side)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem_width, 3, 1, 1, bias=False), nn.BatchNorm2d(stem_width), PReLU(stem_width)
        )
        units: list[nn.Module] = []
        in_channels = stem_width
        for width, n_units in zip(STAGE_WIDTHS, UNITS_PER_STAGE[depth], strict=True):
            for position in range(n_units):
                stride = 2 if position == 0 else 1
                units.append(
                    IRUnit(
                        in_channels,
                        width,
                        stride=stride,
                        squeeze_excitation=squeeze_excitation,
                        mid_normalisation=mid_normalisation,
                    )
                )
                in_channels = width
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last_width),
            nn.Dropout(self.dropout),
            nn.Flatten(),
            nn.Linear(last_width * side * side, self.embedding_dim),
            nn.BatchNorm1d(self.embedding_dim, affine=scaled_embedding),
        )

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute what the body ends with; see `Backbone.feature_map`."""
        return self.body(self.input_layer(images))

    def embed_feature_map(self, features: Tensor) -> Tensor:
        """Embed what the body ends with."""
        return self.output_layer(features)


def ir50(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.6) -> IRBackbone:
    """IR-50: 43,574,976 parameters, 6.2965 G multiply-adds at 112x112 and d = 512. Arguments: see `IRBackbone`."""
    return IRBackbone(50, squeeze_excitation=False, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def ir100(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.6) -> IRBackbone:
    """IR-100: 65,129,792 parameters, 12.0768 G multiply-adds at 112x112 and d = 512. Arguments: see `IRBackbone`."""
    return IRBackbone(
        100, squeeze_excitation=False, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout
    )


def ir152(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.6) -> IRBackbone:
    """IR-152: 70,737,600 parameters, 12.3080 G multiply-adds at 112x112 and d = 512. Arguments: see `IRBackbone`."""
    return IRBackbone(
        152, squeeze_excitation=False, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout
    )


def ir_se50(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.6) -> IRBackbone:
    """IR-SE-50, the paper's backbone: 43,797,696 parameters, 6.2967 G multiply-adds. Arguments: see `IRBackbone`."""
    return IRBackbone(50, squeeze_excitation=True, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def ir_se100(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.6) -> IRBackbone:
    """IR-SE-100: 65,502,016 parameters, 12.0771 G multiply-adds at 112x112. Arguments: see `IRBackbone`."""
    return IRBackbone(100, squeeze_excitation=True, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def ir_se152(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.6) -> IRBackbone:
    """IR-SE-152: 71,148,736 parameters, 12.3084 G multiply-adds at 112x112. Arguments: see `IRBackbone`."""
    return IRBackbone(152, squeeze_excitation=True, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
