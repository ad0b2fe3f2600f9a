"""The numbers of the paper's Tables 1 to 6, and which of its rows a run of ours stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError

CURRICULAR_FACE = "CurricularFace"
MV_AM = "MV-AM"
BROAD_FACE = "BroadFace"
COSFACE = "CosFace"
ARCFACE = "ArcFace"
OE_CNN = "OE-CNN"
DAL = "DAL"
MTL = "MTL"
INTER_PROTOTYPE = "Inter-Prototype"
INTER_PROTOTYPE_ALL = "Inter-Prototype, all identities"
INTER_PROTOTYPE_COSFACE = "Inter-Prototype + CosFace"

ROWS = (
    CURRICULAR_FACE,
    MV_AM,
    BROAD_FACE,
    COSFACE,
    ARCFACE,
    OE_CNN,
    DAL,
    MTL,
    INTER_PROTOTYPE_COSFACE,
    INTER_PROTOTYPE_ALL,
    INTER_PROTOTYPE,
)
"""Names of all rows of the six tables. One method has one name, whatever each table prints ("Ours", "Ours + Child")."""

MULTIPLY_ADDS = "Multiply-adds (billion)"
PUBLISHED_PARAMETERS = "Parameters (million)"
COST_COLUMNS = (MULTIPLY_ADDS, PUBLISHED_PARAMETERS)
"""Columns of Table 3 that are no accuracies."""

_CHILD_ADULT = ("AgeDB-C20", "FGNET-C20", "AgeDB-C30", "FGNET-C30", "LAG")


@dataclass(frozen=True)
class Published:
    """One printed cell.

    Attributes:
        mean: The number: accuracy in percent, mean over three trials; or a cost in the unit of its column.
        std: Standard deviation over the trials in percentage points; None where none is printed.
        note: What is different about this cell; empty where nothing is.
    """

    mean: float
    std: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of the paper.

    Attributes:
        number: Its number, 1 to 6.
        title: What it shows, in a sentence.
        columns: Test sets in the printed order, then the costs (Table 3).
        rows: Method -> its cells, in the printed order, one a column.
        printed_names: Row -> its name in the printed table, where that is another.
        remark: What a reader must know to compare with it; empty where nothing.
    """

    number: int
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Published, ...]]
    printed_names: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""

    def cell(self, row: str, column: str) -> Published:
        """Give one cell.

        Args:
            row: A key of `rows`.
            column: One of `columns`.

        Returns:
            The cell.

        Raises:
            ConfigError: The table has no such row or column.
        """
        if row not in self.rows or column not in self.columns:
            raise ConfigError(
                f"Table {self.number} has no cell {row!r}, {column!r}. Its rows: {', '.join(self.rows)}. "
                f"Its columns: {', '.join(self.columns)}."
            )
        return self.rows[row][self.columns.index(column)]

    def best(self, column: str) -> tuple[str, ...]:
        """Give the rows with the highest mean of a test set, whatever their spread.

        Args:
            column: One of `columns`.

        Returns:
            The rows, more than one where the means are equal; none for a cost.

        Raises:
            ConfigError: The table has no such column.
        """
        means = {row: self.cell(row, column).mean for row in self.rows}
        if column in COST_COLUMNS:
            return ()
        return tuple(row for row, mean in means.items() if mean == max(means.values()))


def _cells(*numbers: float) -> tuple[Published, ...]:
    """Pair up mean and standard deviation."""
    return tuple(Published(mean, std) for mean, std in zip(numbers[::2], numbers[1::2], strict=True))


