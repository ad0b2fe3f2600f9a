"""Faces drawn by formula: the built-in dataset, exact on every machine."""

from interproto_lib.data.synthetic.dataset import make_synthetic_dataset, synthetic_manifest
from interproto_lib.data.synthetic.renderer import draw_faces
from interproto_lib.data.synthetic.settings import SyntheticSettings
from interproto_lib.data.synthetic.sheets import contact_sheet

__all__ = ["SyntheticSettings", "contact_sheet", "draw_faces", "make_synthetic_dataset", "synthetic_manifest"]
