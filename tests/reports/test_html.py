"""The page of a run: what is on it, that it loads nothing, that it survives odd files, and how a browser lays it out."""

from __future__ import annotations

import base64
import html
import json
import math
import os
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lga_lightning.callbacks import EditReport, ScoreCollector
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.locators.causal_tracing import GROUPS, KINDS
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.reports.examples import read_examples
from lga_lightning.reports.html import render_report, write_report
from lga_lightning.reports.svg import drift_chart, layer_chart
from lga_lightning.reports.svg_curves import curve_chart
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.validation import write_results
from lga_lightning.results.validation_parts import DriftPoint
from tests.helpers.data import rows, write_rows
from tests.helpers.results import (
    forecast_result,
    likely_parts,
    locator_result,
    partial_sweep,
    race_result,
    sweep_result,
    validation,
)
from tests.helpers.runs import module, trainer

EVIL = "<script>alert('x')</script> & \"Co\" <b"
LAYERS = 12


def outcome(group: str, after: float, said: str, begins: float | None = None, prompt: str = "Q") -> EvalResult:
    scores = {"token": (0.0, 1.0), "generated": (0.0, after)}
    if begins is not None:
        scores["begins"] = (0.0, begins)
    return EvalResult(group, prompt, ("Rome", "Roma"), scores, ("Paris", said))


OUTCOMES = [
    [
        outcome("rewrite", 1.0, "Rome", 1.0, prompt=f"The capital of {EVIL} is"),
        outcome("rephrase", 0.0, EVIL, 0.0),
        outcome("locality.neighborhood", 0.0, "Elsewhere"),
    ],
    [outcome("rewrite", 0.0, "Rome, a city", 1.0), outcome("portability.reasoning", 0.0, "", 0.0)],
    [outcome("rewrite", 0.0, "long " * 100, 0.0)],
]


QUICK = {"name": "R-ROME", "steps": 12}


def fill(root: Path, words: bool = True) -> Path:
    """A folder with everything in it."""
    root.mkdir(exist_ok=True)
    scores = torch.randn(20, LAYERS, generator=torch.Generator().manual_seed(1))
    scores[:, 2] += 1e4  # outside the fences
    relations = RelationLayers(["capital & more", "language"], [7, 5], [1, 2], [0.5, 0.75], 0.01)
    found = locator_result(scores, model="tiny <model>", relations=relations, settings={"scope": "mlp"})
    found.save(root / "attribution.json")
    sweep = sweep_result(torch.rand(6, LAYERS), model="tiny <model>", data="sweepset")
    (root / "sweep").mkdir(exist_ok=True)
    sweep.save(root / "sweep" / "attribution.json")
    change = {1: 0.1, 2: 0.25}
    drift = [
        DriftPoint(1, change, {"rewrite": 0.9, "locality": math.nan}),
        DriftPoint(3, change, {"rewrite": 0.5, "locality": math.nan}),
    ]
    edits = validation(
        OUTCOMES,
        model_name="tiny <model>",
        layers=[found.choice.golden_layer],
        method={"name": "R-ROME", "steps": 3},
        mode="sequential",
        group_size=1,
        skipped={EVIL: 2},
    )
    replace(edits, drift=drift, versions={"torch": "9.9"}).save(root / "validation.json")
    if words:
        write_results(root / "requests.parquet", range(3), ["a", "b", "c"], OUTCOMES)
    (root / "lga_fit.yaml").write_text("seed_everything: 0 # <&>")
    return root


