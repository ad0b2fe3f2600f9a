"""Tables, images and pairs for training and evaluation. Drawn faces are in `interproto_lib.data.synthetic`."""

from interproto_lib.data.age_coverage import AgeCoverage, label_ages
from interproto_lib.data.alignment import LANDMARK_NAMES, align_face, estimate_similarity, face_template
from interproto_lib.data.card_counts import CardCount, count_dataset
from interproto_lib.data.collections import EncodedImages, FolderImages, ImageCollection
from interproto_lib.data.contents import dataset_contents, files_of_test_sets, source_contents
from interproto_lib.data.datasets import FaceDataset, load_dataset, save_dataset, training_labels, verify_dataset
from interproto_lib.data.detection import FaceDetector
from interproto_lib.data.duplicates import (
    difference_hashes,
    image_digests,
    nearest_hashes,
    shared_identities,
    shared_images,
)
from interproto_lib.data.evaluation_sets import EvaluationSets, evaluation_sets
from interproto_lib.data.face_decoding import AlignedDecode, aligned_decode
from interproto_lib.data.faces import FACE_CHOICES, Faces
from interproto_lib.data.formats.age_labels import read_age_labels
from interproto_lib.data.formats.identity_folders import read_identity_folder
from interproto_lib.data.formats.image_names import NAME_LAYOUTS, describe_images
from interproto_lib.data.formats.landmarks import LandmarkFile, read_landmarks
from interproto_lib.data.formats.pair_lists import PAIR_LAYOUTS, read_pairs
from interproto_lib.data.formats.record_writer import write_dataset_as_recordio, write_recordio
from interproto_lib.data.formats.recordio import recordio_collection
from interproto_lib.data.formats.verification_bin import read_verification_bin, write_verification_bin
from interproto_lib.data.identification_sets import (
    IdentificationSet,
    identification_set,
    identification_set_from_pairs,
)
from interproto_lib.data.identification_tests import (
    IdentificationTest,
    IdentificationTests,
    identification_tests,
    publish_identification_tests,
)
from interproto_lib.data.image_folders import FolderSource
from interproto_lib.data.intake import prepare_source
from interproto_lib.data.intake_report import IntakeReport
from interproto_lib.data.manifests import (
    AGE_GROUPS,
    CHILD_BELOW_YEARS,
    MANIFEST_COLUMNS,
    SPLITS,
    ManifestSummary,
    age_group,
    class_table,
    read_manifest,
    summarise_manifest,
    validate_manifest,
    write_manifest,
)
from interproto_lib.data.packed_folders import pack_identity_folder
from interproto_lib.data.packed_images import Decode, DecodedImage, ImageRejectedError
from interproto_lib.data.packing import RejectedImagesError, pack_collection
from interproto_lib.data.pair_rules import ADULT_FROM_YEARS, PAIR_KINDS
from interproto_lib.data.preparation import (
    DATASETS,
    IdentityFolderSettings,
    dataset_settings,
    prepare_dataset,
    prepare_identity_folder,
    prepare_synthetic,
    take_prepared,
)
from interproto_lib.data.prepared_check import PreparedReport, check_prepared
from interproto_lib.data.prepared_folders import PreparedSettings
from interproto_lib.data.protocol_files import (
    read_identification_set,
    read_verification_set,
    write_identification_set,
    write_verification_set,
)
from interproto_lib.data.protocols import NEGATIVES, available_pair_kinds, child_adult_pairs, verification_pairs
from interproto_lib.data.registry import DatasetCard, list_cards, read_card, require_dataset
from interproto_lib.data.seen_twice import SeenTwice, find_seen_twice
from interproto_lib.data.shapes import SHAPES, open_collection
from interproto_lib.data.splits import choose_splits
from interproto_lib.data.test_set_files import pair_list_set, read_test_set, verification_bin_set
from interproto_lib.data.test_sets import DatasetSource, ImageSource, VerificationSet, held_out_sets
from interproto_lib.data.verification_files import VerificationFileReport, check_verification_file

__all__ = [
    "ADULT_FROM_YEARS",
    "AGE_GROUPS",
    "CHILD_BELOW_YEARS",
    "DATASETS",
    "FACE_CHOICES",
    "LANDMARK_NAMES",
    "MANIFEST_COLUMNS",
    "NAME_LAYOUTS",
    "NEGATIVES",
    "PAIR_KINDS",
    "PAIR_LAYOUTS",
    "SHAPES",
    "SPLITS",
    "AgeCoverage",
    "AlignedDecode",
    "CardCount",
    "DatasetCard",
    "DatasetSource",
    "Decode",
    "DecodedImage",
    "EncodedImages",
    "EvaluationSets",
    "FaceDataset",
    "FaceDetector",
    "Faces",
    "FolderImages",
    "FolderSource",
    "IdentificationSet",
    "IdentificationTest",
    "IdentificationTests",
    "IdentityFolderSettings",
    "ImageCollection",
    "ImageRejectedError",
    "ImageSource",
    "IntakeReport",
    "LandmarkFile",
    "ManifestSummary",
    "PreparedReport",
    "PreparedSettings",
    "RejectedImagesError",
    "SeenTwice",
    "VerificationFileReport",
    "VerificationSet",
    "age_group",
    "align_face",
    "aligned_decode",
    "available_pair_kinds",
    "check_prepared",
    "check_verification_file",
    "child_adult_pairs",
    "choose_splits",
    "class_table",
    "count_dataset",
    "dataset_contents",
    "dataset_settings",
    "describe_images",
    "difference_hashes",
    "estimate_similarity",
    "evaluation_sets",
    "face_template",
    "files_of_test_sets",
    "find_seen_twice",
    "held_out_sets",
    "identification_set",
    "identification_set_from_pairs",
    "identification_tests",
    "image_digests",
    "label_ages",
    "list_cards",
    "load_dataset",
    "nearest_hashes",
    "open_collection",
    "pack_collection",
    "pack_identity_folder",
    "pair_list_set",
    "prepare_dataset",
    "prepare_identity_folder",
    "prepare_source",
    "prepare_synthetic",
    "publish_identification_tests",
    "read_age_labels",
    "read_card",
    "read_identification_set",
    "read_identity_folder",
    "read_landmarks",
    "read_manifest",
    "read_pairs",
    "read_test_set",
    "read_verification_bin",
    "read_verification_set",
    "recordio_collection",
    "require_dataset",
    "save_dataset",
    "shared_identities",
    "shared_images",
    "source_contents",
    "summarise_manifest",
    "take_prepared",
    "training_labels",
    "validate_manifest",
    "verification_bin_set",
    "verification_pairs",
    "verify_dataset",
    "write_dataset_as_recordio",
    "write_identification_set",
    "write_manifest",
    "write_recordio",
    "write_verification_bin",
    "write_verification_set",
]
