"""The `interproto` command: prepare and check datasets, run a comparison or a notebook, export HTML, and more."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from interproto_lib import __version__
from interproto_lib.checkpoint_commands import RUNS_DIR, add_checkpoint_commands, add_runs_dir, positive, say
from interproto_lib.errors import ConfigError, DatasetError, InterprotoError
from interproto_lib.train_command import EXIT_ERROR, EXIT_INTERRUPTED, add_train_command

if TYPE_CHECKING:
    from interproto_lib.data.intake_report import RejectedImage

_MADE_HERE = ("dataset.json", "packing", "rejected.csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `interproto` command.

    Args:
        arguments: Arguments without the program's name; default those of the process.

    Returns:
        Exit code: 0, 2 for an error that the message explains, 130 after an interruption.
    """
    # What stands after `--` is for Snakemake; argparse itself drops the mark.
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, further = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    all_commands = parser()
    options = all_commands.parse_args(given)
    if further and options.command != "reproduce":
        all_commands.error("only `interproto reproduce` takes further arguments after --")
    options.snakemake_arguments = further
    action: Callable[[argparse.Namespace], None] = options.action
    try:
        action(options)
    except InterprotoError as error:
        print(f"interproto: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interproto: interrupted; the same command goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; what it returns has the command's function as `action`."""
    parser = argparse.ArgumentParser(prog="interproto", description=__doc__)
    parser.add_argument("--version", action="version", version=f"interproto {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    reproduce = commands.add_parser(
        "reproduce",
        help="run every notebook of a preset that is not yet done",
        epilog="Arguments after -- go to Snakemake, as in: interproto reproduce -- --forceall",
    )
    reproduce.add_argument("--preset", default="demo", help="name or .yaml file (default: %(default)s)")
    reproduce.add_argument("--cores", type=positive, default=2, help="CPU cores to use (default: %(default)s)")
    reproduce.add_argument("--dry-run", action="store_true", help="print an estimate of the cost and what would run")
    add_runs_dir(reproduce)
    reproduce.add_argument("--notebooks-dir", help="folder of the notebooks (default: the project's)")
    reproduce.set_defaults(action=_reproduce)

    run = commands.add_parser("run-notebook", help="execute one notebook with checked parameters")
    run.add_argument("notebook", type=Path, help="the notebook, as in notebooks/03_similarity.ipynb")
    run.add_argument("output", type=Path, help="the executed copy to write")
    run.add_argument("--preset", help="take the notebook's parameters from this preset")
    run.add_argument("--method", help="method to train (02_train with --preset)")
    run.add_argument("--seed", type=int, help="seed to train with (02_train with --preset)")
    add_runs_dir(run)
    run.add_argument(
        "-p", dest="parameters", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[], help="one parameter"
    )
    run.add_argument(
        "--stop-with-parent", action="store_true", help="stop when the process that started this one is gone"
    )
    run.set_defaults(action=_run_notebook)

    preset = commands.add_parser("preset", help="print a preset's parameters for one notebook, for papermill -f")
    preset.add_argument("preset", help="name or .yaml file")
    preset.add_argument("notebook", help="name of the notebook, as in 03_similarity")
    preset.add_argument("--method", help="method to train (02_train)")
    preset.add_argument("--seed", type=int, help="seed to train with (02_train)")
    add_runs_dir(preset)
    preset.set_defaults(action=_preset)

    _add_prepare(commands.add_parser("prepare", help="make a dataset folder of images as they lie on the disk"))
    check = commands.add_parser("check", help="read a prepared dataset whole and compare its hashes and its card")
    check.add_argument("folder", type=Path, help="the dataset folder")
    check.add_argument("--source", type=Path, help="also say whether the source it was made of has changed")
    check.add_argument("--strict", action="store_true", help="fail where counts differ from the card's")
    check.set_defaults(action=_check)

    add_train_command(commands)
    add_checkpoint_commands(commands, stop=_stop)

    html = commands.add_parser("html", help="write executed notebooks as HTML that opens offline")
    html.add_argument("notebooks", nargs="+", type=Path, help="executed notebooks")
    html.add_argument("--output-dir", type=Path, required=True, help="folder for <notebook>.html")
    html.set_defaults(action=_html)

    doctor = commands.add_parser("doctor", help="print versions, threads and GPU; fail where torch cannot work")
    doctor.set_defaults(action=_doctor)
    return parser


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="name of a card in data_manifests/, as in casia_webface")
    parser.add_argument("source", type=Path, help="folder of images, RecordIO (.rec) or verification file (.bin)")
    parser.add_argument("out", type=Path, nargs="?", help="the dataset folder to make (none for a .bin)")
    parser.add_argument("--shape", default="auto", help="how the source lies (default: recognised)")
    parser.add_argument(
        "--ages", type=Path, metavar="FILE", help="age labels: MTLFace's .txt, or .csv/.parquet with path, age_years"
    )
    parser.add_argument(
        "--bad-ages", choices=("error", "count"), default="error", help="rows of it that hold no age (default: error)"
    )
    parser.add_argument(
        "--few-ages", choices=("error", "count"), default="error", help="labels that hardly match (default: error)"
    )
    parser.add_argument("--image-size", type=positive, default=112, help="pixels (default: %(default)s)")
    parser.add_argument(
        "--fit", default="error", help="images of another size: error, pad, crop, stretch (default: %(default)s)"
    )
    parser.add_argument("--heldout-share", type=float, help="share of the people held out (default: by the card)")
    parser.add_argument("--validation-share", type=float, help="share of the people that validate")
    parser.add_argument("--seed", type=int, default=0, help="chooses these people (default: %(default)s)")
    parser.add_argument(
        "--on-rejected", choices=("error", "drop"), default="error", help="images that cannot be used (default: error)"
    )
    parser.add_argument("--landmarks", type=Path, metavar="FILE", help="align with the five points of this file")
    parser.add_argument("--detector", type=Path, metavar="MODEL.onnx", help="align with the faces this network finds")
    parser.add_argument(
        "--choose-face", default="central", help="of several: central, largest, highest_score, only (default: central)"
    )
    parser.add_argument("--score-threshold", type=float, default=0.5, help="least score of a face (default: 0.5)")
    parser.add_argument("--min-face-pixels", type=float, default=16.0, help="least side of a face (default: 16)")
    parser.add_argument("--antialias", action="store_true", help="filter large faces when they are made smaller")
    parser.add_argument(
        "--contact-sheet", action="store_true", help="draw faces that could not be aligned; they show real people"
    )
    parser.add_argument("--threads", type=positive, default=2, help="threads that decode (default: %(default)s)")
    parser.add_argument("--follow-links", action="store_true", help="follow links that lead out of the source")
    parser.add_argument(
        "--relabel", action="store_true", help="give a finished dataset these ages and shares, and keep its images"
    )
    parser.add_argument("--strict", action="store_true", help="fail where counts differ from the card's")
    parser.set_defaults(action=_prepare)