class Page(HTMLParser):
    """What a browser would make of a page: its text, and what it would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.hidden = False
        self.feed(page)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.hidden = tag == "style"
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "xlink:href") and not value.startswith("data:"):
                self.loads.append(value)
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        if not self.hidden:
            self.words += f" {data} "


def test_everything_in_the_folder_is_on_the_page(tmp_path):
    page = render_report(fill(tmp_path))
    words = Page(page).words
    golden = json.loads((tmp_path / "attribution.json").read_text())["golden_layer"]
    for expected in (
        f"Layer {golden} is the golden layer of tiny <model>",
        "of bootstrap resamples; 90% of them choose among the layers",
        "The Tukey fences (kappa = 1) leave out layer",
        "within the Tukey fences",
        "Requests left out: 2 (empty target).",
        "The relations' layers differ beyond chance",
        "capital & more 7 1 50%",
        "The sweep edited 6 requests of sweepset at every layer.",
        "token accuracy generated begins metric before after before after before after rewrite",
        "0.333",  # rewrite, generated
        "edited one after the other, 1 at a time",
        "Drift by number of edits edits rewrite locality largest change of a weight 1 0.900 n/a 25.0% 3 0.500",
        "The edit holds: the model says the new answer: 1 of 3",
        "The new answer, and more behind it (no exact match): 1 of 3",
        "Right only when teacher-forced: by itself it says something else: 1 of 3",
        "It does not hold in other words: 1 of 1",
        "What follows from it is not known: 1 of 1",
        "Something else changed: 1 of 1",
        "after (nothing)",
        "lga fit --config lga_fit.yaml",
        "seed_everything: 0 # <&>",
        "torch 9.9",
    ):
        assert expected in words, expected
    for layer in range(LAYERS):
        assert f"<title>Layer {layer}" in page
    assert page.count('class="bar ') == LAYERS
    assert "could not be read" not in words


def test_everything_is_escaped(tmp_path):
    page = render_report(fill(tmp_path))
    found = Page(page)
    assert "script" not in found.tags
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;Co&#34; &lt;b") >= 3
    assert f"The capital of {EVIL} is" in found.words


def test_it_loads_nothing(tmp_path):
    page = render_report(fill(tmp_path))
    found = Page(page)
    assert found.loads == []
    assert not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    assert "@import" not in page
    assert "url(" not in page
    assert "://" not in page


def test_it_can_be_read_without_seeing_it(tmp_path):
    page = render_report(fill(tmp_path))
    found = Page(page)
    assert found.tags.count("h1") == 1
    levels = [int(tag[1]) for tag in found.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert found.tags.count("table") == found.tags.count("caption")
    assert len(found.ids) == len(set(found.ids))
    assert 'role="img" aria-label="' in page
    assert '<html lang="en">' in page


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("attribution.json", "{"),
        ("attribution.json", '{"schema": 99}'),
        ("attribution.json", "[]"),
        ("validation.json", "not JSON"),
        ("validation.json", '{"schema": 99}'),
        ("validation.json", '{"schema": 1, "metrics": {"rewrite": 3}}'),
        ("requests.parquet", "no Parquet"),
        ("lga_fit.yaml", b"\xff\xfe\xff"),
    ],
)
def test_files_that_cannot_be_read_are_named_and_the_rest_is_shown(name, content, tmp_path):
    fill(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    words = Page(render_report(tmp_path)).words
    assert f"{name} could not be read" in words
    assert ("Where to edit" in words) is (name != "attribution.json")
    assert ("What the edits did" in words) is (name != "validation.json")
    assert ("The edit holds" in words) is (name != "requests.parquet")


@pytest.mark.parametrize(
    "missing", ["attribution.json", "validation.json", "requests.parquet", "lga_fit.yaml", "sweep"]
)
def test_files_that_are_missing(missing, tmp_path):
    fill(tmp_path)
    path = tmp_path / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "could not be read" not in render_report(tmp_path)


def test_an_empty_folder(tmp_path):
    assert "Nothing to show yet" in render_report(tmp_path)


def test_edits_that_were_each_made_alone_have_no_drift(tmp_path):
    fill(tmp_path)
    validation(OUTCOMES).save(tmp_path / "validation.json")
    words = Page(render_report(tmp_path)).words
    assert "What the edits did" in words
    assert "Drift" not in words


def test_says_when_files_do_not_belong_together(tmp_path):
    fill(tmp_path)
    content = json.loads((tmp_path / "validation.json").read_text())
    del content["checksum"]
    (tmp_path / "validation.json").write_text(json.dumps({**content, "layers": [99]}))
    assert "The edits were made at layer 99 (given), not at the golden layer" in Page(render_report(tmp_path)).words
    (tmp_path / "validation.json").write_text(json.dumps({**content, "model": "another"}))
    assert "two runs share this folder" in Page(render_report(tmp_path)).words


@pytest.mark.parametrize(
    "change", [{"model": "another"}, {"settings": {"layers": [1]}}, {"settings": {"together": True}}]
)
def test_a_sweep_of_another_model_or_of_another_kind_is_left_out(change, tmp_path):
    fill(tmp_path)
    path = tmp_path / "sweep" / "attribution.json"
    replace(LocatorResult.load(path), **change).save(path)
    assert "The sweep edited" not in render_report(tmp_path)


@pytest.mark.parametrize(
    ("swept", "shown"), [(QUICK, True), ({**QUICK, "steps": 25}, False), ({"name": "FT-M"}, False)]
)
def test_a_forecast_stands_beside_sweeps_by_its_own_method_alone(swept, shown, tmp_path):
    forecast = forecast_result(likely_parts(20, LAYERS), model="m", settings={"editor": QUICK})
    forecast.save(tmp_path / "attribution.json")
    sweep = sweep_result(torch.rand(6, LAYERS), model="m", settings={"editor": swept})
    sweep.save(tmp_path / "attribution-sweep.json")
    assert ("The sweep edited" in render_report(tmp_path)) is shown


def test_the_heat_map_is_there_where_it_belongs_to_the_locator_result(tmp_path):
    fill(tmp_path)
    (tmp_path / "heat_map.png").write_bytes(b"picture")
    assert "data:image/png" not in render_report(tmp_path)  # one of an earlier run
    found = LocatorResult.load(tmp_path / "attribution.json")
    columns = {f"{kind}.{group}": found.choice.scores for kind in KINDS for group in GROUPS}
    replace(found, means=columns, half_widths=columns).save(tmp_path / "attribution.json")
    assert f"data:image/png;base64,{base64.b64encode(b'picture').decode()}" in render_report(tmp_path)


def test_links_that_lead_nowhere(tmp_path):
    fill(tmp_path)
    (tmp_path / "attribution-old.json").symlink_to(tmp_path / "gone.json")
    assert "The sweep edited" in render_report(tmp_path)


def test_examples_come_from_all_over_the_data_and_are_cut(tmp_path):
    found = [[outcome("rewrite", 0.0, f"{number}" * 200, 0.0)] for number in range(9)]
    write_results(tmp_path / "requests.parquet", range(9), ["x"] * 9, found)
    (family,) = read_examples(tmp_path / "requests.parquet")
    (kind,) = family["kinds"]
    assert (kind["good"], kind["count"]) == (False, 9)
    assert [row["after"] for row in kind["rows"]] == [number * 160 + " …" for number in "036"]


@pytest.mark.parametrize(
    "scores",
    [torch.randn(20, 30), torch.randn(1, 4), torch.zeros(3, 5), torch.rand(9, 1), -torch.rand(5, 96) * 1e-9 - 1e-9],
)
@pytest.mark.parametrize(("make", "draw"), [(locator_result, layer_chart), (sweep_result, curve_chart)])
def test_charts_of_results_at_the_edge(scores, make, draw):
    chart = draw(make(scores), "score")
    assert len(chart.bars) == (scores.shape[1] if make is locator_result else 0)
    shapes = [*chart.lines, *chart.areas]
    assert len(shapes) == (0 if make is locator_result else 7)
    places = [place for line in shapes for part in line.parts for point in part for place in point]
    places += [place for bar in chart.bars for place in (bar.x, bar.y, bar.width, bar.height, *(bar.whisker or ()))]
    assert all(0 <= place <= chart.width for place in places)
    assert len(chart.hover) == scores.shape[1]
    assert 2 <= len(chart.y_ticks) <= 12


def forecast_folder(root: Path, edited: list[int] | None = None, **changes: object) -> LocatorResult:
    """A folder with a forecast, and its race where edits are given."""
    facts = {"model": "tiny <model>", "data": EVIL, **changes}
    if edited:
        facts["race"] = race_result(
            5, edited, settled=False, ended="budget", confidence=0.8129, settings={"budget": EVIL}
        )
    found = forecast_result(likely_parts(40, LAYERS), **facts)
    found.save(root / "attribution.json")
    return found


def test_a_forecast_says_that_it_is_not_verified(tmp_path):
    found = forecast_folder(tmp_path)
    page = render_report(tmp_path)
    words = Page(page).words
    golden, choice = found.golden_layer, found.choice
    score = f"expected score {100 * choice.scores[golden]:.1f}"
    for expected in (
        f"Layer {golden} of tiny <model>: {score} (forecast from 40 requests, not verified)",
        f"golden layer {golden} {score}, not verified",
        "To verify it with a few real edits: lga fit --verify .",
        f"The same layer in {choice.confidence:.0%} of the resamples of the requests",
        "expected efficacy expected generalisation expected locality expected score 95% interval",
        "Expected scores by layer, in points, with their 95% intervals layer expected score efficacy generalisation locality reach",
    ):
        assert expected in words, expected
    for word in ("settled", "chosen in", "sure", "real edits ("):
        assert word not in words, word
    mean, half = (100 * column["expected_rewrite"][0] for column in (found.means, found.half_widths))
    assert f"{mean:.1f} ({mean - half:.0f}…{mean + half:.0f})" in words
    assert f", expected efficacy {mean:.1f}, expected generalisation" in page  # when one points at the layer
    assert page.count('class="area ') == 3
    assert page.count('<polyline class="curve ') == 4
    assert 'class="mark ' not in page
    assert "script" not in Page(page).tags


def test_a_race_and_a_sweep_are_points_over_the_forecast(tmp_path):
    edited = [0, 2, 0, 4, 8, 12, 8, 0, 0, 0, 0, 0]
    found = forecast_folder(tmp_path, edited)
    page = render_report(tmp_path)
    words = Page(page).words
    for expected in (
        "Layer 5 of tiny <model>: within 1.0 point of the best layer with 81% only, after 34 edits",
        f"Layer 5 : within 1.0 point of the best layer with 81% only: the budget of {EVIL} is used up, after 34 edits; more: "
        "--verify.budget 'N min'.",
        f"The forecast alone named layer {found.choice.golden_layer}: the same layer in",
        "The race made 34 edits of 12 requests, in 61.2 s.",
        "real edits (larger: more, up to 12)",
        "locality edits made reach",
    ):
        assert expected in words, expected
    assert "confidence set" not in words
    assert "script" not in Page(page).tags
    marks = page.split("</svg>")[0].count
    assert (marks(' real" d='), marks(' hollow" d=')) == (3 * 5, 0)
    assert f"; 12 real edits: efficacy {100 * found.race.parts['rewrite'][5]:.1f}, generalisation" in page
    assert page.count(" real edits: efficacy") == 5
    (tmp_path / "sweep").mkdir()
    scores = torch.rand(6, LAYERS).index_fill(1, torch.tensor(5), 0.1)  # another layer is the sweep's
    sweep = sweep_result(scores, model="tiny <model>", data="sweepset")
    sweep.save(tmp_path / "sweep" / "attribution.json")
    page = render_report(tmp_path)
    marks = page.split("</svg>")[0].count
    assert (marks(' real" d='), marks(' hollow" d=')) == (3 * 5, 3 * LAYERS)
    best, own = (100 * sweep.choice.scores[layer] for layer in (sweep.golden_layer, 5))
    words = Page(page).words
    assert f"Its best layer is {sweep.golden_layer} ({best:.1f})" in words
    assert f"the golden layer 5 has {own:.1f} in it, {best - own:.1f} points less" in words


def test_a_sweep_over_some_layers_has_no_numbers_at_the_others(tmp_path):
    found = partial_sweep(likely_parts(20, LAYERS), [3, 5], settings={"editor": QUICK, "layers": [3, 5]})
    found.save(tmp_path / "attribution.json")
    words = Page(render_report(tmp_path)).words
    (low, high), mean = found.edit_intervals[5], found.edit_scores[5]
    rewrite = 100 * found.means["rewrite"][5]
    for expected in (
        f"Layer {found.golden_layer} : chosen in",
        "Scores by layer, in points, with their 95% intervals layer score efficacy generalisation locality 0 n/a n/a n/a n/a 1 n/a",
        f" 4 n/a n/a n/a n/a 5{' (golden)' * (found.golden_layer == 5)} {mean:.1f} ({low:.0f}…{high:.0f}) {rewrite:.1f} (",
        "Layer 4: score n/a, efficacy n/a",
    ):
        assert expected in words, expected
    chart = curve_chart(found, "score")
    assert [sum(map(len, line.parts)) for line in chart.lines] == [2] * 4
    assert chart.lines[3].dotted
    assert len(chart.marks) == 6


def test_one_request_is_a_sentence(tmp_path):
    locator_result(torch.tensor([[0.0, 1.0]])).save(tmp_path / "attribution.json")
    assert "Layer 1 : one request gives no confidence" in Page(render_report(tmp_path)).words


def test_a_metric_without_prompts_is_not_drawn():
    parts = likely_parts(9, LAYERS)
    parts[:, 1] = torch.nan
    chart = curve_chart(forecast_result(parts, race=race_result(2, [0, 0, 3] + [0] * 9)), "score")
    assert [line.name for line in chart.lines] == [
        "expected efficacy",
        "expected locality",
        "expected score after the race",
    ]
    assert [len(area.parts) for area in chart.areas] == [1, 1]
    assert len(chart.marks) == 2
    assert "nan" not in json.dumps([area.parts for area in chart.areas]).lower()


def test_edits_elsewhere_than_where_the_race_ended_are_named(tmp_path):
    forecast_folder(tmp_path, [0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0])
    for layer, said in ((5, False), (4, True)):
        validation(OUTCOMES, model_name="tiny <model>", layers=[layer]).save(tmp_path / "validation.json")
        words = Page(render_report(tmp_path)).words
        assert ("not at the golden layer 5" in words) is said


def test_drift_has_a_gap_where_there_is_no_number():
    chart = drift_chart([1, 10, 100, 1000], {"rewrite": [1.0, math.nan, 0.5, 0.0], "locality": [math.nan] * 4})
    assert [len(part) for part in chart.lines[0].parts] == [1, 2]
    assert chart.lines[1].parts == []
    steps = [after[0] - before[0] for before, after in pairwise(chart.x_ticks)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.02)  # logarithmic
    assert chart.lines[0].parts[1][-1][1] == chart.bottom


def test_fit_makes_it_and_validate_makes_it_anew(tmp_path, tokenizer):
    found = rows(5)
    found[0]["target_new"] = EVIL
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", found)), batch_size=5)
    made = module(tokenizer, layer="golden")
    trainer(tmp_path, ScoreCollector()).fit(made, datamodule=data)
    first = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Where to edit" in first.words
    assert "What the edits did" not in first.words
    trainer(tmp_path, EditReport(max_new_tokens=3, resamples=10)).validate(made, datamodule=data, verbose=False)
    second = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for words in ("Where to edit", "What the edits did", "In the model's own words", "of 5", EVIL):
        assert words in second.words
    assert second.loads == []
    assert "script" not in second.tags


BROWSER = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))
    ),
    None,
)

# what a page of that width looks like from within, as a JSON object in the element #seen
LOOK = """<!DOCTYPE html><meta charset="utf-8"><iframe width="{width}" height="900" srcdoc="{page}"></iframe><pre id="seen"></pre>
<script>
window.onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const box = (e) => {{ const b = e.getBoundingClientRect(); return [b.width, b.height]; }};
  document.querySelector("#seen").textContent = JSON.stringify({{
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    charts: [...page.querySelectorAll("svg.chart")].map(box),
    bars: [...page.querySelectorAll("rect.bar")].map(box),
    marks: [...page.querySelectorAll("svg.chart path.mark, svg.chart polygon.area")].map(box),
    heading: page.querySelector("h1").textContent,
    scripts: page.querySelectorAll("script").length,
  }});
}};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on PATH")
@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("forecast", [False, True], ids=["bars", "curves"])
def test_in_a_browser(width, forecast, tmp_path):
    fill(tmp_path / "run")
    if forecast:
        forecast_folder(tmp_path / "run", [1] * LAYERS)
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "look.html").write_text(LOOK.format(width=width, page=html.escape(page)), encoding="utf-8")

    def browse(*arguments: str) -> str:
        sandbox = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
        command = [
            BROWSER,
            "--headless",
            "--disable-gpu",
            *sandbox,
            f"--user-data-dir={tmp_path / 'profile'}",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
        return done.stdout

    dumped = browse("--dump-dom", "--virtual-time-budget=5000", (tmp_path / "look.html").as_uri())
    seen = json.loads(html.unescape(dumped.split('<pre id="seen">')[1].split("</pre>")[0]))
    assert seen["overflow"] == 0  # wide tables scroll by themselves, not the page
    assert len(seen["charts"]) == 2
    assert all(side > (200 if width > 800 else 120) for chart in seen["charts"] for side in chart)
    assert len(seen["bars"]) == (0 if forecast else LAYERS)
    assert sum(height > 1 for _, height in seen["bars"]) >= len(seen["bars"]) / 2
    assert len(seen["marks"]) == (3 + 2 * 3 * LAYERS if forecast else 0)  # bands, edits of the race and of the sweep
    assert all(side > (3 if width > 800 else 1.5) for mark in seen["marks"] for side in mark)
    assert seen["heading"].startswith("Layer")
    assert seen["scripts"] == 0
    browse(
        f"--screenshot={tmp_path / 'page.png'}",
        f"--window-size={width},900",
        (tmp_path / "run" / "report.html").as_uri(),
    )
    assert (tmp_path / "page.png").stat().st_size > 20_000
