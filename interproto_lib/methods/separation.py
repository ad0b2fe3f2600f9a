"""Embeddings from which a learned age part is taken away: the recogniser of DAL and of AE-CNN."""

from __future__ import annotations

from torch import Tensor, nn

from interproto_lib.models import Backbone


class SeparatedBackbone(Backbone):
    """A backbone whose embedding x is split into x = x_id + x_age; it gives x_id.

    Args:
        backbone: Gives x, (b, d).
        age_part: Gives what is taken for the age, (b, d), from x.
        identity_of_age: Linear map that age is brought to the space of x by; None for x_age itself.
    """

    def __init__(self, backbone: Backbone, age_part: nn.Module, identity_of_age: nn.Module | None = None) -> None:
        super().__init__(embedding_dim=backbone.embedding_dim, image_size=backbone.image_size, dropout=backbone.dropout)
        self.backbone = backbone
        self.age_part = age_part
        self.identity_of_age = nn.Identity() if identity_of_age is None else identity_of_age
        self.feature_shape = backbone.feature_shape

    def separate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give x_id and x_age, (b, d) each, of a batch of images (see `forward`)."""
        self._check_images(images)
        return self._separate(self.feature_map(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the backbone's last feature map; see `Backbone.feature_map`."""
        return self.backbone.feature_map(images)

    def embed_feature_map(self, features: Tensor) -> Tensor:
        """Embed feature maps: x_id."""
        return self._separate(features)[0]

    def _separate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        whole = self.backbone.embed_feature_map(features)
        age = self.age_part(whole)
        return whole - self.identity_of_age(age), age


def residual_mapping(dim: int) -> nn.Sequential:
    """Two linear layers with ReLU, d to d: R of DAL."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())


def age_classifier(dim: int, n_groups: int) -> nn.Sequential:
    """Two linear layers with ReLU and one to the age groups, as the Inter-Prototype authors' version of DAL has it."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, n_groups))
