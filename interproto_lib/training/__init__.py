"""Training: from a dataset and settings, or from a network trained elsewhere, to a run folder."""

from interproto_lib.training.imported import import_run
from interproto_lib.training.loop import train
from interproto_lib.training.recognizer import Recognizer
from interproto_lib.training.schedule import learning_rate_at
from interproto_lib.training.synthesis import train_synthesis
from interproto_lib.training.torchrun import train_in_processes

__all__ = ["Recognizer", "import_run", "learning_rate_at", "train", "train_in_processes", "train_synthesis"]
