"""How fast trainings go: measured by the finished runs of this machine, or stated; and how many images a preset has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from interproto_lib.analysis.training_costs import training_multiply_adds
from interproto_lib.config import TrainConfig
from interproto_lib.data.contents import project_path
from interproto_lib.data.datasets import INDEX_FILE, load_dataset
from interproto_lib.data.preparation import IdentityFolderSettings
from interproto_lib.data.registry import read_card
from interproto_lib.data.synthetic import SyntheticSettings
from interproto_lib.errors import InterprotoError
from interproto_lib.presets import Preset
from interproto_lib.runs import RunFolder, environment, resolve_runs_dir

PREPARED_IMAGE_SIZE = 112
"""Height and width of images as `interproto prepare` makes them where it is not told otherwise."""

_ON_A_CPU = (
    (1184.0, "small", 128, 56, 400, "demo"),
    (10.9, "ir_se50", 512, 64, 2_000, "methods"),
)
"""Images a second with ArcFace, network, d, image size, identities, and the benchmark that measured it."""


@dataclass(frozen=True, kw_only=True)
class TrainingRate:
    """How fast something was trained, and what that was.

    Attributes:
        images_per_second: Images a second of one process.
        multiply_adds: Multiply-adds of a step of training for each image (`training_multiply_adds`).
        source: Where the number comes from, in words.
    """

    images_per_second: float
    multiply_adds: float
    source: str

    def of(self, multiply_adds: float) -> float:
        """Give the images a second of another training in one process, as if time went with its multiply-adds."""
        return self.images_per_second * self.multiply_adds / multiply_adds


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A finished run of this machine.

    Attributes:
        config: Its settings.
        image_size: Height and width of its images in pixels.
        n_identities: Its training identities.
        images_per_second: Images a second of the whole training, divided by the processes that shared it.
    """

    config: TrainConfig
    image_size: int
    n_identities: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """What a preset trains on.

    Attributes:
        n_images: Training images.
        n_identities: Training identities.
        image_size: Height and width in pixels.
        source: Where the numbers come from, in words.
    """

    n_images: int
    n_identities: int
    image_size: int
    source: str


def stated_rate(*, on_gpu: bool, multiply_adds: float, precision: str) -> TrainingRate:
    """Give the rate that is stated for a kind of machine, where nothing was measured.

    A CPU: `benchmarks/README.md`, the benchmark `demo` for small networks, `methods` for large ones; the one nearer in
    multiply-adds. A GPU: the table of arcface_torch (InsightFace) for eight A100, network r50, 618,000 identities and
    batches of 128 a GPU, an eighth of it: 4,760 images a second with TF32, which PyTorch takes for convolutions in
    float32, and 5,400 with half precision.

    Args:
        on_gpu: Whether it is a GPU.
        multiply_adds: Of a step of the training asked about, for each image.
        precision: As in `TrainConfig.precision`.

    Returns:
        The rate.
    """
    if on_gpu:
        of_eight, numbers = (4760.0, "TF32") if precision == "float32" else (5400.0, "half precision")
        network = TrainConfig(backbone="iresnet50", embedding_dim=512)
        return TrainingRate(
            images_per_second=of_eight / 8,
            multiply_adds=training_multiply_adds(network, image_size=112, n_identities=618_000),
            source=(
                f"stated: {of_eight / 8:,.0f} images/s with r50 at 112 x 112 on one NVIDIA A100, {numbers}, as "
                "arcface_torch publishes for eight; scaled by multiply-adds"
            ),
        )
    rates = [
        TrainingRate(
            images_per_second=speed,
            multiply_adds=training_multiply_adds(
                TrainConfig(backbone=backbone, embedding_dim=dim), image_size=size, n_identities=n_identities
            ),
            source=(
                f"stated: {speed:,.{1 if speed < 100 else 0}f} images/s with the network {backbone} at {size} x {size} "
                f"on one thread of an AMD EPYC (benchmarks/README.md, {benchmark}); scaled by multiply-adds"
            ),
        )
        for speed, backbone, dim, size, n_identities, benchmark in _ON_A_CPU
    ]
    return min(rates, key=lambda rate: abs(math.log(rate.multiply_adds / multiply_adds)))


