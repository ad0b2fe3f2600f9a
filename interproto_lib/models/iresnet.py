"""The residual networks of insightface's arcface_torch, with the parameter names of its checkpoints.

Source: Deng et al., *ArcFace* (CVPR 2019), section 3.2; layers, names and initialisation as in arcface_torch. They
differ from `interproto_lib.models.ir` in three places: batch normalisation between the first convolution of a unit and
PReLU; a convolution in the shortcut of the first unit of every stage, also where the width stays 64; and the scale of
the last batch normalisation (`features`), which is fixed at 1.

Initialisation: normal with standard deviation 0.1 for convolutions, PyTorch's defaults for the rest.
"""

from __future__ import annotations

from torch import Tensor, nn

from interproto_lib.models.backbone import Backbone, downsampled_side
from interproto_lib.models.ir import STAGE_WIDTHS, UNITS_PER_STAGE
from interproto_lib.models.prelu import PReLU

INITIAL_DEVIATION = 0.1
"""Standard deviation of a convolution's initial weights."""


class IResNetUnit(nn.Sequential):
    """One residual unit: shortcut(x) + BN(conv 3x3 at `stride`(PReLU(BN(conv 3x3(BN(x)))))).

    The shortcut is conv 1x1 and BN in the first unit of a stage (`stride` 2), else the identity. The unit is a sequence
    of layers so that `for_inference` finds the pairs of convolution and batch normalisation in it.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; equal to `in_channels` where `stride` is 1.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.prelu = PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c_in, h, w) to (b, c_out, h / stride, w / stride)."""
        residual = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.downsample(x) + self.bn3(self.conv2(residual))


class IResNet(Backbone):
    """A network of arcface_torch: stem, four stages whose first unit has stride 2, linear layer.

    State-dict keys: `conv1`, `bn1`, `prelu`, `layer{1-4}.{i}.{bn1,conv1,bn2,prelu,conv2,bn3}`,
    `layer{1-4}.0.downsample.{0,1}`, `bn2`, `fc`, `features`.

    Args:
        depth: Nominal depth: 18, 34, 50 or 100.
        embedding_dim: Length d of an embedding.
        image_size: Side of the images in pixels, a multiple of 16; the linear layer adapts.
        dropout: Share of the last feature map zeroed before the linear layer while training; 0 in arcface_torch.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(self, depth: int, *, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> None:
        super().__init__(embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
        side = downsampled_side(self.image_size, f"iresnet{depth}")
        stem_width, last_width = STAGE_WIDTHS[0], STAGE_WIDTHS[-1]
        self.feature_shape = (last_width, side, side)
        self.conv1 = nn.Conv2d(3, stem_width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.prelu = PReLU(stem_width)
        stages: list[nn.Module] = []
        in_channels = stem_width
        for width, n_units in zip(STAGE_WIDTHS, UNITS_PER_STAGE[depth], strict=True):
            later = [IResNetUnit(width, width, stride=1) for _ in range(n_units - 1)]
            stages.append(nn.Sequential(IResNetUnit(in_channels, width, stride=2), *later))
            in_channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(last_width)
        self.dropout_layer = nn.Dropout(self.dropout)
        self.fc = nn.Linear(last_width * side * side, self.embedding_dim)
        self.features = nn.BatchNorm1d(self.embedding_dim)
        self.features.weight.requires_grad_(False)
        for layer in self.modules():
            # Without values ("meta") there is nothing to draw, and PyTorch takes ten seconds to prepare for it.
            if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
                nn.init.normal_(layer.weight, std=INITIAL_DEVIATION)

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute what the last stage ends with; see `Backbone.feature_map`."""
        x = self.prelu(self.bn1(self.conv1(images)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def embed_feature_map(self, features: Tensor) -> Tensor:
        """Embed what the last stage ends with."""
        x = self.dropout_layer(self.bn2(features).flatten(1))
        return self.features(self.fc(x))


def iresnet18(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> IResNet:
    """arcface_torch's r18: 24,025,600 parameters, 2.610 G multiply-adds at 112x112. Arguments: see `IResNet`."""
    return IResNet(18, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def iresnet34(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> IResNet:
    """arcface_torch's r34: 34,139,328 parameters, 4.460 G multiply-adds at 112x112. Arguments: see `IResNet`."""
    return IResNet(34, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def iresnet50(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> IResNet:
    """arcface_torch's r50: 43,590,848 parameters, 6.309 G multiply-adds at 112x112. Arguments: see `IResNet`."""
    return IResNet(50, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def iresnet100(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> IResNet:
    """arcface_torch's r100: 65,156,160 parameters, 12.090 G multiply-adds at 112x112. Arguments: see `IResNet`."""
    return IResNet(100, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
