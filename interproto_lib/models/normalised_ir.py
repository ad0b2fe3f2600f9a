"""IR networks whose units have batch normalisation between the first convolution and PReLU: AdaFace's and MTLFace's.

Source: *AdaFace: Quality Adaptive Margin for Face Recognition* (Kim, Jain, Liu, CVPR 2022) and *When Age-Invariant Face
Recognition Meets Face Age Synthesis* (Huang, Zhang, Shan, CVPR 2021), layers, names and initialisation as in the code
of their authors. AdaFace's embedding ends with a batch normalisation without learned scale and shift; its names are
those of its checkpoints under the prefix `model.`. Of MTLFace this is the backbone alone, without the separation of
age and identity; its stages stand in one `body` here.

Deviations, none of which changes a cosine: those of `interproto_lib.models.ir`; AdaFace's code returns the embedding
as direction and norm, here it is their product.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from interproto_lib.models.ir import IRBackbone


class AdaFaceBackbone(IRBackbone):
    """AdaFace's IR or IR-SE network. Initialisation: Kaiming-normal over the outputs, biases 0.

    Args:
        depth: Nominal depth, a key of `interproto_lib.models.ir.UNITS_PER_STAGE`; AdaFace calls 100 "101".
        squeeze_excitation: IR-SE instead of IR.
        embedding_dim: Length d of an embedding.
        image_size: Side of the images in pixels, a multiple of 16.
        dropout: Share of the last feature map zeroed before the linear layer while training; 0.4 in AdaFace.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(
        self,
        depth: int,
        *,
        squeeze_excitation: bool = False,
        embedding_dim: int = 512,
        image_size: int = 112,
        dropout: float = 0.4,
    ) -> None:
        super().__init__(
            depth,
            squeeze_excitation=squeeze_excitation,
            mid_normalisation=True,
            scaled_embedding=False,
            embedding_dim=embedding_dim,
            image_size=image_size,
            dropout=dropout,
        )
        _initialise(self, lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu"))


class MTLFaceBackbone(IRBackbone):
    """MTLFace's IR network. Initialisation: Xavier-uniform, biases 0.

    Args:
        depth: Nominal depth, a key of `interproto_lib.models.ir.UNITS_PER_STAGE`.
        embedding_dim: Length d of an embedding.
        image_size: Side of the images in pixels, a multiple of 16.
        dropout: Share of the last feature map zeroed before the linear layer while training; 0.5 in MTLFace.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(self, depth: int, *, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.5) -> None:
        super().__init__(
            depth,
            squeeze_excitation=False,
            mid_normalisation=True,
            embedding_dim=embedding_dim,
            image_size=image_size,
            dropout=dropout,
        )
        _initialise(self, nn.init.xavier_uniform_)


def _initialise(backbone: nn.Module, fill: Callable[[Tensor], Tensor]) -> None:
    for layer in backbone.modules():
        # Without values ("meta") there is nothing to draw, and PyTorch takes ten seconds to prepare for it.
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.is_meta:
            fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def adaface_ir18(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.4) -> AdaFaceBackbone:
    """AdaFace's IR-18: 24,020,352 parameters, 2.597 G multiply-adds at 112x112. Arguments: see `AdaFaceBackbone`."""
    return AdaFaceBackbone(18, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def adaface_ir34(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.4) -> AdaFaceBackbone:
    """AdaFace's IR-34: 34,134,080 parameters, 4.447 G multiply-adds at 112x112. Arguments: see `AdaFaceBackbone`."""
    return AdaFaceBackbone(34, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def adaface_ir50(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.4) -> AdaFaceBackbone:
    """AdaFace's IR-50: 43,585,600 parameters, 6.2965 G multiply-adds at 112x112. Arguments: see `AdaFaceBackbone`."""
    return AdaFaceBackbone(50, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def adaface_ir101(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.4) -> AdaFaceBackbone:
    """AdaFace's IR-101: 65,150,912 parameters, 12.0768 G multiply-adds at 112x112. Arguments: see `AdaFaceBackbone`."""
    return AdaFaceBackbone(100, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)


def adaface_ir_se50(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.4) -> AdaFaceBackbone:
    """AdaFace's IR-SE-50: 43,808,320 parameters, 6.2967 G multiply-adds. Arguments: see `AdaFaceBackbone`."""
    return AdaFaceBackbone(
        50, squeeze_excitation=True, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout
    )


def mtlface_ir50(*, embedding_dim: int = 512, image_size: int = 112, dropout: float = 0.5) -> MTLFaceBackbone:
    """MTLFace's IR-50: 43,586,624 parameters, 6.2965 G multiply-adds at 112x112. Arguments: see `MTLFaceBackbone`."""
    return MTLFaceBackbone(50, embedding_dim=embedding_dim, image_size=image_size, dropout=dropout)
