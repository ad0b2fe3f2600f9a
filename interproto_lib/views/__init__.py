"""Figures, tables and the sentences computed from them: plain arrays and tables in, matplotlib figures and text out."""

from interproto_lib.views.ablation_figures import sweep_figure
from interproto_lib.views.ablations import (
    describe_missing_sweeps,
    describe_sweep,
    describe_sweep_settings,
    describe_without_paper_table,
    setting_words,
    sweep_table,
)
from interproto_lib.views.accuracies import accuracy_figure, describe_accuracies, describe_optimism, optimism_figure
from interproto_lib.views.ages import (
    age_distribution_figure,
    describe_ages,
    describe_child_identities,
    describe_pair_kinds,
)
from interproto_lib.views.cohort_errors import cohort_error_figure, describe_child_factors, describe_cohort_errors
from interproto_lib.views.compared_runs import (
    describe_test_sets,
    operating_table,
    own_columns,
    paper_rows,
    protocol_words,
    roc_curves_of,
    scores_of_seed,
    table_of_test_sets,
)
from interproto_lib.views.comparison import (
    describe_available_cohorts,
    describe_similarities,
    measure_words,
    measures_table,
    readable_measures,
)
from interproto_lib.views.data_checks import (
    card_counts_table,
    describe_layout,
    describe_paper_ages,
    describe_seen_twice,
    label_coverage_table,
)
from interproto_lib.views.differences import describe_differences, difference_figure, readable_trials
from interproto_lib.views.distributions import (
    describe_gaps,
    describe_prototypes_and_features,
    prototype_vs_feature_figure,
    similarity_distribution_figure,
    similarity_summary_figure,
)
from interproto_lib.views.held_out import describe_held_out, describe_rules, gap_words
from interproto_lib.views.identification import cmc_figure, describe_identification
from interproto_lib.views.identification_tables import (
    costs_table,
    describe_costs,
    describe_identification_differences,
    describe_identification_rates,
    describe_identification_rules,
    describe_identification_tests,
    describe_judged_epochs,
    describe_published_identification,
    identification_cells,
    identification_rates_table,
    identification_tests_table,
)
from interproto_lib.views.imported_runs import describe_imported
from interproto_lib.views.paper_tables import PaperTable, paper_table
from interproto_lib.views.projection import PROJECTION_NAMES, describe_projections, describe_purity, projection_figure
from interproto_lib.views.rejects import rejects_figure, rejects_to_show, write_rejects_sheet
from interproto_lib.views.seeds import describe_paired_differences, paired_difference_figure
from interproto_lib.views.sheets import contact_sheet_figure, contact_sheet_rows
from interproto_lib.views.similarity import block_means, describe_cohorts, describe_similarity, similarity_figure
from interproto_lib.views.story import describe_bounds, describe_in_short, describe_methods, methods_table
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    LabelledFigure,
    display_names,
    figure_style,
    method_styles,
    new_figure,
    save_figure,
    similarity_colours,
    symmetric_limit,
)
from interproto_lib.views.table_files import frame_to_latex, frame_to_markdown, write_table_files
from interproto_lib.views.tables import styled_table
from interproto_lib.views.training import describe_training, training_curves_figure
from interproto_lib.views.verification import (
    JudgedScores,
    RocCurves,
    describe_roc,
    describe_scores,
    roc_figure,
    score_distribution_figure,
)
from interproto_lib.views.wording import cohort_words

__all__ = [
    "ADULT_COLOUR",
    "CHILD_COLOUR",
    "PROJECTION_NAMES",
    "JudgedScores",
    "LabelledFigure",
    "PaperTable",
    "RocCurves",
    "accuracy_figure",
    "age_distribution_figure",
    "block_means",
    "card_counts_table",
    "cmc_figure",
    "cohort_error_figure",
    "cohort_words",
    "contact_sheet_figure",
    "contact_sheet_rows",
    "costs_table",
    "describe_accuracies",
    "describe_ages",
    "describe_available_cohorts",
    "describe_bounds",
    "describe_child_factors",
    "describe_child_identities",
    "describe_cohort_errors",
    "describe_cohorts",
    "describe_costs",
    "describe_differences",
    "describe_gaps",
    "describe_held_out",
    "describe_identification",
    "describe_identification_differences",
    "describe_identification_rates",
    "describe_identification_rules",
    "describe_identification_tests",
    "describe_imported",
    "describe_in_short",
    "describe_judged_epochs",
    "describe_layout",
    "describe_methods",
    "describe_missing_sweeps",
    "describe_optimism",
    "describe_pair_kinds",
    "describe_paired_differences",
    "describe_paper_ages",
    "describe_projections",
    "describe_prototypes_and_features",
    "describe_published_identification",
    "describe_purity",
    "describe_roc",
    "describe_rules",
    "describe_scores",
    "describe_seen_twice",
    "describe_similarities",
    "describe_similarity",
    "describe_sweep",
    "describe_sweep_settings",
    "describe_test_sets",
    "describe_training",
    "describe_without_paper_table",
    "difference_figure",
    "display_names",
    "figure_style",
    "frame_to_latex",
    "frame_to_markdown",
    "gap_words",
    "identification_cells",
    "identification_rates_table",
    "identification_tests_table",
    "label_coverage_table",
    "measure_words",
    "measures_table",
    "method_styles",
    "methods_table",
    "new_figure",
    "operating_table",
    "optimism_figure",
    "own_columns",
    "paired_difference_figure",
    "paper_rows",
    "paper_table",
    "projection_figure",
    "protocol_words",
    "prototype_vs_feature_figure",
    "readable_measures",
    "readable_trials",
    "rejects_figure",
    "rejects_to_show",
    "roc_curves_of",
    "roc_figure",
    "save_figure",
    "score_distribution_figure",
    "scores_of_seed",
    "setting_words",
    "similarity_colours",
    "similarity_distribution_figure",
    "similarity_figure",
    "similarity_summary_figure",
    "styled_table",
    "sweep_figure",
    "sweep_table",
    "symmetric_limit",
    "table_of_test_sets",
    "training_curves_figure",
    "write_rejects_sheet",
    "write_table_files",
]
