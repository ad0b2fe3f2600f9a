"""Analyses of trained recognisers: similarity, projection, verification, statistics over seeds."""

from interproto_lib.analysis.comparison import (
    child_neighbour_share,
    comparison_results,
    held_out_accuracies,
    measure_runs,
    paired_with_baseline,
    similarity_measures,
)
from interproto_lib.analysis.embedding import (
    Embeddings,
    embed_dataset,
    embed_images,
    load_backbone,
    load_embeddings,
    save_embeddings,
)
from interproto_lib.analysis.held_out import (
    describe_held_out,
    held_out_check,
    held_out_results,
)
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
    "Embeddings",
    "MeanStd",
    "PairedDifference",
    "ProjectionQuality",
    "PrototypeFeatureGap",
    "SimilarityMatrix",
    "SimilaritySummary",
    "VerificationResult",
    "best_threshold_accuracy",
    "child_neighbour_share",
    "class_means",
    "cohort_similarity",
    "comparison_results",
    "describe_held_out",
    "embed_dataset",
    "embed_images",
    "held_out_accuracies",
    "held_out_check",
    "held_out_results",
    "inter_class_similarity",
    "intra_class_similarity",
    "load_backbone",
    "load_embeddings",
    "mean_and_std",
    "measure_runs",
    "most_confused_pairs",
    "nearest_neighbours",
    "pair_scores",
    "paired_difference",
    "paired_with_baseline",
    "project_prototypes",
    "projection_quality",
    "prototype_feature_gap",
    "prototype_similarity",
    "roc_auc",
    "roc_curve",
    "sample_identities",
    "save_embeddings",
    "similarity_measures",
    "summarise_similarity",
    "ten_fold_accuracy",
]
