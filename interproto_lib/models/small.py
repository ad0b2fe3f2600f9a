"""Two small IR-style networks that train in minutes on a CPU.

Own design, for the built-in faces: the improved residual unit of `ir.py` with three changes, each kept because it was
faster on one CPU thread in one and the same run of `benchmarks/bench_training_step.py` style measurements (56x56, batch
64, float32, forward + backward + SGD, channels-last; the ratios are to the unit as in `ir.py` at the same widths):

- the stride stands in the unit's first convolution instead of its second: 1.7 times as many images a second;
- ReLU in place instead of PReLU: another 1.3 times;
- the linear layer has no bias, for the batch normalisation after it would cancel it.

bfloat16 autocast gives another 1.4 times on a CPU with AVX-512 bf16 instructions. Initialisation: PyTorch's defaults.
"""

from __future__ import annotations

from torch import Tensor, nn

from interproto_lib.models.backbone import Backbone

SMALL_WIDTHS: tuple[int, ...] = (32, 64, 128)
TINY_WIDTHS: tuple[int, ...] = (16, 32, 64)


class SmallUnit(nn.Module):
    """Improved residual unit of stride 2 with the stride first: BN, conv 3x3 / 2, ReLU, conv 3x3, BN; plus a shortcut.

    The shortcut is every second pixel where the width stays, else conv 1x1 / 2 and BN.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if in_channels == out_channels:
            self.shortcut_layer = nn.MaxPool2d(1, 2)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, 2, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c_in, h, w) to (b, c_out, ceil(h / 2), ceil(w / 2))."""
        return self.shortcut_layer(x) + self.res_layer(x)


class SmallBackbone(Backbone):
    """Stem conv 3x3 / 2, one `SmallUnit` a width (56 -> 28 -> 14 -> 7 -> 4), BN, flatten, linear, BN.

    Args:
        widths: Channels of the three units; the stem has as many as the first.
        embedding_dim: Length d of an embedding.
        image_size: Side of the images in pixels, at least 16; the linear layer adapts.
        dropout: Share of the last feature map zeroed before the linear layer while training.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(
        self, widths: tuple[int, ...], *, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0
    ) -> None:
        super().__init__(embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        in_widths = (widths[0], *widths[:-1])
        self.body = nn.Sequential(
            *(SmallUnit(in_width, width) for in_width, width in zip(in_widths, widths, strict=True))
        )
        side = -(-self.image_size // 2 ** (1 + len(widths)))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(self.dropout),
            nn.Flatten(),
            nn.Linear(widths[-1] * side * side, self.embedding_dim, bias=False),
            nn.BatchNorm1d(self.embedding_dim),
        )

    def embed(self, images: Tensor) -> Tensor:
        """Embed a batch that has been checked; see `forward`."""
        return self.output_layer(self.body(self.input_layer(images)))


def small(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> SmallBackbone:
    """The network of the `demo` preset: widths 32, 64, 128. Arguments: see `SmallBackbone`."""
    return SmallBackbone(SMALL_WIDTHS, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def tiny(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.0) -> SmallBackbone:
    """The network of the `tiny` preset: widths 16, 32, 64. Arguments: see `SmallBackbone`."""
    return SmallBackbone(TINY_WIDTHS, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
