"""One module for each way data arrives."""

from interproto_lib.data.formats.age_labels import read_age_labels
from interproto_lib.data.formats.identity_folders import natural_key, read_identity_folder
from interproto_lib.data.formats.image_files import FITS, IMAGE_ENDINGS, Fit, fit_image, read_image

__all__ = [
    "FITS",
    "IMAGE_ENDINGS",
    "Fit",
    "fit_image",
    "natural_key",
    "read_age_labels",
    "read_identity_folder",
    "read_image",
]
