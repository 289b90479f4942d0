"""Metrics against loops and worked examples."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from torch.nn.functional import cross_entropy

from lga_lightning.metrics import (
    begins_with,
    contains,
    exact_match,
    harmonic_mean,
    magnitude,
    ngram_entropy,
    normalised,
    percentile_interval,
    resampled_means,
    success,
    token_accuracy,
    unchanged_tokens,
)
from lga_lightning.models.encoding import IGNORE
from lga_lightning.models.likelihood import answer_nll


def random_answers(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions before and after [40, 6], labels [40, 6] with answers of 1 to 6 tokens; few tokens, many hits."""
    generator = torch.Generator().manual_seed(seed)
    before, after, labels = (torch.randint(0, 3, (40, 6), generator=generator) for _ in range(3))
    lengths = torch.randint(1, 7, (40, 1), generator=generator)
    return before, after, labels.masked_fill(torch.arange(6) >= lengths, IGNORE)


def share(left: torch.Tensor, right: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The share of equal tokens of each row, by hand."""
    rows = []
    for l_row, r_row, label_row in zip(left.tolist(), right.tolist(), labels.tolist(), strict=True):
        hits = [x == y for x, y, label in zip(l_row, r_row, label_row, strict=True) if label != IGNORE]
        rows.append(sum(hits) / len(hits))
    return rows


def test_token_accuracy():
    predictions, _, labels = random_answers()
    assert token_accuracy(predictions, labels).tolist() == pytest.approx(share(predictions, labels, labels))


def test_unchanged_tokens():
    before, after, labels = random_answers()
    assert unchanged_tokens(before, after, labels).tolist() == pytest.approx(share(before, after, labels))
    assert unchanged_tokens(before, before, labels).tolist() == [1.0] * 40


def test_padding_changes_nothing():
    before, after, labels = random_answers()
    wider = torch.nn.functional.pad(labels, (0, 3), value=IGNORE)
    for value in (0, IGNORE):  # whatever is predicted there, even what stands there as label
        more_before, more_after = (torch.nn.functional.pad(x, (0, 3), value=value) for x in (before, after))
        assert torch.equal(token_accuracy(more_before, wider), token_accuracy(before, labels))
        assert torch.equal(unchanged_tokens(more_before, more_after, wider), unchanged_tokens(before, after, labels))


def test_comparisons_on_random_logits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 40, 6, 50, generator=generator)
    labels = torch.randint(0, 50, (2, 40, 6), generator=generator)
    lengths = torch.randint(1, 7, (2, 40, 1), generator=generator)
    labels = labels.masked_fill(torch.arange(6) >= lengths, IGNORE)
    nll, alternative = (answer_nll(*side) for side in zip(logits, labels, strict=True))
    wins, differences = success(nll, alternative), magnitude(nll, alternative)
    for row in range(40):
        one, other = (
            cross_entropy(logits[side, row, : lengths[side, row]], labels[side, row, : lengths[side, row]]).item()
            for side in range(2)
        )
        assert wins[row].item() == (one < other)
        assert differences[row].item() == pytest.approx(math.exp(-one) - math.exp(-other), rel=1e-4, abs=1e-7)
    assert 0 < wins.sum() < 40
    wider = torch.nn.functional.pad(labels, (0, 2), value=IGNORE)
    padded = answer_nll(torch.nn.functional.pad(logits[0], (0, 0, 0, 2), value=9.0), wider[0])
    torch.testing.assert_close(padded, nll)


def test_comparisons_by_hand():
    # p = 1/2 against 1/4; a tie; 1/4 against 1/2
    nll, alternative = -torch.tensor([0.5, 0.5, 0.25]).log(), -torch.tensor([0.25, 0.5, 0.5]).log()
    assert success(nll, alternative).tolist() == [1, 0, 0]
    assert magnitude(nll, alternative).tolist() == pytest.approx([0.25, 0, -0.25])


def test_harmonic_mean_by_hand():
    values = torch.tensor([[1.0, 1.0, 0.5], [0.9, 0.6, 0.3], [1.0, 1.0, 0.0]], dtype=torch.float64)
    assert harmonic_mean(values).tolist() == pytest.approx([0.75, 3 / (1 / 0.9 + 1 / 0.6 + 1 / 0.3), 0.0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("  an  APPLE,\ta pear. ", "apple pear"),
        ("Washington, D.C.", "washington dc"),
        ("Jean-Paul Sartre\u2019s", "jean paul sartres"),
        ("anthem", "anthem"),  # not every a is an article
        ("The", "the"),  # nothing would be left
        ("Zoe\u0308", "zo\u00eb"),  # one letter, written in two ways
        ("$5 \u2013 C++", "$5 c++"),
        ("the $5", "$5"),
        ("Vitamin A", "vitamin a"),  # no article, since nothing comes behind it
        ("The United States of the Americas", "united states of americas"),
        ("`Rome`|<b>Italy</b>", "rome b italy b"),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_normalised(text, expected):
    assert normalised(text) == expected


def test_exact_match():
    assert exact_match("the yen!", ("dollar", "Yen"))
    assert not exact_match("yen (JPY)", ("yen",))
    assert not exact_match("", ("yen",))
    assert not exact_match("", ("The",))


def test_begins_with():
    assert begins_with("Richmond, Virginia, and", ("Lyon", "richmond"))
    assert begins_with("the yen", ("yen",))
    assert not begins_with("Parisian", ("Paris",))
    assert not begins_with("in Paris", ("Paris",))
    assert not begins_with("", ("Paris",))
    assert begins_with("Serie A, the first", ("Serie A",))
    assert not begins_with("Serie B, the second", ("Serie A",))
    assert not begins_with("Paris", ("",))


def test_contains():
    assert contains("a source of vitamin A, which", ("Vitamin A",))
    assert not contains("vitamin C", ("Vitamin A",))
    assert contains("the answer is A", ("A",))
    assert not contains("a good answer", ("Answer A",))
    assert contains("in United States of the America", ("the United States of America",))
    assert contains("capital: `Rome`", ("Rome",))
    assert not contains("Romeo", ("Rome",))
    assert not contains("Rome", ("",))
    assert not contains("It is a city in France", ("A",))
    assert not contains("It is in the city", ("The The", "The"))
    assert not begins_with("The answer", ("The",))


@pytest.mark.parametrize(
    ("said", "answer", "other"),
    [
        ("\u7f57\u9a6c\u662f\u610f\u5927\u5229\u7684\u9996\u90fd\u3002", "\u7f57\u9a6c", "\u5df4\u9ece"),  # Chinese
        ("\u6771\u4eac\u3067\u3059", "\u6771\u4eac", "\u4eac\u90fd"),  # Japanese
        ("\uc11c\uc6b8\uc785\ub2c8\ub2e4", "\uc11c\uc6b8", "\ubd80\uc0b0"),  # Korean, with what is written to the word
        (
            "\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e\u0e21\u0e2b\u0e32\u0e19\u0e04\u0e23",
            "\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e",
            "\u0e40\u0e17\u0e1e\u0e01",
        ),  # Thai
    ],
)
def test_scripts_that_put_no_spaces_between_words(said, answer, other):
    assert contains(said, (answer,))
    assert begins_with(said, (answer,))
    assert not contains(said, (other,))
    assert not exact_match(said, (answer,))


def entropy(grams: list) -> float:
    """In bits, by hand."""
    counts = Counter(grams).values()
    return -sum(count / len(grams) * math.log2(count / len(grams)) for count in counts)


def test_ngram_entropy_is_that_of_a_loop():
    words = random.Random(0).choices(["Rome", "is", "in", "Italy", ",", "and", "."], k=100)
    pairs = [tuple(words[i : i + 2]) for i in range(99)]
    triples = [tuple(words[i : i + 3]) for i in range(98)]
    expected = (2 / 3 * entropy(pairs) + 4 / 3 * entropy(triples)) / 2
    assert ngram_entropy(" ".join(words)) == pytest.approx(expected)


def test_ngram_entropy_by_hand():
    # pairs: ab ba ab (2/3, 1/3); triples: aba bab (1/2, 1/2)
    pairs = 2 / 3 * math.log2(3 / 2) + 1 / 3 * math.log2(3)
    assert ngram_entropy("a b a b") == pytest.approx((2 / 3 * pairs + 4 / 3 * 1) / 2)
    assert ngram_entropy("one") == ngram_entropy("") == 0
    assert ngram_entropy("so so so so so") == 0
    # 2^k different n-grams have an entropy of k
    assert ngram_entropy(" ".join(map(str, range(17))), ((2, 1.0),)) == pytest.approx(4)


def test_resampled_means_are_those_of_a_loop():
    values = torch.randn(7, 2, generator=torch.Generator().manual_seed(0)).double()
    values[3, 1] = torch.nan
    means = resampled_means(values, resamples=150, seed=4)
    generator = torch.Generator().manual_seed(4)
    drawn = torch.cat([torch.randint(7, (size, 7), generator=generator) for size in (100, 50)])
    expected = torch.stack([values[rows].nanmean(0) for rows in drawn])
    torch.testing.assert_close(means, expected)
    assert torch.equal(means, resampled_means(values, resamples=150, seed=4))
    # the draws of a column do not depend on the others
    assert torch.equal(means[:, :1], resampled_means(values[:, :1], resamples=150, seed=4))


def test_intervals_hold_the_mean_as_often_as_they_should():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(60, 200, generator=generator).double() + 3  # 200 experiments with 60 requests each
    low, high = percentile_interval(resampled_means(samples))
    held = ((low < 3) & (high > 3)).double().mean()
    assert 0.88 < held < 0.99
    width = (high - low).mean().item()
    assert width == pytest.approx(2 * 1.96 / math.sqrt(60), rel=0.1)


def test_intervals_at_the_edge():
    one = resampled_means(torch.tensor([[0.25]]))
    assert percentile_interval(one).tolist() == [[0.25], [0.25]]
    nothing = resampled_means(torch.full((3, 1), torch.nan))
    assert percentile_interval(nothing).isnan().all()
    rare = resampled_means(torch.tensor([[1.0], [torch.nan], [torch.nan], [torch.nan]]))
    assert percentile_interval(rare).tolist() == [[1.0], [1.0]]  # draws without the one request say nothing
