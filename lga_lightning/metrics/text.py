"""Metrics of generated text: exact match after normalising, and how repetitive a text is."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_ARTICLE = r"(?:an?|the)"
_AS_SPACES = frozenset("/`|<>~^")
# scripts whose words are not told apart by spaces, or not from what is written to them
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def normalised(text: str) -> str:
    """A text as answers are compared: lower case, without punctuation and articles, white space folded.

    Much as SQuAD (arXiv 1606.05250) compares answers; but a dash, a slash and what marks up a text count as spaces, an article is one that stands
    before a word (*Vitamin A* ends with none), and a text of nothing but punctuation stays as it is, in lower case.

    Example:
        >>> normalised("The  United States, of America"), normalised("Vitamin A")
        ('united states of america', 'vitamin a')
    """
    return re.sub(rf"\b{_ARTICLE} ", "", _bare(text))


def _bare(text: str) -> str:
    """Lower case, without punctuation where anything else is left, white space folded."""
    lower = unicodedata.normalize("NFC", text).lower()
    kinds = [(c, unicodedata.category(c)) for c in lower]
    bare = "".join(" " if kind == "Pd" or c in _AS_SPACES else "" if kind.startswith("P") else c for c, kind in kinds)
    return " ".join(bare.split()) or " ".join(lower.split())


def exact_match(said: str, answers: Iterable[str]) -> bool:
    """Whether a text is one of the accepted answers, after normalising both.

    Example:
        >>> exact_match("the Eiffel Tower!", ["Tour Eiffel", "Eiffel tower"])
        True
    """
    return normalised(said) in {normalised(answer) for answer in answers}


def begins_with(said: str, answers: Iterable[str]) -> bool:
    """Whether a text begins with one of the accepted answers, word for word, after normalising both.

    Example:
        >>> begins_with("Rome, the capital of Italy", ["Rome"]), begins_with("Romeo", ["Rome"])
        (True, False)
    """
    return any(re.match(_pattern(answer), _text_for(answer, said)) for answer in answers)


def contains(said: str, answers: Iterable[str]) -> bool:
    """Whether one of the accepted answers stands somewhere in a text, word for word, after normalising both.

    In scripts that put no spaces between words, such as Chinese, Japanese and Thai, it may stand within any text.

    Example:
        >>> contains("It is in Berlin, Germany.", ["Berlin"]), contains("Berliners", ["Berlin"]), contains("東京です", ["東京"])
        (True, False, True)
    """
    return any(re.search(_pattern(answer), _text_for(answer, said)) for answer in answers)


def _in_words(bare: str) -> str:
    """A text with a space around each word, and around each character of a script that tells words apart otherwise."""
    apart = (f" {c} " if not c.isascii() and unicodedata.name(c, "").startswith(_UNSPACED) else c for c in bare)
    return f" {' '.join(''.join(apart).split())} "


def _text_for(answer: str, said: str) -> str:
    """What an answer is looked for in: with all articles, or, where it is one itself, with those alone that stand before no word."""
    return _in_words(normalised(said) if re.fullmatch(_ARTICLE, normalised(answer)) else _bare(said))


def _pattern(answer: str) -> str:
    """Finds an answer in a text :func:`_in_words`, with articles before any of its words or without."""
    words = _in_words(normalised(answer)).split()
    return " " + "".join(rf"(?:{_ARTICLE} )*{re.escape(word)} " for word in words) if words else r"(?!)"


def ngram_entropy(text: str, weights: tuple[tuple[int, float], ...] = ((2, 2 / 3), (3, 4 / 3))) -> float:
    """Fluency: the weighted mean entropy of a text's 2- and 3-grams, in bits; low where a text repeats itself.

    ``mean over n of w_n * H_n`` with ``H_n = -sum_g f(g) log2 f(g)`` over the n-grams g of the text and their frequencies f,
    w_2 = 2/3 and w_3 = 4/3. Source: GE in ROME (arXiv 2202.05262), after arXiv 1809.05972. Words and punctuation marks count
    as tokens.

    Args:
        text: A text.
        weights: Pairs of n and its weight.

    Returns:
        Bits; 0 for a text too short to have an n-gram.

    Example:
        >>> ngram_entropy("no no no no"), round(ngram_entropy("a b c d"), 4)  # one n-gram; 3 and 2 different ones
        (0.0, 1.195)
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    total = 0.0
    for n, weight in weights:
        counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
        whole = sum(counts.values())
        total += weight * sum(count / whole * math.log2(whole / count) for count in counts.values())
    return total / len(weights)
