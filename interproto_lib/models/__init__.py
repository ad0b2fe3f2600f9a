"""Backbones: networks that map aligned face images to embeddings."""

from interproto_lib.models.backbone import Backbone
from interproto_lib.models.building import BACKBONES, build_backbone
from interproto_lib.models.checkpoints import load_backbone_weights, save_backbone
from interproto_lib.models.complexity import count_multiply_adds, count_parameters
from interproto_lib.models.export import backbone_name, export_onnx, export_safetensors, open_backbone
from interproto_lib.models.foreign import FOREIGN_KINDS, ForeignCheckpoint, load_foreign
from interproto_lib.models.foreign_head import load_foreign_head
from interproto_lib.models.inputs import images_to_input
from interproto_lib.models.ir import IRBackbone, ir50, ir100, ir152, ir_se50, ir_se100, ir_se152
from interproto_lib.models.iresnet import IResNet, iresnet18, iresnet34, iresnet50, iresnet100
from interproto_lib.models.mobilefacenet import MobileFaceNet, mobilefacenet
from interproto_lib.models.normalised_ir import (
    AdaFaceBackbone,
    MTLFaceBackbone,
    adaface_ir18,
    adaface_ir34,
    adaface_ir50,
    adaface_ir101,
    adaface_ir_se50,
    mtlface_ir50,
)
from interproto_lib.models.small import SmallBackbone, small, tiny

__all__ = [
    "BACKBONES",
    "FOREIGN_KINDS",
    "AdaFaceBackbone",
    "Backbone",
    "ForeignCheckpoint",
    "IRBackbone",
    "IResNet",
    "MTLFaceBackbone",
    "MobileFaceNet",
    "SmallBackbone",
    "adaface_ir18",
    "adaface_ir34",
    "adaface_ir50",
    "adaface_ir101",
    "adaface_ir_se50",
    "backbone_name",
    "build_backbone",
    "count_multiply_adds",
    "count_parameters",
    "export_onnx",
    "export_safetensors",
    "images_to_input",
    "ir50",
    "ir100",
    "ir152",
    "ir_se50",
    "ir_se100",
    "ir_se152",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "load_backbone_weights",
    "load_foreign",
    "load_foreign_head",
    "mobilefacenet",
    "mtlface_ir50",
    "open_backbone",
    "save_backbone",
    "small",
    "tiny",
]