def _reproduce(options: argparse.Namespace) -> None:
    from interproto_lib.batch import NOTEBOOKS_DIR, reproduce

    report = reproduce(
        options.preset,
        cores=options.cores,
        runs_dir=options.runs_dir,
        notebooks_dir=options.notebooks_dir or NOTEBOOKS_DIR,
        dry_run=options.dry_run,
        snakemake_arguments=options.snakemake_arguments,
    )
    if not options.dry_run:
        print(f"Report: {report}", flush=True)


def _run_notebook(options: argparse.Namespace) -> None:
    from interproto_lib.batch import parse_parameter, run_notebook
    from interproto_lib.presets import read_preset

    signal.signal(signal.SIGTERM, _stop)
    if options.stop_with_parent:
        threading.Thread(target=_stop_without, args=(os.getppid(),), daemon=True).start()
    if options.preset is None and (options.method is not None or options.seed is not None):
        raise ConfigError("--method and --seed choose from a preset: give --preset, or set parameters with -p.")
    parameters: dict[str, Any] = {} if options.runs_dir == RUNS_DIR else {"runs_dir": options.runs_dir}
    if options.preset is not None:
        parameters = read_preset(options.preset).parameters(
            options.notebook.stem, method=options.method, seed=options.seed, runs_dir=options.runs_dir
        )
    for name, text in options.parameters:
        parameters[name] = parse_parameter(options.notebook, name, text)
    label = str(parameters.get("run", options.notebook.stem))
    print(f"[{label}] started", flush=True)
    started = time.monotonic()
    run_notebook(options.notebook, options.output, parameters, label=label)
    print(f"[{label}] finished in {time.monotonic() - started:.1f} s", flush=True)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """End as after Ctrl-C, so that the kernel is shut down on the way."""
    raise KeyboardInterrupt


