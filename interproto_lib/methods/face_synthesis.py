"""MTLFace's face age synthesis: a generator that ages a face within its identity, and its patch discriminator.

Source: Huang, Zhang and Shan, "When age-invariant face recognition meets face age synthesis: a multi-task learning
framework", CVPR 2021, layers and initialisation as in the code of its authors. There the stages of the encoder have
fixed widths and sizes; here they are read off the recogniser, so that small networks and small images can be aged too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from interproto_lib.errors import ConfigError
from interproto_lib.methods.attention import AttentiveBackbone
from interproto_lib.methods.mtlface import MTLFACE_GROUP_STARTS
from interproto_lib.models import Backbone

GROUP_STARTS_YEARS: tuple[int, ...] = MTLFACE_GROUP_STARTS[1:]
"""First whole age in years of each age group of MTLFace but the youngest."""

NARROWEST_UP = 16
"""Fewest channels of the last, widest map of the generator; MTLFace has 32."""

SLOPE = 0.2
"""Of the discriminator's LeakyReLU below 0."""

INITIAL_DEVIATION = 0.01
"""Standard deviation of the generator's initial weights."""


class EncodedFaces(NamedTuple):
    """What the recogniser sees in a batch of faces.

    Attributes:
        identity: (b, c, h, w), the identity part x_id of the last feature map.
        age: (b, c, h, w), its age part x_age.
        skips: Maps of earlier stages, from the smallest to the largest, the images themselves last.
    """

    identity: Tensor
    age: Tensor
    skips: tuple[Tensor, ...]


class FaceEncoder(nn.Module):
    """A trained recogniser as a frozen encoder: it is in evaluation mode, and its parameters get no gradient.

    The map of a stage is the last of its height and width that a part of the backbone gives; those as large as the
    images are left out, for the images themselves take their place.

    Args:
        recogniser: The network of a run that separates maps.

    Raises:
        ConfigError: The recogniser does not separate feature maps.
    """

    def __init__(self, recogniser: Backbone) -> None:
        super().__init__()
        if not isinstance(recogniser, AttentiveBackbone):
            raise ConfigError(
                f"{type(recogniser).__name__} does not separate its feature map into identity and age, so faces "
                "cannot be aged with it. Run notebooks/02_train.ipynb with age_method='mtlface' first."
            )
        self.recogniser = recogniser.eval().requires_grad_(requires_grad=False)
        self.image_size = recogniser.image_size

    def train(self, mode: bool = True) -> FaceEncoder:
        """Keep evaluation mode, whatever the mode of what this is a part of."""
        return super().train(mode=False)

    def forward(self, images: Tensor) -> EncodedFaces:
        """Encode a batch.

        Args:
            images: (b, 3, h, w) in [-1, 1].

        Returns:
            Its maps; gradients reach the images, where asked for, and nothing else.
        """
        found: dict[int, Tensor] = {}

        def keep(module: nn.Module, given: object, output: Tensor) -> None:
            found[output.shape[-1]] = output

        handles = [part.register_forward_hook(keep) for part in self._parts()]
        try:
            identity, age = self.recogniser.separate(images)
        finally:
            for handle in handles:
                handle.remove()
        sides = sorted(side for side in found if identity.shape[-1] < side < images.shape[-1])
        return EncodedFaces(identity, age, (*(found[side] for side in sides), images))

    def shapes(self) -> EncodedFaces:
        """Encode one black face, to see what shapes the maps have."""
        parameter = next(self.recogniser.parameters())
        with torch.no_grad():
            return self(parameter.new_zeros(1, 3, self.image_size, self.image_size))

    def _parts(self) -> list[nn.Module]:
        """Layers and units of the backbone, in the sequences that it is made of."""
        children = self.recogniser.backbone.children()
        return [part for child in children for part in (child if isinstance(child, nn.Sequential) else (child,))]


