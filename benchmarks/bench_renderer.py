"""Images a second that one core draws, at both sizes.

Run from the root of the repository: `python benchmarks/bench_renderer.py`. The rows are a random part of the
demonstration's manifest, so that ages, glasses, beards and compression are as frequent as there.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from interproto_lib.data.synthetic import SyntheticSettings, draw_faces, synthetic_manifest


def images_per_second(image_size: int, *, n_images: int, repeats: int) -> tuple[float, float]:
    """Best and median over the repeats, in processor time, so that neighbours on the machine count little."""
    settings = SyntheticSettings.demo(image_size=image_size)
    rows = synthetic_manifest(settings).sample(n_images, random_state=0)
    who, which, age = rows["identity_index"], rows["image_index"], rows["age_years"]
    draw_faces(who.iloc[:4], which.iloc[:4], age.iloc[:4], settings=settings)  # makes the textures
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        draw_faces(who, which, age, settings=settings)
        seconds.append(time.process_time() - start)
    return n_images / min(seconds), n_images / float(np.median(seconds))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    print(f"{'image size':>10}  {'best images/s':>13}  {'median images/s':>15}")
    for image_size in (112, 56):
        best, median = images_per_second(image_size, n_images=chosen.n_images, repeats=chosen.repeats)
        print(f"{image_size:>10}  {best:>13.0f}  {median:>15.0f}")


if __name__ == "__main__":
    main()
