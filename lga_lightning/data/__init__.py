"""Edit requests from files, and the Lightning data module that deals them out."""

from lga_lightning.data.batches import RequestBatch, RequestBatches
from lga_lightning.data.formats import FORMATS, to_record
from lga_lightning.data.readers import LoadedRequests, load_requests

__all__ = [
    "FORMATS",
    "EditDataModule",
    "LoadedRequests",
    "RequestBatch",
    "RequestBatches",
    "load_requests",
    "to_record",
]


def __getattr__(name: str) -> object:
    # reading a file needs no lightning, whose import takes seconds
    if name == "EditDataModule":
        from lga_lightning.data.module import EditDataModule

        return EditDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
