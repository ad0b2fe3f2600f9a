"""Analyses of trained recognisers: similarity, projection, verification, statistics over seeds."""

from interproto_lib.analysis.projection import (
    ProjectionQuality,
    nearest_neighbours,
    project_prototypes,
    projection_quality,
)
from interproto_lib.analysis.similarity import (
    COHORTS,
    SimilarityMatrix,
    class_means,
    cohort_similarity,
    inter_class_similarity,
    intra_class_similarity,
    prototype_similarity,
    sample_identities,
)
from interproto_lib.analysis.similarity_summary import (
    PrototypeFeatureGap,
    SimilaritySummary,
    most_confused_pairs,
    prototype_feature_gap,
    summarise_similarity,
)
from interproto_lib.analysis.statistics import MeanStd, PairedDifference, mean_and_std, paired_difference
from interproto_lib.analysis.verification import (
    BestThresholdResult,
    VerificationResult,
    best_threshold_accuracy,
    pair_scores,
    roc_auc,
    roc_curve,
    ten_fold_accuracy,
)

__all__ = [
    "COHORTS",
    "BestThresholdResult",
    "MeanStd",
    "PairedDifference",
    "ProjectionQuality",
    "PrototypeFeatureGap",
    "SimilarityMatrix",
    "SimilaritySummary",
    "VerificationResult",
    "best_threshold_accuracy",
    "class_means",
    "cohort_similarity",
    "inter_class_similarity",
    "intra_class_similarity",
    "mean_and_std",
    "most_confused_pairs",
    "nearest_neighbours",
    "pair_scores",
    "paired_difference",
    "project_prototypes",
    "projection_quality",
    "prototype_feature_gap",
    "prototype_similarity",
    "roc_auc",
    "roc_curve",
    "sample_identities",
    "summarise_similarity",
    "ten_fold_accuracy",
]
