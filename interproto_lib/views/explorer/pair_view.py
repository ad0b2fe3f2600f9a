"""The widget of pairs under a threshold: what crosses to the page, and what comes back from it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import traitlets
from numpy.typing import NDArray

from interproto_lib.views.explorer.live_view import LiveView, read_script
from interproto_lib.views.explorer.pair_counts import PAIR_COHORTS

TOGETHER = ("no", "threshold", "fmr")
"""How the thresholds of the runs follow each other: not, the same cosine, or the same false match rate."""

ReadImage = Callable[[str], NDArray[np.uint8]]


class PairView(LiveView):
    """What the page shows of the pairs; it holds all sorted scores, so that moving a threshold needs no kernel.

    Attributes:
        test_sets: Names of the test sets.
        runs: Names of the runs.
        cohorts: `PAIR_COHORTS`.
        scores: Sorted float32 scores, one group after another.
        groups: Test set -> per run, per cohort: start and number of the impostors in `scores`, then of the genuine.
        chosen_thresholds: Test set -> per run the threshold that the evaluation chose, None where there is none.
        thresholds: Test set -> per run the threshold in use.
        hardest: Test set -> per run: kind of error -> table by columns, the most mistaken first.
        test_set: Name of the test set shown.
        cohort: The cohort whose distributions and pairs are shown, or `all`.
        together: One of `TOGETHER`.
        table_run: Name of the run whose hardest pairs are listed.
        show_faces: Whether pictures may be asked for.
        pair: The pair chosen: `test_set`, `run`, `row` and both identities; empty for none.
    """

    _esm = read_script("pair_explorer.js")
    view_name = "The pair explorer"

    test_sets = traitlets.List(traitlets.Unicode()).tag(sync=True)
    runs = traitlets.List(traitlets.Unicode()).tag(sync=True)
    cohorts = traitlets.List(traitlets.Unicode(), list(PAIR_COHORTS)).tag(sync=True)
    scores = traitlets.Bytes().tag(sync=True)
    groups: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    chosen_thresholds: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    thresholds: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    hardest: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    test_set = traitlets.Unicode().tag(sync=True)
    cohort = traitlets.Enum(("all", *PAIR_COHORTS), "all").tag(sync=True)
    together = traitlets.Enum(TOGETHER, "no").tag(sync=True)
    table_run = traitlets.Unicode().tag(sync=True)
    show_faces = traitlets.Bool(False).tag(sync=True)
    pair: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)

    def __init__(self, *, read_image: ReadImage | None, **options: Any) -> None:
        self._read_image = read_image
        self.paths: dict[str, NDArray[np.object_]] = {}
        super().__init__(**options)

    def _answer(self, widget: Any, message: Any, buffers: Any) -> None:
        """Answer also `faces` with a `test_set` and a `row`: both pictures as PNG."""
        if not isinstance(message, dict) or message.get("type") != "faces":
            super()._answer(widget, message, buffers)
            return
        paths, row = self.paths.get(str(message.get("test_set"))), message.get("row")
        if not self.show_faces or self._read_image is None or paths is None:
            return
        if not isinstance(row, int) or not 0 <= row < len(paths):
            return
        with self.saying("faces"):
            pictures = [_png(self._read_image(str(path))) for path in paths[row]]
            self.send({"type": "faces", "test_set": message["test_set"], "row": row}, pictures)


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return file.getvalue()
