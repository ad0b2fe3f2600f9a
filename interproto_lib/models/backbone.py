"""What every backbone shares: the sizes it was built for, and a check of the images it is given."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor, nn

from interproto_lib.errors import ConfigError, DatasetError


class Backbone(nn.Module):
    """A network that maps aligned face images to embeddings.

    Subclasses implement `feature_map`, the last map of features that still has rows and columns, and
    `embed_feature_map`, what makes an embedding of it; a method may change the map in between. `forward` checks the
    images first, so that a wrong size, scale type or layout is named instead of surfacing as a shape error deep inside
    a layer. The embeddings are **not** L2-normalised: the margin heads and the evaluation do that. (The official IR /
    IR-SE code normalises at the end of the backbone; here it is the same division at another place, so the cosines are
    the same.)

    Attributes:
        embedding_dim: Length d of an embedding.
        image_size: Height and width of the images, in pixels.
        dropout: Share of features zeroed before the last linear layer while training.
        feature_shape: (c, h, w) of an image's last feature map; subclasses set it.
    """

    embedding_dim: int
    image_size: int
    dropout: float
    feature_shape: tuple[int, int, int]

    def __init__(self, *, embedding_dim: int, image_size: int, dropout: float) -> None:
        super().__init__()
        if not isinstance(embedding_dim, Integral) or isinstance(embedding_dim, bool) or embedding_dim < 1:
            raise ConfigError(f"embedding_dim must be a whole number of at least 1, found {embedding_dim!r}.")
        if not isinstance(image_size, Integral) or isinstance(image_size, bool) or image_size < 16:
            raise ConfigError(f"image_size must be a whole number of at least 16 pixels, found {image_size!r}.")
        if not isinstance(dropout, Real) or isinstance(dropout, bool) or not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be a share in [0, 1), found {dropout!r}.")
        self.embedding_dim = int(embedding_dim)
        self.image_size = int(image_size)
        self.dropout = float(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images.

        Args:
            images: (b, 3, h, w) floating point, RGB in [-1, 1], that is (x / 255 - 0.5) / 0.5, with
                h = w = `image_size`; contiguous or channels-last.

        Returns:
            (b, d) embeddings, not normalised.

        Raises:
            DatasetError: The images have another shape or an integer type.
        """
        self._check_images(images)
        return self.embed(images)

    def embed(self, images: Tensor) -> Tensor:
        """Embed a batch that has been checked; see `forward`."""
        return self.embed_feature_map(self.feature_map(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the last feature map of a batch that has been checked.

        Args:
            images: (b, 3, image_size, image_size), see `forward`.

        Returns:
            (b, c, h, w), where (c, h, w) is `feature_shape`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement feature_map")

    def embed_feature_map(self, features: Tensor) -> Tensor:
        """Embed feature maps.

        Args:
            features: (b, c, h, w) as `feature_map` gives them.

        Returns:
            (b, d) embeddings, not normalised.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement embed_feature_map")

    def _check_images(self, images: Tensor) -> None:
        size = self.image_size
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != size or images.shape[3] != size:
            found = tuple(images.shape)
            hint = "."
            if images.ndim == 4 and images.shape[1] != 3 and images.shape[3] == 3:
                hint = ": the colours come last, permute(0, 3, 1, 2) puts them second."
            elif images.ndim == 3:
                hint = ": add the batch axis with images[None]."
            elif images.ndim == 4 and images.shape[1] == 3:
                hint = f": resize the images, or build the backbone with image_size={images.shape[2]}."
            raise DatasetError(
                f"{type(self).__name__} takes images of shape (b, 3, {size}, {size}), found {found}{hint}"
            )
        if not torch.is_floating_point(images):
            raise DatasetError(
                f"{type(self).__name__} takes floating point images in [-1, 1], found {images.dtype}: "
                "give (images.float() / 255 - 0.5) / 0.5."
            )


def downsampled_side(image_size: int, name: str) -> int:
    """Side of the last feature map of a network that halves the image four times exactly.

    Args:
        image_size: Side of the images, in pixels.
        name: Name of the network, for the message.

    Returns:
        `image_size` / 16.

    Raises:
        ConfigError: `image_size` is not a multiple of 16.
    """
    if image_size % 16:
        below, above = image_size // 16 * 16, (image_size // 16 + 1) * 16
        raise ConfigError(
            f"{name} halves the image four times, so image_size must be a multiple of 16, found {image_size}: "
            f"take {below} or {above}, or one of the backbones small and tiny, which take any size."
        )
    return image_size // 16
