"""Which rule makes the best layer of the gradients' evidence, on several comparisons at once.

    python benchmarks/rules.py runs/a/comparison.json runs/b/comparison.json > docs/results/rules.md

Each file is what ``lga compare --config ... --config configs/compare/candidates.yaml`` leaves. Rules are ranked by the worst of their
expected regrets; all are printed, as Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from lga_lightning import LGA, ValueGradient

RULE = ("scope", "statistic", "aggregate", "kappa", "neighbours")


def main() -> None:
    """Read, rank, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", type=Path, nargs="+")
    args = parser.parse_args()
    named = {
        tuple(getattr(locator, name) for name in RULE): words
        for locator, words in ((ValueGradient(), " (default)"), (LGA(), " (the paper's)"))
    }
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in args.comparisons]
    found: dict[tuple, list[dict]] = {}
    for content in contents:
        for candidate in content["candidates"]:
            found.setdefault(tuple(candidate[name] for name in RULE), []).append(candidate)
    judged = [
        ([c["expected_regret"] for c in each], rule, each) for rule, each in found.items() if len(each) == len(contents)
    ]
    ranked = sorted(judged, key=lambda one: (max(one[0]), sum(one[0])))
    out = Console(width=200, highlight=False, markup=False, soft_wrap=True)
    out.print("# Every rule that the gradients' evidence allows\n")
    for number, content in enumerate(contents):
        truth, row = content["sweeps"][0], content["rows"][0]
        out.print(
            f"{chr(65 + number)}: {Path(content['model']).name}, {row['num_requests']} proxies and {truth['num_requests']} tests of "
            f"{content['proxies']}; expected regret with {content['candidates'][0]['requests']} proxies; best layer {truth['best_layer']}."
        )
    columns = [
        f"{chr(65 + number)}: {what}" for number in range(len(contents)) for what in ("layer", "regret", "expected")
    ]
    headings = ["", *RULE[:3], "fences", "neighbours", *columns, "worst"]
    out.print("\n| " + " | ".join(headings) + " |\n|" + " --- |" * len(headings))
    for place, (expected, rule, each) in enumerate(ranked, start=1):
        cells = [f"{c['layer']} | {c['regret']:.1f} | {c['expected_regret']:.1f}" for c in each]
        name = named.get(rule, "")
        fences = "none" if rule[3] is None else f"{rule[3]:g}"
        out.print(
            f"| {place}{name} | {' | '.join(rule[:3])} | {fences} | {rule[4]} | {' | '.join(cells)} | {max(expected):.1f} |"
        )


if __name__ == "__main__":
    main()
