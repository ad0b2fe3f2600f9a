"""Losses, training, similarity analysis and views for child-adult face recognition."""

__version__ = "0.1.0"
