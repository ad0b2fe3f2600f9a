"""Small notebooks in place of the real ones, to test the batch graph: each adds a line to `<experiment>/log.txt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

COMMON = 'experiment: str = "none"  # experiment\nruns_dir: str = "runs"  # folder of all experiments\n'
START = "from pathlib import Path\nfolder = Path(runs_dir) / experiment\nfolder.mkdir(parents=True, exist_ok=True)\n"
LOG = 'with (folder / "log.txt").open("a") as log:\n    log.write({text} + "\\n")\n'
TRAIN = """
import time
from interproto_lib.files import file_lock
run_folder = folder / run
place = run_folder / "epoch.txt"
seconds = folder / "seconds"
with file_lock(run_folder / ".lock", busy="busy", wait_seconds=30):
    first = int(place.read_text()) if place.exists() else 0
    for epoch in range(first, epochs):
        print(f"epoch {epoch + 1}/{epochs}", flush=True)
        time.sleep(float(seconds.read_text()) if seconds.exists() else 0)
        place.write_text(str(epoch + 1))
"""

PRESET = """
experiment: fake
dataset: {n_identities: 3}
train: {epochs: 3}
methods:
  arcface: {inter_prototype: none}
  interproto: {inter_prototype: child}
seeds: [0]
"""


def write_fake_notebooks(folder: Path, write_notebook: Callable[..., Path]) -> Path:
    """Write the notebooks of the graph into `folder`.

    02_train fails where the file `<experiment>/fail` is, and `<experiment>/seconds` says how long an epoch takes.
    """

    def write(name: str, parameters: str, *cells: str) -> None:
        log = LOG.format(text='f"02_train {run} from {first}"' if name == "02_train" else repr(name))
        write_notebook(folder / f"{name}.ipynb", COMMON + parameters, [START, *cells, log], title=f"# {name}")

    write(
        "01_datasets_and_ages",
        'n_identities: int = 1  # identities\nroot: str = ""  # folder\nages: str = ""  # table\n',
    )
    write(
        "02_train",
        'run: str = "run"  # name\nseed: int = 0  # seed\nepochs: int = 1  # passes\n'
        'processes: int = 1  # processes\nbatch_parts: int = 1  # parts\ndevice: str = "auto"  # device\n'
        'inter_prototype: str = "none"  # scope\n',
        'if (folder / "fail").exists():\n    raise ValueError("the file fail is here")',
        TRAIN,
    )
    analysis = 'baseline: str = ""  # method\ntreated: list = []  # methods\nseeds: list = []  # seeds\n'
    write("03_similarity", analysis)
    write("04_prototype_projection", analysis)
    write("05_verification", analysis)
    write("06_identification", analysis)
    write("07_ablations", analysis.replace("treated: list = []  # methods", "sweeps: dict = {}  # methods"))
    write("00_start_here", analysis, 'print("the story")')
    write("09_report", analysis, '(folder / "report.html").write_text("the report")')
    return folder
