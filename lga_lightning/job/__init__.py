"""The whole job in one call: find the layer, edit, score, and write what reaches what is required."""

from lga_lightning.job.edit_job import EditJob, FinishedEdit

__all__ = ["EditJob", "FinishedEdit"]
