"""Cross-references of docstrings, on the site: ``:class:`EditSession``` becomes a link to what it names."""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension, Object

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?\.?([^`]+)`")


class DocstringRoles(Extension):
    """Writes Sphinx's roles, which mkdocstrings does not know, as code that links where the name is on the site."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring = Docstring(
                ROLE.sub(r"`\1`", obj.docstring.value),
                lineno=obj.docstring.lineno,
                endlineno=obj.docstring.endlineno,
                parent=obj,
                parser=obj.docstring.parser,
                parser_options=obj.docstring.parser_options,
            )
