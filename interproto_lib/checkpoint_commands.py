"""The commands for networks of other codes: `interproto import-checkpoint` and `interproto export`."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interproto_lib.errors import ConfigError

RUNS_DIR = "runs"


def add_checkpoint_commands(commands: Any, *, stop: Callable[..., None]) -> None:
    """Add `import-checkpoint` and `export` to the command's parser.

    Args:
        commands: The subparsers of `argparse`.
        stop: What a signal to end calls.
    """
    imported = commands.add_parser("import-checkpoint", help="make a finished run of a network trained elsewhere")
    imported.add_argument("checkpoint", type=Path, help="file of the backbone")
    imported.add_argument("--experiment", required=True, help="the experiment that the run is to belong to")
    imported.add_argument("--run", required=True, help="name of the run, as in adaface-s0")
    imported.add_argument("--dataset", type=Path, help="dataset folder (default: that of the experiment)")
    imported.add_argument("--head", type=Path, metavar="FILE", help="its prototypes, one row an identity")
    imported.add_argument(
        "--kind",
        default="auto",
        help="inter_prototype, insightface_pytorch, arcface_torch, adaface or interproto (default: by its keys; the "
        "first two share theirs, so that it must be said)",
    )
    imported.add_argument("--channel-order", choices=("rgb", "bgr"), help="channels it takes (default: by its kind)")
    imported.add_argument("--head-order", choices=("auto", "number", "text"), default="auto", help="of its rows")
    imported.add_argument("--lowest-agreement", type=float, default=0.5, help="of its rows with images (default: 0.5)")
    imported.add_argument("--min-child-images", type=positive, default=5, help="make a child identity (default: 5)")
    imported.add_argument("--child-below-years", type=float, default=13.0, help="age of a child (default: 13)")
    imported.add_argument("--unlabelled-as-years", type=float, help="age of images without one (default: none)")
    imported.add_argument(
        "--trained-with", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[], help="a setting known of it"
    )
    imported.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    add_runs_dir(imported)
    imported.set_defaults(action=_import_checkpoint, stop=stop)

    export = commands.add_parser("export", help="write the network of a run as ONNX or safetensors")
    export.add_argument("run", type=Path, metavar="RUN_FOLDER", help="a finished run, as in runs/demo/arcface-s0")
    export.add_argument("file", type=Path, metavar="OUT", help="file to write, ending in .onnx or .safetensors")
    export.add_argument("--epoch", type=positive, help="an epoch that was kept (default: the end of training)")
    export.set_defaults(action=_export)


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option `--runs-dir` to a command."""
    parser.add_argument("--runs-dir", default=RUNS_DIR, help="folder of all experiments (default: %(default)s)")


def positive(text: str) -> int:
    """Read a whole number above 0, as the type of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _import_checkpoint(options: argparse.Namespace) -> None:
    import yaml

    from interproto_lib.data import load_dataset
    from interproto_lib.data.preparation import take_prepared
    from interproto_lib.data.prepared_folders import PreparedSettings
    from interproto_lib.progress import count_progress
    from interproto_lib.runs import experiment_folder
    from interproto_lib.training import import_run

    signal.signal(signal.SIGTERM, options.stop)
    if Path(options.run).name != options.run:
        raise ConfigError(f"--run {options.run} is no name: the run folder lies directly in that of the experiment.")
    experiment = experiment_folder(options.experiment, options.runs_dir)
    place = experiment / "dataset"
    if options.dataset is None and not place.exists():
        raise ConfigError(f"There is no dataset in {experiment} yet. Give the folder of one with --dataset.")
    if options.dataset is None or options.dataset.resolve() == place.resolve():
        dataset = load_dataset(place)
    else:  # where the notebooks look for it; its images are linked, not copied
        dataset = take_prepared(place, PreparedSettings(root=str(options.dataset.resolve())))
    run = import_run(
        options.checkpoint,
        experiment / options.run,
        dataset,
        head=options.head,
        kind=options.kind,
        channel_order=options.channel_order,
        head_order=options.head_order,
        lowest_agreement=options.lowest_agreement,
        min_child_images=options.min_child_images,
        child_below_years=options.child_below_years,
        unlabelled_as_years=options.unlabelled_as_years,
        trained_with={name: yaml.safe_load(value) for name, value in options.trained_with},
        device=options.device,
        progress=count_progress,
    )
    record = run.imported or {}
    origin = {"head": "rows of the head", "class_means": "means of the training images", "none": "none"}
    say(
        f"{run.path} is a finished run: {run.config.backbone} from {record['file']} ({record['kind']}, trained on "
        f"{record['channel_order'].upper()}), prototypes: {origin[run.prototypes_from]}. {record['training_data']}"
    )
    parameters = f"-p experiment {options.experiment} -p baseline {run.method}"
    if options.runs_dir != RUNS_DIR:
        parameters += f" -p runs_dir {options.runs_dir}"
    copy = experiment / "notebooks" / "05_verification.ipynb"
    say(f"Next: interproto run-notebook notebooks/05_verification.ipynb {copy} {parameters}")


def _export(options: argparse.Namespace) -> None:
    from interproto_lib.analysis.embedding import load_backbone
    from interproto_lib.models import export_onnx, export_safetensors
    from interproto_lib.runs import open_run

    writers: dict[str, Callable[[Any, Path], Path]] = {".onnx": export_onnx, ".safetensors": export_safetensors}
    ending = options.file.suffix.lower()
    if ending not in writers:
        raise ConfigError(f"{options.file} ends in {ending or 'nothing'}; choose {' or '.join(writers)}.")
    backbone = load_backbone(open_run(options.run), epoch=options.epoch)
    file = writers[ending](backbone, options.file)
    say(
        f"{file}: takes RGB images of {backbone.image_size} x {backbone.image_size} pixels as (x / 255 - 0.5) / 0.5, "
        f"gives {backbone.embedding_dim} numbers."
    )
