"""Presets: one YAML file that says what a whole comparison runs, read and checked before anything starts."""

from interproto_lib.presets.notebooks import (
    ABLATIONS_NOTEBOOK,
    AGEING_NOTEBOOK,
    ANALYSIS_NOTEBOOKS,
    NOTEBOOK_SECTIONS,
    PROJECTION_NOTEBOOK,
    REPORT_FILE,
    REPORT_NOTEBOOK,
    STORY_NOTEBOOK,
    TRAINING_NOTEBOOK,
    VERIFICATION_NOTEBOOK,
)
from interproto_lib.presets.preset import PROCESSES, Preset
from interproto_lib.presets.reading import PRESETS_DIR, list_presets, read_preset
from interproto_lib.presets.sweeps import LIKE

__all__ = [
    "ABLATIONS_NOTEBOOK",
    "AGEING_NOTEBOOK",
    "ANALYSIS_NOTEBOOKS",
    "LIKE",
    "NOTEBOOK_SECTIONS",
    "PRESETS_DIR",
    "PROCESSES",
    "PROJECTION_NOTEBOOK",
    "REPORT_FILE",
    "REPORT_NOTEBOOK",
    "STORY_NOTEBOOK",
    "TRAINING_NOTEBOOK",
    "VERIFICATION_NOTEBOOK",
    "Preset",
    "list_presets",
    "read_preset",
]
