"""The command line, a file a verb: LightningCLIs, and what they have in common."""

from lga_lightning.cli.app import EXPECTED, run
from lga_lightning.cli.edits import LGACLI
from lga_lightning.cli.frozen import TRAINER_DEFAULTS

__all__ = ["EXPECTED", "LGACLI", "TRAINER_DEFAULTS", "run"]