def group_masks(n_groups: int, units: int, overlap: float) -> Tensor:
    """Say which channels each age group uses: `units` in a row, of which neighbouring groups share some.

    Formula: group i uses the channels from floor(i (1 - overlap) units) on.

    Args:
        n_groups: Age groups g, at least 1.
        units: Channels of a group, at least 1.
        overlap: Share in [0, 1) of its channels that a group has in common with the next.

    Returns:
        (g, k) float32 of 0 and 1; k = 819 for 7 groups of 128 units and overlap 0.1, as in MTLFace.

    Example:
        >>> group_masks(3, 2, 0.5).long().tolist()
        [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    """
    starts = [int(i * (1 - overlap) * units + 1e-9) for i in range(n_groups)]
    masks = torch.zeros(n_groups, starts[-1] + units)
    for mask, start in zip(masks, starts, strict=True):
        mask[start : start + units] = 1
    return masks


class RoutedBlock(nn.Module):
    """Residual block that keeps to the channels of an age group: PReLU(x + mask BN(conv(PReLU(mask BN(conv(x))))).

    Args:
        channels: Channels of all groups together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.first_activation = nn.PReLU(channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.second_activation = nn.PReLU(channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (b, k, h, w) to the same shape; `mask` is (b, k, 1, 1)."""
        residual = self.second(self.first_activation(self.first(x) * mask)) * mask
        return self.second_activation(x + residual)


class IdentityConditionalModule(nn.Module):
    """What ages: identity maps are brought to the channels of the target group, changed there, and brought back.

    A 1x1 convolution to k channels, the mask of the group (`group_masks`), residual blocks, and a 1x1 convolution.
    A quarter of the encoder's channels are a group's own, as in MTLFace (128 of 512).

    Args:
        channels: Channels c of the identity maps.
        n_groups: Age groups.
        overlap: Share of its channels that a group has in common with the next.
        n_blocks: Residual blocks.
    """

    masks: Tensor

    def __init__(self, channels: int, *, n_groups: int, overlap: float, n_blocks: int) -> None:
        super().__init__()
        self.register_buffer("masks", group_masks(n_groups, max(1, channels // 4), overlap), persistent=False)
        width = self.masks.shape[1]
        self.enter = nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.PReLU(width))
        self.blocks = nn.ModuleList(RoutedBlock(width) for _ in range(n_blocks))
        self.leave = nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels), nn.PReLU(channels))

    def forward(self, identity: Tensor, groups: Tensor) -> Tensor:
        """Map (b, c, h, w) to the same shape; `groups` is (b,) int64."""
        mask = self.masks[groups][:, :, None, None]
        x = self.enter(identity) * mask
        for block in self.blocks:
            x = block(x, mask)
        return self.leave(x)


