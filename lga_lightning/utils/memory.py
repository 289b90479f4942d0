"""How much memory a process has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

MB = 1_000_000


def resident_mb() -> float:
    """Memory of this process that is in RAM, in MB; where the system does not tell, the most that it ever was."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / MB if sys.platform == "darwin" else most * 1024 / MB


def device_peak_mb(device: torch.device) -> float | None:
    """Most memory that tensors ever took on a CUDA device, in MB; None for other devices."""
    return torch.cuda.max_memory_allocated(device) / MB if device.type == "cuda" else None
