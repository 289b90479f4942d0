"""Metrics of generated text: exact match after normalising, and how repetitive a text is."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable


def normalised(text: str) -> str:
    """A text as answers are compared: lower case, without punctuation and articles, white space folded.

    Much as SQuAD (arXiv 1606.05250) compares answers; but a dash or a slash counts as a space, and a text of nothing but
    punctuation and articles stays as it is, in lower case.

    Example:
        >>> normalised("The  United States, of America"), normalised("The The")
        ('united states of america', 'the the')
    """
    lower = unicodedata.normalize("NFC", text).lower()
    kinds = [(c, unicodedata.category(c)) for c in lower]
    bare = "".join(" " if kind == "Pd" or c == "/" else "" if kind.startswith("P") else c for c, kind in kinds)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split()) or " ".join(lower.split())


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
    return any(f"{normalised(said)} ".startswith(f"{normalised(answer)} ") for answer in answers)


def contains(said: str, answers: Iterable[str]) -> bool:
    """Whether one of the accepted answers stands somewhere in a text, word for word, after normalising both.

    Example:
        >>> contains("It is in Berlin, Germany.", ["Berlin"]), contains("Berliners", ["Berlin"])
        (True, False)
    """
    return any(f" {normalised(answer)} " in f" {normalised(said)} " for answer in answers)


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