def _stop_without(parent: int) -> None:
    """Stop this process once its parent is gone: a killed batch run leaves no training behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)  # enough for the kernel to be shut down
    os._exit(EXIT_INTERRUPTED)


def _preset(options: argparse.Namespace) -> None:
    import yaml

    from interproto_lib.presets import read_preset

    parameters = read_preset(options.preset).parameters(
        options.notebook.removesuffix(".ipynb"), method=options.method, seed=options.seed, runs_dir=options.runs_dir
    )
    print(yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True), end="")


def _prepare(options: argparse.Namespace) -> None:
    from interproto_lib.data.face_decoding import AlignmentOptions
    from interproto_lib.data.intake import prepare_source
    from interproto_lib.data.intake_report import REJECTED_SHEET
    from interproto_lib.data.registry import read_card
    from interproto_lib.data.verification_files import VERIFICATION_ENDING, check_verification_file
    from interproto_lib.progress import shown_progress

    signal.signal(signal.SIGTERM, _stop)
    _check_order(options)
    card = read_card(options.dataset)
    if options.source.suffix.lower() == VERIFICATION_ENDING and not options.source.is_dir():
        _refuse_without_effect(options)
        with shown_progress(f"{card.name}: checking") as progress:
            checked = check_verification_file(card, options.source, image_size=options.image_size, progress=progress)
        _report(checked, options)
        return
    if options.out is None:
        raise ConfigError("Say where to make the dataset folder: interproto prepare DATASET SOURCE OUT.")
    draw = functools.partial(_draw_rejected, options.out / REJECTED_SHEET)
    with shown_progress(f"{card.name}: preparing") as progress:
        report = prepare_source(
            card.name,
            options.source,
            options.out,
            shape=options.shape,
            ages=options.ages,
            bad_ages=options.bad_ages,
            few_ages=options.few_ages,
            image_size=options.image_size,
            fit=options.fit,
            heldout_share=options.heldout_share,
            validation_share=options.validation_share,
            seed=options.seed,
            on_rejected=options.on_rejected,
            landmarks=options.landmarks,
            detector=options.detector,
            alignment=AlignmentOptions(
                choose=options.choose_face,
                min_face_pixels=options.min_face_pixels,
                antialias=options.antialias,
                score_threshold=options.score_threshold,
            ),
            follow_links=options.follow_links,
            n_threads=options.threads,
            relabel=options.relabel,
            progress=progress,
            say=say,
            draw_rejected=draw if options.contact_sheet else None,
        )
    _report(report, options)


def _draw_rejected(file: Path, rejected: Sequence[RejectedImage], read: Callable[[int], bytes]) -> Path:
    """Write the contact sheet of images that could not be aligned, of each kind of reason some."""
    from interproto_lib.views.rejects import rejects_to_show, write_rejects_sheet

    shown = []
    for position in rejects_to_show([image.reason for image in rejected]):
        try:
            content = read(position)
        except DatasetError:  # drawn as a crossed square
            content = b""
        shown.append((rejected[position].path, rejected[position].reason, content))
    return write_rejects_sheet(shown, file, n_more=len(rejected) - len(shown))


def _check(options: argparse.Namespace) -> None:
    from interproto_lib.data.prepared_check import check_prepared
    from interproto_lib.progress import shown_progress

    with shown_progress(f"{options.folder.name}: checking", unit="byte") as progress:
        report = check_prepared(options.folder, source=options.source, progress=progress)
    _report(report, options)
    if report.is_source_changed:
        raise DatasetError(f"{options.source} is not what {options.folder} was made of, see above.")


def _check_order(options: argparse.Namespace) -> None:
    """Refuse arguments of prepare in another order, and give the command with theirs."""
    from interproto_lib.data.registry import list_cards

    dataset, source, out = options.dataset, options.source, options.out
    cards = {card.name for card in list_cards()}
    if dataset not in cards and str(source) in cards and Path(dataset).exists():
        right = [str(source), dataset, *([] if out is None else [str(out)])]
    elif dataset in cards and out is not None and not source.exists() and _holds_files(out):
        right = [dataset, str(out), str(source)]
    else:
        return
    command = shlex.join(["interproto", "prepare", *right])
    raise ConfigError(f"The arguments stand in another order: the dataset, its source, then OUT. Try: {command}")


def _holds_files(place: Path) -> bool:
    """Whether there is a file, or a folder with something in it that is no dataset made here."""
    if not place.is_dir():
        return place.exists()
    return not any((place / name).exists() for name in _MADE_HERE) and any(place.iterdir())


def _refuse_without_effect(options: argparse.Namespace) -> None:
    usual = vars(parser().parse_args(["prepare", options.dataset, str(options.source)]))
    changed = [name for name, value in vars(options).items() if name in usual and value != usual[name]]
    effective = ("image_size", "strict", "action", "snakemake_arguments")
    given = ["OUT" if name == "out" else f"--{name.replace('_', '-')}" for name in changed if name not in effective]
    if given:
        raise ConfigError(f"{options.source} is a verification file and read as it is: leave out {', '.join(given)}.")


def _report(report: Any, options: argparse.Namespace) -> None:
    """Print a report with counts beside a card; with --strict, counts that differ are an error."""
    say(str(report))
    differing = [count.key for count in report.counts if count.differs]
    if options.strict and differing:
        raise DatasetError(f"Counts differ from the card's ({', '.join(differing)}), which --strict refuses.")


def _html(options: argparse.Namespace) -> None:
    from interproto_lib.html import export_html

    names = [notebook.stem for notebook in options.notebooks]
    for notebook, name in zip(options.notebooks, names, strict=True):
        export_html(notebook, options.output_dir / f"{name}.html", siblings=names)


def _doctor(options: argparse.Namespace) -> None:
    from interproto_lib.doctor import check_torch_pair, describe_environment

    check_torch_pair()
    print(describe_environment())


if __name__ == "__main__":
    sys.exit(main())