_CASIA = {
    CURRICULAR_FACE: _cells(82.11, 0.36, 81.56, 0.56, 81.49, 0.42, 78.85, 0.16, 90.35, 0.06),
    MV_AM: _cells(81.01, 0.17, 81.37, 0.90, 80.45, 0.78, 79.48, 1.02, 89.38, 0.15),
    BROAD_FACE: _cells(82.93, 0.20, 80.40, 0.25, 81.85, 0.48, 79.03, 0.54, 89.63, 0.26),
    COSFACE: _cells(81.65, 0.66, 81.27, 0.57, 81.02, 0.79, 79.03, 1.42, 89.58, 0.06),
    ARCFACE: _cells(82.65, 0.31, 80.37, 1.05, 81.91, 0.55, 79.03, 0.94, 89.80, 0.25),
    OE_CNN: _cells(78.87, 0.62, 78.95, 0.70, 78.24, 0.86, 77.78, 0.82, 87.33, 0.49),
    DAL: _cells(77.28, 1.41, 77.18, 1.19, 75.90, 1.01, 76.53, 2.50, 86.13, 0.51),
    MTL: _cells(82.18, 0.47, 80.42, 0.29, 80.64, 1.17, 80.02, 0.68, 88.17, 0.32),
    INTER_PROTOTYPE: _cells(83.55, 0.20, 82.27, 1.03, 82.97, 0.76, 81.00, 1.27, 90.49, 0.17),
}
_MS1MV2 = {
    CURRICULAR_FACE: _cells(85.76, 1.34, 83.03, 1.70, 84.85, 1.60, 80.46, 1.66, 91.47, 0.86),
    MV_AM: _cells(84.70, 0.91, 81.72, 1.27, 83.43, 0.51, 79.12, 1.09, 90.81, 0.68),
    COSFACE: _cells(85.82, 0.03, 81.46, 0.62, 85.07, 0.50, 78.05, 0.86, 91.37, 0.23),
    ARCFACE: _cells(86.21, 0.67, 83.88, 0.91, 85.85, 0.60, 80.91, 1.17, 91.78, 0.34),
    OE_CNN: _cells(83.94, 0.42, 84.88, 1.12, 82.81, 0.69, 83.96, 1.12, 90.33, 1.03),
    DAL: _cells(83.58, 0.10, 82.11, 1.17, 82.59, 0.36, 82.62, 1.35, 90.31, 0.46),
    INTER_PROTOTYPE: _cells(87.36, 0.08, 85.81, 0.24, 87.01, 0.15, 85.04, 0.56, 93.12, 0.23),
}
_IDENTIFICATION = {
    OE_CNN: (*_cells(31.75, 4.77, 24.19, 3.23, 42.62, 1.69), Published(6.32), Published(49.21)),
    DAL: (*_cells(27.51, 4.57, 22.58, 5.81, 38.77, 1.53), Published(6.32), Published(50.26)),
    MTL: (*_cells(33.86, 2.42, 31.73, 4.93, 48.76, 0.75), Published(12.51), Published(134.05)),
    INTER_PROTOTYPE: (*_cells(41.80, 0.92, 34.94, 0.93, 53.70, 0.42), Published(6.32), Published(43.79)),
}
_BEST_RUN = "the best run, as ArcFace's own paper gives it; the others are means of three trials"
_GENERAL = {
    ARCFACE: (
        Published(99.53, note=_BEST_RUN),
        Published(95.56, note=_BEST_RUN),
        Published(85.79, 0.48),
        Published(95.15, note=_BEST_RUN),
        Published(92.89, 0.29),
    ),
    OE_CNN: _cells(98.65, 0.20, 91.81, 0.85, 84.31, 0.56, 91.82, 0.38, 91.28, 0.27),
    DAL: _cells(98.37, 0.29, 90.55, 1.12, 84.27, 0.22, 90.24, 1.06, 90.39, 0.48),
    MTL: _cells(99.04, 0.17, 92.67, 0.79, 85.23, 0.55, 92.95, 0.26, 92.34, 0.16),
    INTER_PROTOTYPE: _cells(99.24, 0.15, 94.71, 0.37, 86.62, 0.86, 94.19, 0.31, 93.33, 0.15),
}
_SCOPES = {
    ARCFACE: _cells(82.65, 0.31, 80.37, 1.05, 81.91, 0.55, 79.03, 0.94, 89.80, 0.25),
    INTER_PROTOTYPE_ALL: _cells(83.29, 0.39, 82.11, 0.44, 82.41, 0.40, 80.56, 0.67, 90.44, 0.08),
    INTER_PROTOTYPE: _cells(83.55, 0.20, 82.27, 1.03, 82.97, 0.76, 81.00, 1.27, 90.49, 0.17),
}
_MARGIN_LOSSES = {
    COSFACE: _cells(81.65, 0.66, 81.02, 0.79, 89.58, 0.06),
    INTER_PROTOTYPE_COSFACE: _cells(82.41, 0.57, 81.52, 0.57, 90.14, 0.56),
    ARCFACE: _cells(82.65, 0.31, 81.91, 0.55, 89.80, 0.25),
    INTER_PROTOTYPE: _cells(83.55, 0.20, 82.97, 0.76, 90.49, 0.17),
}

