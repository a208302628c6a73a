"""The page of a comparison: whole, self-contained, escaped, and the same in Markdown."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import pytest

from insight_rl.compare import figures, speedup
from insight_rl.compare.report import analyse_folders, headline, write_report
from insight_rl.compare.results import CURVE_COLUMNS
from insight_rl.compare.speedup import COLUMNS
from insight_rl.errors import UsageError
from insight_rl.report.blocks import Bullets, Code, Heading, Picture, Table, Text, Warning, to_html, to_markdown


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "br", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two settings on one page; one has a run that failed with a hostile reason."""
    from tests.unit.compare.conftest import write_comparison

    root = tmp_path_factory.mktemp("report")
    speeds = {"random": 1.0, "insight": 2.0, "same": 1.0}
    first = write_comparison(root / "a", setting="a", speeds=speeds, num_seeds=5)
    second = write_comparison(root / "b", setting="b", speeds=speeds, num_seeds=5)
    reason = "</td><script>alert(1)</script> | ![x](http://example.org/x.png)"
    (second / "status.json").write_text(json.dumps({"failed": {"same_seed1": reason}}))
    (second / "versions.json").write_text(json.dumps({"torch": "2.13"}))
    rows = [f"b,{arm},learner.lr,{lr},100,area,0.3{i},{i}\n" for arm in speeds for i, lr in enumerate(("1e-4", "3e-4"))]
    (second / "tuning.csv").write_text("setting,selector,key,value,seed,metric,result,chosen\n" + "".join(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speedup, "NUM_RESAMPLES", 200)
        files = write_report(analyse_folders([first, second]), into=root / "both")
    return root, files


def test_every_file_is_there(written):
    root, files = written
    assert [file.name for file in files[:5]] == [
        "report.html",
        "report.md",
        "differences.csv",
        "speedup.csv",
        "comparison_curves.csv",
    ]
    pictures = {f"{name}_{setting}.png" for name in ("curves", "arms", "speedup", "rollouts") for setting in "ab"}
    assert {file.name for file in files[5:]} == {"differences.png", *pictures}
    assert all(file.parent == root / "both" and file.stat().st_size > 100 for file in files)


def test_the_page_is_whole_and_needs_nothing_else(written):
    _, files = written
    text = files[0].read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.stack == [] and "script" not in reader.tags
    assert reader.tags.count("svg") == 9
    assert all(link.startswith("#") for link in reader.links)
    assert "url(http" not in text and "@import" not in text
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert {link[1:] for link in reader.links} <= ids
    for phrase in (
        "Which arm learns more than random? Settings a, b",
        "Better than random: insight",
        "Level with random within 1 point: same",
        "Setting b: 1 of 15 planned runs are in no number",
        "same_seed1",
        "alert(1)",
        "learner.lr",
        "torch 2.13",
        "insight-rl compare report=",
    ):
        assert phrase in reader.text, phrase


def test_every_column_is_explained(written):
    _, files = written
    text = files[0].read_text()
    tables = re.findall(r"<table>.*?</div>(?:<dl>.*?</dl>)?", text, re.DOTALL)
    assert len(tables) > 10
    for table in tables:
        columns = re.findall(r'<th scope="col">(.*?)</th>', table)
        assert re.findall(r"<dt>(.*?)</dt>", table) == columns[1:]


def test_markdown_says_the_same_and_makes_no_link_of_a_reason(written):
    _, files = written
    text = files[1].read_text()
    assert "<script>" not in text and not re.search(r"(?<!\\)\]\(http", text)
    pictures = re.findall(r"^!\[.*\]\((.+\.png)\)$", text, re.MULTILINE)
    assert len(pictures) == 9 and all((files[1].parent / name).is_file() for name in pictures)
    rows = [line for line in text.splitlines() if line.startswith("| insight |")]
    assert any(" better |" in row for row in rows)
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_the_tables_behind_the_page(written):
    _, files = written
    with files[3].open() as file:
        speed_ups = list(csv.DictReader(file))
    assert tuple(speed_ups[0]) == COLUMNS
    wanted = {(s, a, "random", x) for s in "ab" for a in ("insight", "same") for x in ("steps", "tokens")}
    assert wanted <= {(r["setting"], r["selector"], r["baseline"], r["axis"]) for r in speed_ups}
    insight = next(r for r in speed_ups if (r["selector"], r["axis"]) == ("insight", "steps"))
    assert float(insight["low"]) < 2.0 < float(insight["high"]) and insight["seeds"] == "5"
    with files[2].open() as file:
        differences = list(csv.DictReader(file))
    assert len([r for r in differences if r["primary"] == "1"]) == 4
    with files[4].open() as file:
        curves = list(csv.DictReader(file))
    assert tuple(curves[0]) == CURVE_COLUMNS
    assert len(curves) == 11 * (15 + 14)
    assert curves[0]["informative_fraction"] == "" and float(curves[1]["tokens"]) == 10_000


def test_the_headline_has_a_row_for_each_arm(written):
    root, _ = written
    lines = headline(analyse_folders([root / "a"])).splitlines()
    assert lines[0] == (
        "setting a: area of accuracy at 100k generated tokens, points above random (95 % interval, 5 seeds)"
    )
    assert re.match(r"  insight +\+\d\.\d\d \(.*\)  better; \d\.\d\dx \(.*\) by tokens$", lines[1])
    assert "level within 1 point" in lines[2]


def test_two_folders_of_one_setting_are_refused(comparison):
    with pytest.raises(UsageError, match="setting b is there twice"):
        analyse_folders([comparison("one"), comparison("two")])


def test_every_text_is_escaped(tmp_path):
    hostile = "<b>&\"'|[x](y)`*"
    picture = Picture(tmp_path / "p.png", "<svg></svg>", hostile)
    blocks = [
        Heading(1, hostile),
        Text(hostile),
        Warning(hostile),
        Bullets([hostile]),
        Table([(hostile, hostile)], [[hostile], [hostile * 5]]),
        picture,
        Code(hostile),
    ]
    page = to_html(hostile, blocks)
    assert "<b>" not in page
    reader = Reader()
    reader.feed(page)
    assert reader.stack == [] and reader.text.count(hostile) >= 8
    text = to_markdown(blocks[1:2])
    assert text == "&lt;b&gt;&amp;\"'\\|\\[x\\](y)\\`\\*\n"
    assert to_markdown(blocks).count("<b>") == 1, "only the block of code, which is indented, has text as it is"


def test_mean_curves_end_with_the_first_seed_and_have_t_intervals():
    from tests.unit.compare.test_speedup import curve

    same = [curve([0.1, 0.2, 0.4]), curve([0.1, 0.4, 0.4])]
    x, mean, half = figures.mean_curve(same, "steps")
    assert x.tolist() == [0.0, 10.0, 20.0] and mean.tolist() == pytest.approx([0.1, 0.3, 0.4])
    # t(0.975, 1) = 12.706, standard error 0.1.
    assert half.tolist() == pytest.approx([0.0, 1.2706, 0.0], abs=1e-4)
    x, mean, _ = figures.mean_curve([same[0], curve([0.1, 0.2, 0.4], scale=0.5)], "tokens")
    assert x[-1] == 1000.0 and mean[-1] == pytest.approx((0.2 + 0.4) / 2)
