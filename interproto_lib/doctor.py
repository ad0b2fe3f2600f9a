"""Whether this environment can run the project: versions, threads, GPU, and the pair of torch and torchvision."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from interproto_lib.errors import BrokenEnvironmentError

_REPORTED = (
    "interproto-lib",
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scikit-learn",
    "umap-learn",
    "matplotlib",
    "jupyterlab",
    "ipykernel",
    "papermill",
    "snakemake",
)


def check_torch_pair() -> None:
    """Import torchvision, which fails where it was built for another torch than the one installed.

    The pair met in practice is a CPU build of torch 2.13.0 beside a CUDA build of torchvision: the installer is
    content with it, and the first import of torchvision fails.

    Raises:
        BrokenEnvironmentError: torch or torchvision is missing or the two do not fit; the message says what to install.
    """
    try:
        import torchvision.ops

        torchvision.ops.nms  # noqa: B018  # registered only where the two fit
    except Exception as error:
        raise BrokenEnvironmentError(
            f"torch {_version('torch')} and torchvision {_version('torchvision')} do not work together "
            f"({type(error).__name__}: {error}). torch and torchvision must come as a pair of the same build. "
            "Install the pair of the lock: remove .venv and run the make command again; in an environment of your "
            'own: pip install --upgrade "torch>=2.14" "torchvision>=0.29" (or torch 2.11 with torchvision 0.26).'
        ) from error


def describe_environment() -> str:
    """Describe machine and software in a few lines.

    Returns:
        One line each for Python, the CPU and its threads, the GPU, and the packages with their versions.
    """
    import torch

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        gpu = "none that torch can use"
    lines = [
        f"Python {platform.python_version()} on {platform.platform()}",
        f"CPU: {platform.machine()}, {cpus} cores usable, torch uses {torch.get_num_threads()} threads",
        f"GPU: {gpu}",
        *(f"{package} {_version(package)}" for package in _REPORTED),
    ]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
