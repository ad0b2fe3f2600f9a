"""One module for each way data arrives."""

from interproto_lib.data.formats.age_labels import read_age_labels
from interproto_lib.data.formats.folder_listing import FolderListing, list_folder, natural_key
from interproto_lib.data.formats.identity_folders import read_identity_folder
from interproto_lib.data.formats.image_files import FITS, IMAGE_ENDINGS, Fit, decode_image_bytes, fit_image, read_image
from interproto_lib.data.formats.image_names import NAME_LAYOUTS, NamedImage, NameLayout, describe_images
from interproto_lib.data.formats.landmarks import LANDMARK_COLUMNS, LandmarkFile, read_landmarks
from interproto_lib.data.formats.pair_lists import PAIR_LAYOUTS, PairLayout, read_pairs
from interproto_lib.data.formats.record_file import Record, RecordFile, RecordHeads
from interproto_lib.data.formats.record_writer import write_dataset_as_recordio, write_recordio
from interproto_lib.data.formats.recordio import recordio_collection
from interproto_lib.data.formats.verification_bin import decode_image, read_verification_bin, write_verification_bin

__all__ = [
    "FITS",
    "IMAGE_ENDINGS",
    "LANDMARK_COLUMNS",
    "NAME_LAYOUTS",
    "PAIR_LAYOUTS",
    "Fit",
    "FolderListing",
    "LandmarkFile",
    "NameLayout",
    "NamedImage",
    "PairLayout",
    "Record",
    "RecordFile",
    "RecordHeads",
    "decode_image",
    "decode_image_bytes",
    "describe_images",
    "fit_image",
    "list_folder",
    "natural_key",
    "read_age_labels",
    "read_identity_folder",
    "read_image",
    "read_landmarks",
    "read_pairs",
    "read_verification_bin",
    "recordio_collection",
    "write_dataset_as_recordio",
    "write_recordio",
    "write_verification_bin",
]
