"""Widgets to walk around in what runs have learnt; import from here, not from `interproto_lib.views`."""

from interproto_lib.views.explorer.explored import ExploredRuns, open_explored
from interproto_lib.views.explorer.pair_explorer import PairExplorer
from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer
from interproto_lib.views.explorer.projections import stored_projection

__all__ = ["ExploredRuns", "PairExplorer", "ProjectionExplorer", "open_explored", "stored_projection"]
