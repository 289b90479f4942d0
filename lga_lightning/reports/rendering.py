"""Pages out of templates."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def template(name: str, **options: Any) -> Template:
    """One of our templates, compiled once; a name that it was not given is an error.

    Args:
        name: Name of the file in ``reports/templates``.
        options: More options of jinja2's ``Environment``, such as how what is put in is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("lga_lightning.reports")
    made = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
    return made.get_template(name)
