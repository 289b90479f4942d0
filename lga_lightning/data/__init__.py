"""Edit requests: what they are, where they come from, and how they are dealt out."""

from lga_lightning.data.batching import RequestBatch, RequestBatches
from lga_lightning.data.formats import FORMATS, Format, to_record
from lga_lightning.data.loading import LoadedRequests, load_requests
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe

__all__ = [
    "FORMATS",
    "EditRequest",
    "Format",
    "LoadedRequests",
    "Probe",
    "Record",
    "RequestBatch",
    "RequestBatches",
    "load_requests",
    "to_record",
]