def measured_runs(runs_dir: str | Path, *, on_gpu: bool) -> tuple[list[MeasuredRun], int]:
    """Find the finished trainings of this kind of machine: the same GPU, or on the CPU with as many cores.

    Args:
        runs_dir: Folder of all experiments.
        on_gpu: Whether trainings on the GPU are asked for, or those on the CPU.

    Returns:
        The runs, and how many finished runs could not be read.
    """
    here = torch.cuda.get_device_name() if on_gpu else environment()["cpus"]
    found, n_unread = [], 0
    for file in sorted(resolve_runs_dir(runs_dir).glob("*/*/summary.json")):
        run = RunFolder(file.parent)
        try:
            if run.imported is not None:
                continue
            record, summary = run.environment, run.summary
            its_own = record["gpu"] if on_gpu else record["cpus"]
            if str(record["device"]).startswith("cuda") != on_gpu or its_own != here:
                continue
            found.append(
                MeasuredRun(
                    config=run.config,
                    image_size=int(run.dataset_info["image_size"]),
                    n_identities=int(summary["n_identities"]),
                    images_per_second=float(summary["images_per_second"]) / int(summary.get("processes", 1)),
                )
            )
        except (InterprotoError, KeyError):
            n_unread += 1
    return found, n_unread


def rates_of(config: TrainConfig, image_size: int, runs: Sequence[MeasuredRun]) -> list[TrainingRate]:
    """Choose the runs that tell how fast a training goes: of its network, image size and precision.

    Args:
        config: Settings of the training.
        image_size: Height and width of its images in pixels.
        runs: As `measured_runs` gives them.

    Returns:
        The rates of the runs of the same method where there are any, else of all others; empty where there are none.
    """

    def network(of: TrainConfig, size: int) -> tuple[object, ...]:
        return (of.backbone, of.embedding_dim, of.precision, size)

    def method(of: TrainConfig) -> tuple[str, ...]:
        return (of.margin_loss, of.age_method, of.inter_prototype)

    alike = [run for run in runs if network(run.config, run.image_size) == network(config, image_size)]
    same = [run for run in alike if method(run.config) == method(config)]
    taken = same or alike
    with_others = "" if same else " with other methods, scaled by multiply-adds"
    source = (
        f"measured: {len(taken)} finished run{'' if len(taken) == 1 else 's'} of this machine, same network and image "
        f"size{with_others or ', same method'}"
    )
    return [
        TrainingRate(
            images_per_second=run.images_per_second,
            multiply_adds=training_multiply_adds(run.config, image_size=run.image_size, n_identities=run.n_identities),
            source=source,
        )
        for run in taken
    ]


def training_images(preset: Preset, folder: Path) -> TrainingImages | None:
    """Say how many images a preset trains on.

    Args:
        preset: The preset.
        folder: The folder of its experiment.

    Returns:
        The numbers of the dataset that is made already, or of the prepared folder that it is to be made of; of drawn
        faces by their settings, about; else of the dataset card, less the people held out. None where none of these is
        there.

    Raises:
        DatasetError: A dataset folder is damaged.
        ManifestError: A card is malformed.
        DatasetNotFoundError: There is no card of that name.
    """
    section = preset.sections["dataset"]
    kind = section.get("dataset", "synthetic")
    made = [folder / "dataset"]
    if kind == "prepared" and section.get("root"):
        made.append(project_path(section["root"]))
    for place in made:
        if (place / INDEX_FILE).is_file():
            dataset = load_dataset(place)
            trained = dataset.manifest[dataset.manifest["split"] == "train"]
            return TrainingImages(
                n_images=len(trained),
                n_identities=trained["identity"].nunique(),
                image_size=dataset.image_size,
                source=f"as {place} has them",
            )
    usual = PREPARED_IMAGE_SIZE if kind == "prepared" else SyntheticSettings.image_size
    image_size = int(section.get("image_size") or usual)
    if kind == "synthetic":
        n_identities = int(section.get("n_identities", SyntheticSettings.n_identities))
        of_each = int(section.get("images_per_identity", SyntheticSettings.images_per_identity))
        return TrainingImages(
            n_images=n_identities * of_each,
            n_identities=n_identities,
            image_size=image_size,
            source="drawn, about as many as set",
        )
    expected = read_card(section["card"]).expected if section.get("card") else {}
    n_images, n_all = expected.get("images"), expected.get("identities")
    if n_images is None or n_all is None:
        return None
    share = 1.0
    if kind == "identity_folder":
        for name in ("heldout_share", "validation_share"):
            share -= float(section.get(name, getattr(IdentityFolderSettings, name)))
    return TrainingImages(
        n_images=round(share * n_images),
        n_identities=round(share * n_all),
        image_size=image_size,
        source=f"as the card {section['card']} says",
    )
