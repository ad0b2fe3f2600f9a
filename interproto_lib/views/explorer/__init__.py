"""Widgets to walk around in what runs have learnt; import from here, not from `interproto_lib.views`."""

from interproto_lib.views.explorer.cell_details import CellReasons
from interproto_lib.views.explorer.cell_figures import cell_figure, describe_cell
from interproto_lib.views.explorer.closest_faces import image_reader, may_draw_faces
from interproto_lib.views.explorer.confused_pairs import find_confused_pairs
from interproto_lib.views.explorer.explored import ExploredRuns, open_explored
from interproto_lib.views.explorer.pair_explorer import PairExplorer
from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer
from interproto_lib.views.explorer.projections import stored_projections
from interproto_lib.views.explorer.similarity_explorer import SimilarityExplorer
from interproto_lib.views.explorer.view_figure import describe_view, mean_similarities, similarity_view_figure

__all__ = [
    "CellReasons",
    "ExploredRuns",
    "PairExplorer",
    "ProjectionExplorer",
    "SimilarityExplorer",
    "cell_figure",
    "describe_cell",
    "describe_view",
    "find_confused_pairs",
    "image_reader",
    "may_draw_faces",
    "mean_similarities",
    "open_explored",
    "similarity_view_figure",
    "stored_projections",
]
