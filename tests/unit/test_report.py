"""The report: nothing a model wrote becomes markup, nothing is fetched, nothing is half-written."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.errors import RunDirectoryError
from agentdistill.evaluation.charts import interval_bar, loss_chart
from agentdistill.evaluation.report import (
    Accuracy,
    Difference,
    Example,
    RenderedAttempt,
    RenderedStep,
    ReportData,
    StageTiming,
    render,
    write_report,
)

HOSTILE = (
    "</pre></style></svg><script src='https://x.example/'>alert(1)</script><img src=x onerror=alert(2)>\"'&"
)


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that what opens is closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def report(text):
    return ReportData(
        title=text,
        subtitle=text,
        facts={text: text},
        accuracies=[Accuracy(text, text, text, 3, 4, 0.3, 0.95, text)],
        differences=[Difference(text, text, 0.5, 0.1, 0.9, 3, 1, text)],
        losses={text: [(1, 1.5), (2, 1.25)]},
        counts={text: {text: 3}},
        examples=[
            Example(
                text,
                text,
                [RenderedAttempt(text, [RenderedStep(text, text, text)], text, correct=False)] * 2,
                text,
            )
        ]
        * 6,
        examples_title=text,
        timings=[StageTiming(text, 75.0, 1200, 34, text)],
        provenance={text: text},
    )


def test_hostile_text_stays_text():
    harmless, hostile = Page(render(report("x"))), Page(render(report(HOSTILE)))
    assert hostile.tags == harmless.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
    assert hostile.text.count(HOSTILE) >= 15
    assert hostile.open == []


@given(st.text())
def test_any_text_keeps_the_page_whole(text):
    page = Page(render(report(text)))
    assert page.tags == Page(render(report("x"))).tags or not text.strip()
    assert page.open == []


def test_page_asks_for_nothing():
    page = Page(render(report("x")))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "xlink:href"} & {name for name, _ in page.attributes}
    assert "url(" not in render(report("x")) and "@import" not in render(report("x"))


def test_numbers_are_shown():
    text = Page(render(report("x"))).text
    assert "75.0 %" in text and "3 of 4" in text and "30.0 % – 95.0 %" in text
    assert "+50.0 points" in text and "+10.0 to +90.0; better" in text
    assert "1 min 15 s" in text and "1,200" in text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.1, 0.3, "no difference shown"), (-0.3, -0.1, "worse"), (0.1, 0.3, "better")],
)
def test_a_difference_says_what_its_interval_allows(low, high, words):
    page = render(ReportData("t", differences=[Difference("d", "b", (low + high) / 2, low, high, 1, 1)]))
    assert words in page


def test_several_runs_and_benchmarks_have_a_table_of_their_own():
    rows = [Accuracy(who, "m", b, 1, 4, 0.0, 0.5) for who in ("x", "y") for b in ("gsm8k", "bbh")]
    page = Page(render(ReportData("t", accuracies=rows[:3])))
    assert "At a glance" in page.text and page.text.count("0–50") == 3  # y has no bbh
    assert "At a glance" not in render(ReportData("t", accuracies=rows[:2]))


def test_counts_are_bars_of_one_scale():
    page = render(ReportData("t", counts={"Steps": {"1 step": 30, "2 steps": 15}, "Nothing": {}}))
    assert 'width="100.00"' in page and 'width="50.00"' in page
    assert "Nothing" not in page


def test_examples_beyond_the_first_are_folded():
    page = Page(render(report("x")))
    assert page.tags.count("article") == 6
    assert page.tags.count("details") == page.tags.count("summary") == 2


def test_empty_parts_are_left_out():
    assert "h2" not in Page(render(ReportData("only a title"))).tags


def test_no_answer_and_no_tasks():
    data = ReportData(
        "t",
        accuracies=[Accuracy("a", "m", "b", 0, 0, 0.0, 1.0)],
        examples=[Example("q", "1", [RenderedAttempt("before", [], None, correct=False)])],
    )
    assert "no answer" in render(data) and "0 of 0" in render(data)


def test_long_text_is_cut_and_says_so():
    step = RenderedStep(observation="y" * 100_000)
    page = render(ReportData("t", examples=[Example("q", "1", [RenderedAttempt("a", [step], "1", True)])]))
    assert len(page) < 30_000 and "94,000 characters more" in page


def test_a_curve_that_breaks_is_still_drawn():
    chart = loss_chart({"a": [(1, 2.0), (2, float("nan")), (3, float("inf")), (4, 0.0)], "b": []})
    assert "nan" not in chart and "inf" not in chart and "path" in chart
    assert loss_chart({"a": [(1, float("nan"))]}) == ""
    assert "path" in loss_chart({"a": [(0, 0.0)]})


def test_bars_stay_inside():
    assert 'width="100.00"' in interval_bar(1.7, -3, 9)


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run/report.html"
    write_report(path, report("x \ud800"))
    assert path.read_text().startswith("<!doctype html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot write the report"):
        write_report(tmp_path / "file/report.html", report("x"))
