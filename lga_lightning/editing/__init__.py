"""Editing methods, and edits as data."""

from lga_lightning.editing.alphaedit import AlphaEdit
from lga_lightning.editing.attaching import attached
from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.crispedit import CrispEdit
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.emmet import EMMET
from lga_lightning.editing.finetune import FTL, FTM
from lga_lightning.editing.guarded import Guarded
from lga_lightning.editing.guards import Guard, NormGuard, SingularGuard
from lga_lightning.editing.locft import LocFT
from lga_lightning.editing.memit import MEMIT
from lga_lightning.editing.pmet import PMET
from lga_lightning.editing.rome import ROME, RROME
from lga_lightning.editing.ultraedit import UltraEdit
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate

__all__ = [
    "EMMET",
    "FTL",
    "FTM",
    "MEMIT",
    "PMET",
    "ROME",
    "RROME",
    "AlphaEdit",
    "CrispEdit",
    "DenseUpdate",
    "EditMethod",
    "Guard",
    "Guarded",
    "LocFT",
    "LowRankUpdate",
    "NormGuard",
    "SingularGuard",
    "UltraEdit",
    "WeightDelta",
    "attached",
]
