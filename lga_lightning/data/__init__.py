"""Edit requests: what they are, where they come from, and how they are dealt out."""

from lga_lightning.data.batching import RequestBatch, RequestBatches
from lga_lightning.data.formats import FORMATS, to_record
from lga_lightning.data.loading import LoadedRequests, load_requests

__all__ = [
    "FORMATS",
    "LoadedRequests",
    "RequestBatch",
    "RequestBatches",
    "load_requests",
    "to_record",
]
