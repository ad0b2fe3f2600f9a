"""The five child-adult lists: each image embedded once, against pair by pair as the official code is described.

Run: python -m benchmarks.bench_evaluation [--nets mobilefacenet ir_se50] [--turns 4] [--lists FOLDER] [--full]

Pair by pair: list by list, both images of a pair are decoded, normalised and embedded together in float32, contiguous
and without gradients; their cosine is taken and nothing is kept for other pairs or lists. Then every score of a list is
tried as its threshold. Ours: the unique images of all lists are embedded once, then the cosines of all pairs and the
best thresholds are computed. Both sides have the same network, the same threads and the same files: a JPEG for each
image that the lists name, drawn here (a pattern for each person, with noise), since the photographs are not free.

What the cores can do bounds the ratio: the fastest convolution of a few large ones is measured, and a network that ran
at its speed throughout, with no time for anything else, would have the ratio "at most" against pair by pair.

The network is drawn at random, with batch normalisations that know their means. The sides take turns on the same
pairs, other ones at each turn, dealt to the lists by their lengths; the seconds of a turn are scaled to all pairs (pair
by pair) and to all unique images (ours). The ratio is that of the same turn. Then ours runs on all lists, in float32
and in bfloat16, for the accuracies; on IR-SE-50, which takes ten minutes, only with --full, which also runs pair by
pair on all pairs. The network is untrained; how a trained one rounds in
bfloat16 is another question.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from interproto_lib.analysis import best_threshold_accuracy, pair_scores
from interproto_lib.analysis.embedding import EmbeddingPrecision, embed_paths
from interproto_lib.data.formats import describe_images, read_pairs
from interproto_lib.data.test_set_files import pair_list_set
from interproto_lib.data.test_sets import ImageSource, VerificationSet
from interproto_lib.models import build_backbone, count_multiply_adds

LISTS = Path(__file__).resolve().parents[2] / "shared" / "reference" / "child_adult_pairs"
SETS = {
    "AgeDB-C20": ("agedb20_child.txt", "agedb"),
    "AgeDB-C30": ("agedb30_child.txt", "agedb"),
    "FGNET-C20": ("fgnet20_child.txt", "fgnet"),
    "FGNET-C30": ("fgnet30_child.txt", "fgnet"),
    "LAG": ("lag.txt", "lag"),
}
SIZE = 112
NOISE = 0.7  # for accuracies like those of the paper
PAIRS_A_TURN = {"mobilefacenet": 120, "ir_se50": 20}
ALWAYS_IN_FULL = ("mobilefacenet",)
PRECISIONS: tuple[EmbeddingPrecision, ...] = ("float32", "bfloat16")
LARGE_CONVOLUTIONS = ((8, 128, 28), (8, 256, 28), (16, 256, 14), (8, 512, 14))  # images, channels, side


@dataclass(frozen=True)
class Task:
    """The test sets, the folder of their images, and the pairs of all of them by path."""

    sets: Sequence[VerificationSet]
    folder: Path
    pairs: pd.DataFrame

    @property
    def source(self) -> ImageSource:
        """Where the images of all test sets are read from."""
        return self.sets[0].source

    @property
    def unique(self) -> list[str]:
        """Each image once."""
        return list(dict.fromkeys([*self.pairs["left"], *self.pairs["right"]]))


def draw_images(folder: Path, lists: Path) -> None:
    """A JPEG for each image of the lists: a coarse pattern for the person, with coarse and fine noise of its own."""
    rng = np.random.default_rng(0)
    patterns: dict[str, np.ndarray] = {}
    drawn = set()
    for file, names in SETS.values():
        pairs = read_pairs(lists / file, incomplete="official")
        paths = [path for path in dict.fromkeys([*pairs["left"], *pairs["right"]]) if path not in drawn]
        for path, person in zip(paths, describe_images(paths, names)["identity"], strict=True):
            pattern = patterns.setdefault(f"{names} {person}", rng.normal(0, 1, (14, 14, 3)))
            coarse = (pattern + NOISE * rng.normal(0, 1, pattern.shape)).repeat(8, 0).repeat(8, 1)
            values = 128 + 25 * coarse + rng.normal(0, 10, coarse.shape)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=95)
            drawn.add(path)


def read_task(folder: Path, lists: Path) -> Task:
    sets = [
        pair_list_set(name, lists / file, folder, names=names, image_size=SIZE, incomplete="official")
        for name, (file, names) in SETS.items()
    ]
    tables = [
        pd.DataFrame({side: one.images["path"].to_numpy()[one.pairs[side]] for side in ("left", "right")}).assign(
            same=one.pairs["same"], test_set=one.name
        )
        for one in sets
    ]
    if len({one.source.key for one in sets}) > 1:
        raise RuntimeError("The test sets do not share their images.")
    return Task(sets, folder, pd.concat(tables, ignore_index=True))


def make_network(name: str, task: Task) -> nn.Module:
    """A network drawn at random whose batch normalisations have the means and variances of 128 images."""
    torch.manual_seed(0)
    backbone = build_backbone(name, image_size=SIZE, dropout=0.0)
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    images = task.source.read([task.unique[i] for i in np.random.default_rng(1).permutation(len(task.unique))[:128]])
    with torch.no_grad():
        backbone(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return backbone.eval()


def decode(file: Path) -> torch.Tensor:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    return ((torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - 0.5) / 0.5).contiguous()


def score_pair_by_pair(backbone: nn.Module, task: Task, pairs: pd.DataFrame) -> np.ndarray:
    """Cosines of pairs, one pair a pass of the network."""
    scores = []
    with torch.no_grad():
        for left, right in zip(pairs["left"], pairs["right"], strict=True):
            two = torch.stack([decode(task.folder / left), decode(task.folder / right)])
            embeddings = nn.functional.normalize(backbone(two))
            scores.append(float(embeddings[0] @ embeddings[1]))
    return np.array(scores)


def score_once(backbone: nn.Module, task: Task, pairs: pd.DataFrame, precision: EmbeddingPrecision) -> np.ndarray:
    """Cosines of pairs, each image embedded once: what `score_test_sets` does for one epoch of a run."""
    paths = list(dict.fromkeys([*pairs["left"], *pairs["right"]]))
    vectors = embed_paths(backbone, task.source, paths, precision=precision)
    place = pd.Index(paths)
    return pair_scores(vectors, pd.DataFrame({side: place.get_indexer(pairs[side]) for side in ("left", "right")}))


def accuracy_one_by_one(scores: np.ndarray, same: np.ndarray) -> float:
    """The best accuracy among the scores taken as thresholds, each tried on all pairs."""
    return max(float(np.mean((scores >= threshold) == same)) for threshold in scores)


def accuracies(task: Task, scores: np.ndarray, judge: Callable[[np.ndarray, np.ndarray], float]) -> dict[str, float]:
    """Accuracy of each list, in percent."""
    return {
        str(name): 100 * judge(scores[rows.index], rows["same"].to_numpy(dtype=bool))
        for name, rows in task.pairs.groupby("test_set", sort=False)
    }


def best_accuracy(scores: np.ndarray, same: np.ndarray) -> float:
    """The same by one sort."""
    return best_threshold_accuracy(scores, same).accuracy


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - start, value


def n_images(pairs: pd.DataFrame) -> int:
    """How many images occur in pairs."""
    return len(pd.unique(pairs[["left", "right"]].to_numpy().ravel()))


def dealt(task: Task, turns: int, pairs_a_turn: int) -> list[pd.DataFrame]:
    """Pairs for each turn: from each list in proportion to its length, drawn without replacement."""
    share = pairs_a_turn / len(task.pairs)
    parts: list[list[pd.DataFrame]] = [[] for _ in range(turns)]
    for _, rows in task.pairs.sample(frac=1, random_state=0).groupby("test_set", sort=False):
        n = max(1, round(share * len(rows)))
        for turn in range(turns):
            parts[turn].append(rows.iloc[turn * n : (turn + 1) * n])
    return [pd.concat(part, ignore_index=True) for part in parts]


@dataclass(frozen=True)
class Turn:
    """What one turn measured: seconds a pair, seconds an image, and the largest score differences."""

    a_pair: float
    an_image: dict[EmbeddingPrecision, float]
    difference: dict[EmbeddingPrecision, float]


def take_turn(backbone: nn.Module, task: Task, pairs: pd.DataFrame) -> Turn:
    taken, plain = timed(score_pair_by_pair, backbone, task, pairs)
    an_image, difference = {}, {}
    for precision in PRECISIONS:
        seconds, scores = timed(score_once, backbone, task, pairs, precision)
        an_image[precision] = seconds / n_images(pairs)
        difference[precision] = float(np.abs(scores - plain).max())
    return Turn(taken / len(pairs), an_image, difference)


def fastest_convolution(precision: EmbeddingPrecision) -> float:
    """Floating point operations a second of the fastest 3x3 convolution among large ones: what the cores reach."""
    dtype, order = getattr(torch, precision), torch.channels_last
    best = 0.0
    with torch.inference_mode():
        for n, channels, side in LARGE_CONVOLUTIONS:
            layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(dtype).to(memory_format=order)
            maps = torch.randn(n, channels, side, side).to(dtype).to(memory_format=order)
            seconds = min(timed(layer, maps)[0] for _ in range(20))
            best = max(best, 2 * n * side**2 * channels**2 * 9 / seconds)
    return best


def spread(values: Sequence[float], digits: int) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def compare(name: str, task: Task, turns: int, full: bool) -> None:
    """Print the tables of one network."""
    backbone = make_network(name, task)
    random = np.random.default_rng(2).normal(size=len(task.pairs))
    searching, expected = timed(accuracies, task, random, accuracy_one_by_one)
    sorting, found = timed(accuracies, task, random, best_accuracy)
    if any(abs(expected[one] - found[one]) > 1e-9 for one in expected):
        raise RuntimeError("The two searches of the best threshold disagree.")
    samples = dealt(task, turns + 1, PAIRS_A_TURN.get(name, 24))
    # The first turn loads libraries and is not counted.
    measured = [take_turn(backbone, task, pairs) for pairs in samples][1:]
    n_pairs, n_unique = len(task.pairs), n_images(task.pairs)
    agedb = task.pairs[task.pairs["test_set"].str.startswith("AgeDB")]
    plain = [turn.a_pair * n_pairs + searching for turn in measured]
    print(
        f"\n{name}, {torch.get_num_threads()} thread(s), {turns} turns of {len(samples[0])} pairs, scaled to all: "
        f"{2 * n_pairs:,} images pass the network pair by pair, {n_unique:,} once each "
        f"(AgeDB alone: {2 * len(agedb):,} and {n_images(agedb):,})\n"
    )
    operations = 2 * count_multiply_adds(backbone, SIZE)
    fastest = {side: fastest_convolution(side) for side in PRECISIONS}
    passed = 2 * n_pairs * operations / np.median(plain)
    print("| side | seconds, five lists | ratio | ratio, AgeDB alone | largest score difference | GFLOP/s | at most |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(f"| pair by pair, float32 | {spread(plain, 0)} | | | | {passed / 1e9:.0f} | |")
    for side in PRECISIONS:
        ours = [turn.an_image[side] * n_unique + sorting for turn in measured]
        of_agedb = [turn.a_pair * len(agedb) / (turn.an_image[side] * n_images(agedb)) for turn in measured]
        ratios = [a / b for a, b in zip(plain, ours, strict=True)]
        difference = max(turn.difference[side] for turn in measured)
        print(
            f"| each image once, {side} | {spread(ours, 0)} | {spread(ratios, 1)} | {spread(of_agedb, 1)} "
            f"| {difference:.1e} | {n_unique * operations / np.median(ours) / 1e9:.0f} of {fastest[side] / 1e9:.0f} "
            f"| {np.median(plain) / (n_unique * operations / fastest[side]):.1f} |",
            flush=True,
        )
    if full or name in ALWAYS_IN_FULL:
        compare_in_full(backbone, task, pair_by_pair=full)


def compare_in_full(backbone: nn.Module, task: Task, *, pair_by_pair: bool) -> None:
    """Run ours, and where wanted pair by pair, on all pairs; print seconds and accuracies."""
    seconds: dict[str, float] = {}
    scores: dict[str, np.ndarray] = {}
    judged: dict[str, dict[str, float]] = {}
    for side in PRECISIONS:
        seconds[side], scores[side] = timed(score_once, backbone, task, task.pairs, side)
        judged[side] = accuracies(task, scores[side], best_accuracy)
    if pair_by_pair:
        seconds["pair by pair"], scores["pair by pair"] = timed(score_pair_by_pair, backbone, task, task.pairs)
        judged["pair by pair"] = accuracies(task, scores["pair by pair"], accuracy_one_by_one)
        difference = np.abs(scores["float32"] - scores["pair by pair"]).max()
        print(f"\nLargest difference of all scores, float32 to pair by pair: {difference:.1e}")
    print("\n| all five lists | seconds | " + " | ".join(f"{one}, %" for one in SETS) + " |")
    print("|---|---:|" + "---:|" * len(SETS))
    for name, values in judged.items():
        print(f"| {name} | {seconds[name]:.0f} | " + " | ".join(f"{values[one]:.2f}" for one in SETS) + " |")
    points = max(abs(judged["float32"][one] - judged["bfloat16"][one]) for one in SETS)
    print(f"\nLargest difference of the accuracies between float32 and bfloat16: {points:.2f} points", flush=True)


def cpu_features() -> str:
    """Which bfloat16 instructions the CPU has."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.is_file() else ""
    found = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return f"{platform.machine()}, bfloat16 instructions: {', '.join(found) or 'none known'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(PAIRS_A_TURN))
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, help="threads of both sides (default: PyTorch's own)")
    parser.add_argument("--lists", type=Path, default=LISTS, help="folder of the official lists")
    parser.add_argument("--full", action="store_true", help="also run both sides on all pairs (half an hour and more)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    missing = [file for file, _ in SETS.values() if not (options.lists / file).is_file()]
    if missing:
        print(
            f"Skipped: {options.lists} has no {', '.join(missing)}. Give the folder of the official lists by --lists."
        )
        sys.exit(0)
    with tempfile.TemporaryDirectory() as temporary:
        taken, _ = timed(draw_images, Path(temporary), options.lists)
        task = read_task(Path(temporary), options.lists)
        print(f"{cpu_features()}; {len(task.unique):,} JPEG files drawn in {taken:.0f} s")
        for name in options.nets:
            compare(name, task, options.turns, options.full)


if __name__ == "__main__":
    main()