class UpBlock(nn.Module):
    """One step up: bilinear to the size of the skip, joined with it, and two residual pairs of BN-PReLU-conv 3x3.

    Args:
        channels: Channels in.
        skip_channels: Channels of the skip.
        out_channels: Channels out.
    """

    def __init__(self, channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            *_normalised_convolution(channels + skip_channels, out_channels),
            *_normalised_convolution(out_channels, out_channels),
        )
        self.second = nn.Sequential(
            *_normalised_convolution(out_channels, out_channels),
            *_normalised_convolution(out_channels, out_channels),
        )
        self.shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c_out, H, W) of the skip (b, c_skip, H, W)."""
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        x = self.shortcut(x) + self.first(torch.cat([x, skip], dim=1))
        return x + self.second(x)


class FaceGenerator(nn.Module):
    """Ages a face: what the identity-conditional module makes of x_id, led up past the encoder's stages to the image.

    Formula: clamp(I + U(M(x_id, group); x_4, x_3, x_2, I), -1, 1).
    Deviation: MTLFace's code does not clamp. Values beyond those of an image would be seen by the networks that judge
    it in training, but by nobody afterwards.

    Args:
        shapes: Maps of one face, as `FaceEncoder.shapes` gives them.
        n_groups: Age groups.
        overlap: Share of its channels that a group has in common with the next.
        n_blocks: Residual blocks of the identity-conditional module.
    """

    def __init__(self, shapes: EncodedFaces, *, n_groups: int, overlap: float = 0.1, n_blocks: int = 4) -> None:
        super().__init__()
        deepest = shapes.identity.shape[1]
        self.ageing = IdentityConditionalModule(deepest, n_groups=n_groups, overlap=overlap, n_blocks=n_blocks)
        skips = [skip.shape[1] for skip in shapes.skips]
        last = max(NARROWEST_UP, (skips[-2] if len(skips) > 1 else deepest) // 2)
        widths = [deepest, *skips[:-1], last]
        self.up = nn.ModuleList(
            UpBlock(before, skip, after) for (before, after), skip in zip(pairwise(widths), skips, strict=True)
        )
        self.to_image = nn.Conv2d(last, 3, 1)
        for layer in self.modules():
            # Without values ("meta") there is nothing to draw, and PyTorch takes ten seconds to prepare for it.
            if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
                nn.init.normal_(layer.weight, std=INITIAL_DEVIATION)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, encoded: EncodedFaces, groups: Tensor) -> Tensor:
        """Age faces.

        Args:
            encoded: Of the encoder, b faces.
            groups: (b,) int64, the age group wanted of each.

        Returns:
            (b, 3, h, w) in [-1, 1].
        """
        x = self.ageing(encoded.identity, groups)
        for up, skip in zip(self.up, encoded.skips, strict=True):
            x = up(x, skip)
        return (encoded.skips[-1] + self.to_image(x)).clamp(-1, 1)


class PatchDiscriminator(nn.Module):
    """Says of each patch of a face whether it is real for its age group: 1 for real, 0 for made.

    Convolutions 4x4 with padding 1, of stride 2 until the map is 7 pixels wide (four at 112 pixels, three at 56), then
    two of stride 1; LeakyReLU 0.2. Widths 64-128-256-512-512-1 at 112 pixels, at other sizes as many fewer or more of
    the last. A one-hot map of the group joins after the first layer. Spectral normalisation of all layers but the first
    and the last, as in the code of MTLFace's authors.

    Args:
        image_size: Height and width of the images in pixels, at least 16.
        n_groups: Age groups.
        width: Channels of the first layer; 64 in MTLFace.

    Raises:
        ConfigError: The images are too small.
    """

    def __init__(self, *, image_size: int, n_groups: int, width: int = 64) -> None:
        super().__init__()
        if image_size < 16:
            raise ConfigError(f"image_size={image_size}: the discriminator needs images of 16 pixels or more")
        n_halvings = 1
        while image_size >> (n_halvings + 1) >= 7:
            n_halvings += 1
        self.n_groups = n_groups
        self.first = nn.Conv2d(3, width, 4, 2, 1)
        widths = [width * min(2**layer, 8) for layer in range(n_halvings + 1)]
        layers: list[nn.Module] = []
        for layer, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if layer < n_halvings - 1 else 1
            joined = n_groups if layer == 0 else 0
            layers += [spectral_norm(nn.Conv2d(before + joined, after, 4, stride, 1)), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, images: Tensor, groups: Tensor) -> Tensor:
        """Judge faces.

        Args:
            images: (b, 3, h, w) in [-1, 1].
            groups: (b,) int64, the age group each is to be of.

        Returns:
            (b, 1, p, p), one value a patch.
        """
        x = F.leaky_relu(self.first(images), SLOPE)
        of_group = F.one_hot(groups, self.n_groups).to(x.dtype)[:, :, None, None]
        return self.layers(torch.cat([x, of_group.expand(-1, -1, *x.shape[-2:])], dim=1))


def age_groups(ages_years: Tensor, starts_years: Sequence[int] = GROUP_STARTS_YEARS) -> Tensor:
    """Give the age group of each age, by completed years.

    Args:
        ages_years: (n,) known ages in years.
        starts_years: First whole age of each group but the youngest, rising.

    Returns:
        (n,) int64 from 0.

    Example:
        >>> age_groups(torch.tensor([10.9, 11.0, 35.0, 80.0])).tolist()
        [0, 1, 3, 6]
    """
    starts = torch.tensor(starts_years, device=ages_years.device, dtype=ages_years.dtype)
    return torch.bucketize(ages_years.floor(), starts, right=True)


def _normalised_convolution(channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.PReLU(channels), nn.Conv2d(channels, out_channels, 3, padding=1)]