PUBLISHED_TABLES: Mapping[int, PublishedTable] = MappingProxyType(
    {
        1: PublishedTable(
            number=1,
            title="Face verification accuracy on child-adult pairs, trained on CASIA-WebFace",
            columns=_CHILD_ADULT,
            rows=_CASIA,
            printed_names={INTER_PROTOTYPE: "Ours"},
        ),
        2: PublishedTable(
            number=2,
            title="Face verification accuracy on child-adult pairs, trained on MS1MV2",
            columns=_CHILD_ADULT,
            rows=_MS1MV2,
            printed_names={INTER_PROTOTYPE: "Ours"},
        ),
        3: PublishedTable(
            number=3,
            title="Face identification accuracy (rank 1) and computational costs",
            columns=("AgeDB-C20", "AgeDB-C30", "LAG", *COST_COLUMNS),
            rows=_IDENTIFICATION,
            printed_names={INTER_PROTOTYPE: "Ours"},
            remark=(
                "The published numbers of parameters are not like for like: those of OE-CNN and DAL hold the "
                "prototypes and the age parts, that of MTL networks that only training needs, that of Inter-Prototype "
                "the backbone alone. What the paper calls FLOPs are multiply-adds. The paper's probes and galleries "
                "were never published."
            ),
        ),
        4: PublishedTable(
            number=4,
            title="Face verification accuracy on general and cross-age test sets",
            columns=("LFW", "CFP-FP", "CPLFW", "AgeDB-30", "CALFW"),
            rows=_GENERAL,
            printed_names={INTER_PROTOTYPE: "Ours"},
        ),
        5: PublishedTable(
            number=5,
            title="Face verification accuracy with the loss on all prototypes and on those of child identities",
            columns=_CHILD_ADULT,
            rows=_SCOPES,
            printed_names={INTER_PROTOTYPE_ALL: "Ours + Full", INTER_PROTOTYPE: "Ours + Child"},
        ),
        6: PublishedTable(
            number=6,
            title="Face verification accuracy of adding the Inter-Prototype loss to CosFace and to ArcFace",
            columns=("AgeDB-C20", "AgeDB-C30", "LAG"),
            rows=_MARGIN_LOSSES,
            printed_names={INTER_PROTOTYPE_COSFACE: "Ours + CosFace", INTER_PROTOTYPE: "Ours + ArcFace"},
        ),
    }
)
"""Number -> table."""


def published_table(number: int) -> PublishedTable:
    """Give a table of the paper.

    Source: Lee, Yun et al., Improving Face Recognition with Large Age Gaps by Learning to Distinguish Children, BMVC
    2021, Tables 1 to 6.

    Args:
        number: 1 to 6.

    Returns:
        The table.

    Raises:
        ConfigError: There is no such table.

    Example:
        >>> published_table(1).cell("ArcFace", "AgeDB-C20")
        Published(mean=82.65, std=0.31, note='')
    """
    if number not in PUBLISHED_TABLES:
        raise ConfigError(f"The paper has no Table {number!r}; choose {', '.join(map(str, PUBLISHED_TABLES))}.")
    return PUBLISHED_TABLES[number]


_ROWS_OF_LOSSES = {
    ("curricularface", "none"): CURRICULAR_FACE,
    ("mv_am", "none"): MV_AM,
    ("broadface", "none"): BROAD_FACE,
    ("cosface", "none"): COSFACE,
    ("arcface", "none"): ARCFACE,
    ("cosface", "child"): INTER_PROTOTYPE_COSFACE,
    ("arcface", "all"): INTER_PROTOTYPE_ALL,
    ("arcface", "child"): INTER_PROTOTYPE,
}
_ROWS_OF_AGE_METHODS = {"oe_cnn": OE_CNN, "dal": DAL, "mtlface": MTL}
_WEIGHTS_OF_AGE_METHODS = {
    "oe_cnn": ("age_weight",),
    "dal": ("age_weight", "dal_weight"),
    "mtlface": ("age_weight", "mtl_reversed_weight"),
}


def paper_row(config: TrainConfig) -> str | None:
    """Say which row of the paper's tables a run stands for: the same method, whatever its data and its network.

    Scale, margin, queue and weights may be others than published, as they must be on smaller data. What changes the
    method may not: MV-AM with a fixed weight or with the easy margin, which the paper's authors left out, is another
    method, and so is an age-invariant method on another margin loss than CosFace, with the Inter-Prototype loss on top,
    or with a part of its loss turned off.

    Args:
        config: The settings of the run.

    Returns:
        One of `ROWS`; None for a method that the paper's tables do not have, such as SphereFace, AdaFace, AE-CNN, or
        the Inter-Prototype loss with weight 0.

    Example:
        >>> paper_row(TrainConfig(inter_prototype="child"))
        'Inter-Prototype'
    """
    if config.age_method != "none":
        whole = all(getattr(config, weight) > 0 for weight in _WEIGHTS_OF_AGE_METHODS.get(config.age_method, ()))
        as_published = config.margin_loss == "cosface" and config.inter_prototype == "none" and whole
        return _ROWS_OF_AGE_METHODS.get(config.age_method) if as_published else None
    if config.inter_prototype != "none" and config.ip_weight == 0:
        return None
    if config.margin_loss == "mv_am" and not (
        config.mv_adaptive and config.mv_hard_weight and not config.mv_easy_margin
    ):
        return None
    return _ROWS_OF_LOSSES.get((config.margin_loss, config.inter_prototype))
