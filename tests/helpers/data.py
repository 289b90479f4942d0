"""Request files for the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.models import requests


def rows(count: int) -> list[dict]:
    """Requests as JSON objects, with distinct subjects."""
    found = []
    for number in range(count):
        request = requests(8)[number % 8]
        subject = f"{request.subject} {number}"
        found.append(
            {
                "prompt": request.prompt.replace(request.subject, subject),
                "subject": subject,
                "target_new": request.target_new,
                "target_old": request.target_old,
                "rephrases": [f"They say that {subject} has"],
                "locality": {"neighborhood": [{"prompt": "Oslo is in", "answers": ["Norway"]}]},
            }
        )
    return found


def write_rows(path: Path, found: list) -> Path:
    """Write objects as JSON Lines."""
    path.write_text("\n".join(json.dumps(row) for row in found), encoding="utf-8")
    return path
