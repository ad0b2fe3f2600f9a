"""A packing in a process of its own, to be killed: python packing_process.py FOLDER N_THREADS [DROP]."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from interproto_lib.data import FaceDataset, ImageCollection, pack_collection, packed_images
from interproto_lib.errors import DatasetError

N_IMAGES = 300
SIZE = 8


class Noise:
    """Image r is noise of seed r; some are rejected."""

    def read(self, row: int) -> bytes:
        if row % 50 == 7:
            raise DatasetError(f"broken in place {row}")
        return np.random.default_rng(row).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8).tobytes()


def run(folder: Path, *, n_threads: int = 2, seconds_an_image: float = 0.0, n_images: int = N_IMAGES) -> FaceDataset:
    """Pack the images into a folder, blocks of seven at a time."""
    packed_images._MOST_ROWS_IN_BLOCK = 7
    packed_images._ROWS_AT_A_TIME = 2

    def decode(row: int, content: bytes) -> np.ndarray:
        time.sleep(seconds_an_image)
        return np.frombuffer(content, dtype=np.uint8).reshape(SIZE, SIZE, 3)

    table = pd.DataFrame(
        {
            "path": [f"{row // 5}/{row}.png" for row in range(n_images)],
            "identity": [f"{row // 5}" for row in range(n_images)],
            "age_years": np.arange(n_images) % 90.0,
        }
    )
    collection = ImageCollection(
        name="noise", shape="identity_folders", place=Path("/noise"), table=table, encoded=Noise(), fingerprint="f"
    )
    return pack_collection(
        collection,
        folder,
        split=np.full(n_images, "train"),
        image_size=SIZE,
        decode=decode,
        settings={"fit": "error"},
        on_rejected="drop",
        n_threads=n_threads,
    )


if __name__ == "__main__":
    print("ready", flush=True)
    run(Path(sys.argv[1]), n_threads=int(sys.argv[2]), seconds_an_image=float(sys.argv[3]))
