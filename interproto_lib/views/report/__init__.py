"""The report: what the notebooks found, bound into one HTML page that opens offline, with live views."""

from interproto_lib.views.report.binding import (
    BoundNotebooks,
    WrittenReport,
    bind_notebooks,
    chapters_table,
    describe_missing,
    describe_opening,
    describe_report,
    environment_appendix,
    report_results,
    write_report,
)
from interproto_lib.views.report.chapters import Chapter, read_chapter
from interproto_lib.views.report.embedded import EmbeddedView
from interproto_lib.views.report.matrices import matrices_view, report_matrices, report_matrices_figure
from interproto_lib.views.report.page import Appendix, ReportPage, report_page
from interproto_lib.views.report.planes import describe_planes, plane_explorer, planes_figure, planes_view

__all__ = [
    "Appendix",
    "BoundNotebooks",
    "Chapter",
    "EmbeddedView",
    "ReportPage",
    "WrittenReport",
    "bind_notebooks",
    "chapters_table",
    "describe_missing",
    "describe_opening",
    "describe_planes",
    "describe_report",
    "environment_appendix",
    "matrices_view",
    "plane_explorer",
    "planes_figure",
    "planes_view",
    "read_chapter",
    "report_matrices",
    "report_matrices_figure",
    "report_page",
    "report_results",
    "write_report",
]
