"""The notebooks of the batch graph: their order, their part in it, and the section of a preset that belongs to each."""

from __future__ import annotations

TRAINING_NOTEBOOK = "02_train"
"""The notebook that is executed once for each method and seed."""

PROJECTION_NOTEBOOK = "04_prototype_projection"
"""The notebook that places prototypes in the plane; the report draws the same planes."""

VERIFICATION_NOTEBOOK = "05_verification"
"""The notebook that scores the runs on further test sets; its section names them for 06 and 07 too."""

ABLATIONS_NOTEBOOK = "07_ablations"
"""The notebook that reads the runs of a preset's ablations beside those of its methods."""

AGEING_NOTEBOOK = "10_face_ageing"
"""The notebook that ages faces, where a preset has a section for it."""

STORY_NOTEBOOK = "00_start_here"
"""The notebook that tells what the runs found; the report opens with it."""

REPORT_NOTEBOOK = "09_report"
"""The notebook that binds what the others found into one page, the end of a batch."""

REPORT_FILE = "report.html"
"""That page, in the folder of its experiment."""

ANALYSIS_NOTEBOOKS: tuple[str, ...] = (
    "03_similarity",
    PROJECTION_NOTEBOOK,
    VERIFICATION_NOTEBOOK,
    "06_identification",
    ABLATIONS_NOTEBOOK,
)
"""The notebooks that read finished runs, each on its own."""

NOTEBOOK_SECTIONS: dict[str, str] = {
    "01_datasets_and_ages": "dataset",
    TRAINING_NOTEBOOK: "train",
    **dict(
        zip(
            ANALYSIS_NOTEBOOKS,
            ("similarity", "projection", "verification", "identification", "ablations"),
            strict=True,
        )
    ),
    AGEING_NOTEBOOK: "ageing",
    STORY_NOTEBOOK: "story",
    REPORT_NOTEBOOK: "report",
}
"""Notebook -> the section of a preset that holds its parameters, in the order of the batch graph. The first prepares
the dataset; the analyses and the story read finished runs and may run side by side; the last binds the report. Faces
are aged only where a preset has a section `ageing`, which names the `run` to do it with."""
