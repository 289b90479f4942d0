"""The table of docs/atlas.md, from the files of the atlas.

python benchmarks/atlas_page.py
"""

from __future__ import annotations

from pathlib import Path

from lga_lightning.reports.markdown import escape_markdown
from lga_lightning.results.atlas import read_atlas
from lga_lightning.utils.io import write_text

PAGE = Path(__file__).parents[1] / "docs" / "atlas.md"
MARK = "<!-- table -->"
HEADINGS = ("model", "method", "layers", "score", "95% interval", "evidence", "facts", "C", "measured", "source")


def table() -> str:
    """The table in Markdown: a row an entry."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    for page in read_atlas():
        for entry in page.entries:
            low_high = "" if entry.interval is None else f"{entry.interval[0]:.1f} to {entry.interval[1]:.1f}"
            name = entry.source.removeprefix("docs/")
            rows.append(
                (
                    escape_markdown(page.model),
                    entry.method,
                    ", ".join(map(str, entry.layers)),
                    f"{entry.score:.1f}",
                    low_high,
                    entry.evidence,
                    f"{entry.facts}: {escape_markdown(entry.data)}",
                    {"identity": "I", "text": "from text"}.get(entry.covariance or "", ""),
                    f"{entry.date}, {entry.version}",
                    f"[{name}]({name})" if name != entry.source else f"`{entry.source}`",
                )
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def updated(text: str) -> str:
    """The page with the present table between its marks."""
    before, _, after = text.split(MARK)
    return f"{before}{MARK}\n{table()}\n{MARK}{after}"


def main() -> None:
    """Write the page anew."""
    write_text(PAGE, updated(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
