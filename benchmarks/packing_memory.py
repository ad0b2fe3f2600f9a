"""Peak memory of packing a collection of many rows, and of loading it: a process of its own for `bench_packing`.

Run: python -m benchmarks.packing_memory pack|load ROWS FOLDER
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from interproto_lib.data import ImageCollection, load_dataset, pack_collection
from interproto_lib.data.collections import text_column

IMAGES_A_PERSON = 68


class NoImages:
    """Encoded images that cost nothing."""

    def read(self, row: int) -> bytes:
        """Nothing."""
        return b""


def large_collection(n_rows: int) -> ImageCollection:
    """A collection with paths and identities as long as those of MS1MV2, and no ages."""
    numbers = pa.array(np.arange(n_rows))
    people = pc.utf8_lpad(pc.cast(pc.divide(numbers, IMAGES_A_PERSON), pa.large_string()), 6, "0")
    files = pc.utf8_lpad(pc.cast(numbers, pa.large_string()), 8, "0")
    names = pc.binary_join_element_wise(files, _text(".jpg"), _text(""))
    paths = pc.binary_join_element_wise(people, names, _text("/"))
    texts = {"path": text_column(paths), "identity": text_column(people)}
    table = pd.DataFrame(texts | {"age_years": np.full(n_rows, np.nan)})
    pa.default_memory_pool().release_unused()
    return ImageCollection(
        name="large", shape="recordio", place=Path("/large"), table=table, encoded=NoImages(), fingerprint=str(n_rows)
    )


def peak_gb() -> float:
    """Peak memory of this process in GB, 10^9 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # where there is one: getrusage also counts the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def main(step: str, n_rows: int, folder: Path) -> None:
    """Pack `n_rows` images of 2 x 2 pixels, or load what was packed."""
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    collection = large_collection(n_rows) if step == "pack" else None
    before = peak_gb()
    start = time.perf_counter()
    if collection is None:
        dataset = load_dataset(folder)
    else:
        dataset = pack_collection(
            collection,
            folder,
            split=np.full(n_rows, "train", dtype=object),
            image_size=2,
            decode=lambda row, content: pixels,
            settings={},
            on_rejected="error",
        )
    seconds = time.perf_counter() - start
    print(
        f"  {step}: {len(dataset):,} rows in {seconds:.0f} s, peak memory {peak_gb():.2f} GB ({before:.2f} GB before)",
        flush=True,
    )


def _text(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
