"""The `interproto` command: run a comparison, run one notebook, show a preset, export HTML, check the environment."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from interproto_lib import __version__
from interproto_lib.errors import ConfigError, InterprotoError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


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
    parser = _parser()
    options = parser.parse_args(given)
    if further and options.command != "reproduce":
        parser.error("only `interproto reproduce` takes further arguments after --")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="interproto", description=__doc__)
    parser.add_argument("--version", action="version", version=f"interproto {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    reproduce = commands.add_parser(
        "reproduce",
        help="run every notebook of a preset that is not yet done",
        epilog="Arguments after -- go to Snakemake, as in: interproto reproduce -- --forceall",
    )
    reproduce.add_argument("--preset", default="demo", help="name or .yaml file (default: %(default)s)")
    reproduce.add_argument("--cores", type=_positive, default=2, help="CPU cores to use (default: %(default)s)")
    reproduce.add_argument("--dry-run", action="store_true", help="only print what would run")
    _add_runs_dir(reproduce)
    reproduce.add_argument("--notebooks-dir", help="folder of the notebooks (default: the project's)")
    reproduce.set_defaults(action=_reproduce)

    run = commands.add_parser("run-notebook", help="execute one notebook with checked parameters")
    run.add_argument("notebook", type=Path, help="the notebook, as in notebooks/03_similarity.ipynb")
    run.add_argument("output", type=Path, help="the executed copy to write")
    run.add_argument("--preset", help="take the notebook's parameters from this preset")
    run.add_argument("--method", help="method to train (02_train with --preset)")
    run.add_argument("--seed", type=int, help="seed to train with (02_train with --preset)")
    _add_runs_dir(run)
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
    _add_runs_dir(preset)
    preset.set_defaults(action=_preset)

    html = commands.add_parser("html", help="write executed notebooks as HTML that opens offline")
    html.add_argument("notebooks", nargs="+", type=Path, help="executed notebooks")
    html.add_argument("--output-dir", type=Path, required=True, help="folder for <notebook>.html")
    html.set_defaults(action=_html)

    doctor = commands.add_parser("doctor", help="print versions, threads and GPU; fail where torch cannot work")
    doctor.set_defaults(action=_doctor)
    return parser


def _add_runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", default="runs", help="folder of all experiments (default: %(default)s)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


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
    parameters = {}
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
