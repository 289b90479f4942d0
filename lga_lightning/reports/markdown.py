"""Text of the data in Markdown that means itself."""

from __future__ import annotations

import html
import re


def escape_markdown(text: str) -> str:
    r"""A text as one line in which nothing is HTML, a link, emphasis, code, or the end of a table's cell.

    Example:
        >>> escape_markdown("a | b\n<b>*c*</b> snake_case")
        'a \\| b &lt;b&gt;\\*c\\*&lt;/b&gt; snake_case'
    """
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)
