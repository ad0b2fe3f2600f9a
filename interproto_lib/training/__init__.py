"""Training: from a dataset and settings to a run folder (Algorithm 1 of the paper)."""

from interproto_lib.training.loop import train
from interproto_lib.training.recognizer import Recognizer
from interproto_lib.training.schedule import learning_rate_at

__all__ = ["Recognizer", "learning_rate_at", "train"]
