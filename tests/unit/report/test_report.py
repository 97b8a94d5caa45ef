"""The report, on run folders that are made by hand."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tests.support.runs import CLASSES, FORGOTTEN, HOSTILE, TRIALS, finished_run

from unfreeze.cli.train import _report
from unfreeze.errors import RunError
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.significance import changed
from unfreeze.explain import encoded
from unfreeze.files import write_bytes, write_table, write_text
from unfreeze.report import photos, prediction_sections, result_sections, training_sections, write_report
from unfreeze.report.elements import Gallery, Plot, Section, Table, Text
from unfreeze.report.plots import draw_alphas
from unfreeze.report.run_data import ARM_NAMES, RunData, read_run_data
from unfreeze.runs.folder import RunFolder

ALL = [
    "Verdict", "Scores", "What was tried", "Forgetting", "Training", "Confusion", "Classes", "Reliability", "Photos",
    "Data", "Run",
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of the page: its tags with their attributes, its text, its headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.headings: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._inside == "h2":
            self.headings.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(folder: RunFolder) -> Page:
    return Page(write_report(folder).read_text("utf-8"))


def tables(section: Section | None) -> list[Table]:
    assert section is not None
    return [part for part in section.parts if isinstance(part, Table)]


def texts(section: Section | None) -> str:
    assert section is not None
    return " ".join(part.text for part in section.parts if isinstance(part, Text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def run(folder: RunFolder) -> RunData:
    return read_run_data(folder)


def test_every_section_is_there_in_order(folder: RunFolder) -> None:
    shown = page(folder)
    assert shown.headings == ALL
    assert [link["href"] for link in shown.named("a")] == [f"#{section['id']}" for section in shown.named("section")]
    assert {path.name for path in folder.plots.iterdir()} == {
        f"{name}.png" for name in ("scores", "tried", "cka", "training", "confusion", "reliability")
    }
    assert folder.plots.joinpath("scores.png").read_bytes().startswith(b"\x89PNG")
    assert any(hashlib.sha256(b"weights").hexdigest() in text for text in shown.text)


def test_names_are_text_whatever_they_are(folder: RunFolder) -> None:
    shown = page(folder)
    assert any(HOSTILE in text for text in shown.text)
    assert {tag for tag, _ in shown.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer", "h1", "h2", "h3",
        "p", "ul", "li", "a", "div", "span", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure",
        "figcaption", "img",
    }  # fmt: skip
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
    assert len(shown.named("img")) > 6
    for image in shown.named("img"):
        assert re.match(r"data:image/(png|jpeg);base64,", image["src"] or "")
        assert image["alt"]


def test_nothing_is_loaded_from_elsewhere(folder: RunFolder) -> None:
    written = write_report(folder).read_text("utf-8")
    assert not re.search(r"https?:", written)
    shown = Page(written)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in shown.tags}
    assert not [a for _, a in shown.tags if {"srcset", "action", "style"} & set(a)]
    assert all((link["href"] or "").startswith("#") for link in shown.named("a"))
    (policy,) = (meta for meta in shown.named("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not re.search(r"url\(|@import", written)


def test_tables_can_be_read_aloud(folder: RunFolder) -> None:
    shown = page(folder)
    assert len(shown.named("caption")) == len(shown.named("table")) > 8
    assert {heading["scope"] for heading in shown.named("th")} == {"col", "row"}


def test_the_page_is_the_same_when_it_is_written_again(folder: RunFolder) -> None:
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_report_is_not_replaced_by_one_with_less(tmp_path: Path) -> None:
    folder, source = finished_run(tmp_path), tmp_path / "photos"
    rows = [
        (path.relative_to(source).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest(), "")
        for path in sorted(source.rglob("*.png"))
    ]
    write_table(folder.photos, ["file_name", "sha256", "fingerprint"], rows)
    whole = write_report(folder).read_bytes()
    moved = tmp_path / "moved"
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        (moved / "all").mkdir(parents=True, exist_ok=True)
        path.rename(moved / "all" / f"{number}.png")
    with pytest.raises(RunError, match=r"would lose \d+ of its photos[\s\S]*--photos"):
        write_report(folder)
    assert folder.report.read_bytes() == whole
    assert write_report(folder, moved).read_bytes() == whole
    folder.history.unlink()
    with pytest.raises(RunError, match="would lose the parts 'training'"):
        write_report(folder, moved)
    folder.report.unlink()
    assert b"photos are not shown" in write_report(folder).read_bytes()


def test_head_only_has_neither_gain_nor_search_nor_curves(tmp_path: Path) -> None:
    shown = page(finished_run(tmp_path, second=False, shipped="head_only", forgotten=None))
    assert shown.headings == [name for name in ALL if name not in ("What was tried", "Forgetting", "Training")]
    assert any("no gain to report" in text for text in shown.text)
    assert not any("that phase 2 fixed" in text for text in shown.text)


def test_what_is_gone_from_the_folder_is_not_shown(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, drawn=False)
    for path in (folder.predictions, folder.history, folder.splits, folder.checks, folder.args, folder.weights):
        path.unlink()
    shown = page(folder)
    assert shown.headings == [n for n in ALL if n not in ("Training", "Confusion", "Reliability", "Photos")]


def test_where_the_folds_chose_differently_what_is_chosen_has_a_column(tmp_path: Path) -> None:
    run = read_run_data(finished_run(tmp_path, cross_fitted=True, drawn=False))
    scores = result_sections.scores(run)
    assert tables(scores)[0].header == ("score", "head-only", "two-phase", "as it is chosen")
    assert tables(scores)[0].rows[0][-1].startswith("0.715 (")
    assert "each answered by a model that never saw it" in tables(scores)[0].caption
    assert "includes the choice" in texts(scores)
    assert run.verdict.scores.two_phase is not None
    assert run.scores == run.verdict.scores.two_phase  # what confusion and classes are of
    assert "test photos" not in texts(prediction_sections.reliability(run))


def test_the_gain_is_the_verdicts(run: RunData) -> None:
    gained = run.verdict.gain
    assert gained is not None
    accuracy, *_ = tables(result_sections.scores(run))[1].rows
    assert accuracy[1].startswith(f"{gained.accuracy * 100:+.1f} (")
    assert accuracy[2] == f"{gained.p_value:.2g}"
    assert f"fixed {gained.fixed} photo" in texts(result_sections.scores(run))


def test_what_ships_is_marked_among_what_was_tried(run: RunData) -> None:
    section = training_sections.trials(run)
    (table,) = tables(section)
    assert [row[:4] for row in table.rows][1:4] == [
        ("blocks.6", "0.0003", "12", "0.5"), ("blocks.5", "0.0003", "20", "0"), ("blocks.5", "0.0003", "20", "0.5"),
    ]  # fmt: skip
    assert table.marked == {3}
    # The first way is an earlier version's.
    assert [row[-3:] for row in table.rows] == [
        ("-", "-", "-"), ("-", "-", "-"), ("-", "-", "-"), ("+2.3", "+3.1 ± 2.0", "6 %"), ("+1.2", "+1.2 ± 3.0", "34 %"),
    ]  # fmt: skip
    assert "highest expected gain" in texts(section)
    assert "slightly optimistic" in texts(section)


def test_the_plot_of_what_was_tried_has_the_expected_gain_with_its_spread() -> None:
    points = TRIALS[1].points
    gains, accuracy, loss = draw_alphas({"1": points}, ("1", 0.5)).axes
    bars, measured = gains.containers[0], gains.lines[-2]
    line, _, (spread,) = bars
    assert list(line.get_xdata()) == [0.5, 1]
    np.testing.assert_allclose(np.array(line.get_ydata(), float), [3.1, 1.2])
    np.testing.assert_allclose([segment[:, 1] for segment in spread.get_segments()], [[1.1, 5.1], [-1.8, 4.2]])
    np.testing.assert_allclose(np.array(measured.get_ydata(), float), [0, 10, 8], atol=1e-9)
    assert (measured.get_alpha() or 1) < 1
    assert len(accuracy.lines) == len(loss.lines) == 2  # the line and the ring


def test_no_axis_of_accuracies_passes_1() -> None:
    perfect = [point.model_copy(update={"accuracy": 1.0, "expected": None}) for point in TRIALS[1].points]
    accuracy, _ = draw_alphas({"1": perfect}, None).axes  # without expectations there is no panel of them
    assert accuracy.get_ylim()[1] == 1.0
    assert not accuracy.lines[0].get_clip_on()  # markers at 1 are drawn in full


def test_a_search_that_nobody_judged_has_no_plot(run: RunData) -> None:
    unjudged = run.verdict.model_copy(
        update={"trials": (TRIALS[0].model_copy(update={"points": ()}),), "shipped": "head_only"}
    )
    section = training_sections.trials(replace(run, verdict=unjudged))
    assert section is not None
    assert not [part for part in section.parts if isinstance(part, Plot)]
    assert tables(section)[0].rows == (("blocks.6", "0.0003", "12", *["-"] * 7),)
    assert tables(section)[0].marked == frozenset()


@pytest.mark.parametrize(
    ("found", "rows", "plotted"),
    [
        (FORGOTTEN, 5, 1),
        (replace(FORGOTTEN, drop=None, top5_drop=None, cka={}), 3, 0),
        (Forgetting(agreement=0.5), 0, 0),
    ],
)
def test_only_what_was_measured_of_forgetting_is_shown(
    run: RunData, found: Forgetting, rows: int, plotted: int
) -> None:
    section = result_sections.forgetting(replace(run, verdict=run.verdict.model_copy(update={"forgetting": found})))
    assert section is not None
    assert sum(len(table.rows) for table in tables(section)) == rows
    assert sum(isinstance(part, Plot) for part in section.parts) == plotted
    assert "None" not in str([part for part in section.parts if isinstance(part, Table)])


def test_forgetting_that_was_not_measured_is_no_section(run: RunData) -> None:
    assert (
        result_sections.forgetting(replace(run, verdict=run.verdict.model_copy(update={"forgetting": Forgetting()})))
        is None
    )


def test_the_confusion_is_sklearns(run: RunData) -> None:
    assert run.predictions is not None
    assert run.probabilities is not None
    expected = confusion_matrix(run.predictions.labels, run.probabilities.argmax(axis=1), labels=range(3))
    (table,) = tables(prediction_sections.confusion(run))
    counted = np.array([[int(cell.split()[0]) for cell in row[1:]] for row in table.rows])
    assert np.array_equal(counted, expected)
    assert table.header[1:] == CLASSES
    assert run.scores.confusion is not None
    assert np.array_equal(counted, run.scores.confusion)
    assert table.rows[0][1] == f"{expected[0, 0]} ({expected[0, 0] / expected[0].sum() * 100:.0f} %)"


def test_classes_are_sklearns_and_the_weakest_first(run: RunData) -> None:
    assert run.predictions is not None
    assert run.probabilities is not None
    (table,) = tables(prediction_sections.classes(run))
    labels, answer = run.predictions.labels, run.probabilities.argmax(axis=1)
    precision, recall, f1, n = precision_recall_fscore_support(labels, answer)
    order = np.argsort(f1, kind="stable")
    assert [row[0] for row in table.rows] == [CLASSES[label] for label in order]
    assert [tuple(cell.split(" ")[0] for cell in row[1:]) for row in table.rows] == [
        (str(n[k]), f"{recall[k]:.3f}", f"{precision[k]:.3f}", f"{f1[k]:.3f}") for k in order
    ]


def test_reliability_bins_are_those_of_the_hand() -> None:
    stated = np.array([[0.55, 0.45], [0.58, 0.42], [0.3, 0.7], [0.05, 0.95], [1.0, 0.0]])
    bins = prediction_sections.binned(np.array([0, 1, 1, 1, 0]), stated)
    assert bins.counts.tolist() == [0, 0, 0, 0, 0, 2, 1, 0, 0, 2]  # 0.7 is the end of the bin from 0.6 on
    assert bins.confidence.tolist() == pytest.approx([0, 0, 0, 0, 0, 0.565, 0.7, 0, 0, 0.975])
    assert bins.accuracy.tolist() == [0, 0, 0, 0, 0, 0.5, 1, 0, 0, 1]


def test_photos_are_those_that_changed(run: RunData) -> None:
    section, said, gained = photos.photos(run), run.predictions, run.verdict.gain
    assert section is not None
    assert said is not None
    assert gained is not None
    fixed, broken, wrong = (part for part in section.parts if isinstance(part, Gallery))
    assert (fixed.heading, broken.heading) == (
        f"{gained.fixed} photos that phase 2 fixed", f"{gained.broken} photos that phase 2 broke",
    )  # fmt: skip
    assert wrong.heading.endswith("photos that the two-phase model gets wrong")
    number = {name: i for i, name in enumerate(said.file_names)}
    for gallery, before, after in ((fixed, False, True), (broken, True, False), (wrong, None, False)):
        assert 0 < len(gallery.photos) <= 12
        for photo in gallery.photos:
            i = number[photo.file_name]
            assert photo.jpeg is not None
            assert photo.jpeg.startswith(b"\xff\xd8")
            assert photo.label == CLASSES[said.labels[i]]
            assert (said.arms["two_phase"][i].argmax() == said.labels[i]) == after
            assert before is None or (said.arms["head_only"][i].argmax() == said.labels[i]) == before
    sureness = [said.arms["two_phase"][number[photo.file_name]].max() for photo in wrong.photos]
    assert sureness == sorted(sureness, reverse=True)


def test_heatmaps_stand_beside_the_photos_that_phase_two_changed(tmp_path: Path) -> None:
    folder = finished_run(tmp_path)
    before = page(folder)
    assert not [a for a in before.named("img") if "with the evidence for" in (a["alt"] or "")]
    run = read_run_data(folder)
    said = run.predictions
    assert said is not None
    changes = changed(said.labels, said.arms["head_only"], said.arms["two_phase"])
    rows = [int(i) for which in changes for i in which[:12]]
    for row in rows[1:]:
        write_bytes(folder.heatmap(row), f"heat {row}".encode())
    write_bytes(folder.heatmap(999), b"of no photo")
    (tmp_path / "photos" / said.file_names[rows[1]]).unlink()
    section = photos.photos(read_run_data(folder))
    assert section is not None
    fixed, broken, wrong = (part for part in section.parts if isinstance(part, Gallery))
    assert (fixed.wide, broken.wide, wrong.wide) == (True, True, False)
    number = {name: i for i, name in enumerate(said.file_names)}
    for photo in (*fixed.photos, *broken.photos):
        row = number[photo.file_name]
        answers = [f"{name}: {CLASSES[said.arms[arm][row].argmax()]}" for arm, name in ARM_NAMES.items()]
        if row == rows[0]:  # it has none, and is shown as before
            assert photo.jpeg is not None
            assert photo.jpeg.startswith(b"\xff\xd8")
            assert (photo.columns, len(photo.predictions)) == ((), 2)
        else:
            assert photo.jpeg == f"heat {row}".encode()
            assert photo.columns[0] == "the photo"
            assert [column.rpartition(" ")[0] for column in photo.columns[1:]] == answers
            assert photo.predictions == ()
    assert not any(photo.columns for photo in wrong.photos)
    assert texts(section).startswith("Photos that phase 2 fixed or broke are shown three times")
    shown = page(folder)
    assert sum("with the evidence for" in (a["alt"] or "") for a in shown.named("img")) == len(rows) - 1


def test_a_photo_that_is_gone_or_damaged_becomes_a_text(tmp_path: Path) -> None:
    folder = finished_run(tmp_path)
    section = photos.photos(read_run_data(folder))
    assert section is not None
    gone, damaged, _ = (part.photos[0].file_name for part in section.parts if isinstance(part, Gallery))
    (tmp_path / "photos" / gone).unlink()
    (tmp_path / "photos" / damaged).write_bytes(b"no photo")
    shown = page(folder)
    assert sum("no photo to show" in text for text in shown.text) >= 2
    assert any("shown: they were moved" in text for text in shown.text)


@pytest.mark.slow
def test_many_classes_and_photos_stay_small(tmp_path: Path) -> None:
    classes = [f"a kind of bird that has a long name, number {number}" for number in range(100)]
    folder = finished_run(tmp_path, classes=classes, count=5000, drawn=False)
    run = read_run_data(folder)
    (table,) = tables(prediction_sections.confusion(run))
    assert len(table.rows) == 20
    counts = [int(row[2]) for row in table.rows]
    assert counts == sorted(counts, reverse=True)
    assert run.predictions is not None
    assert run.probabilities is not None
    most = confusion_matrix(run.predictions.labels, run.probabilities.argmax(axis=1))
    np.fill_diagonal(most, 0)
    assert counts[0] == most.max()
    section = photos.photos(run)
    assert section is not None
    random = np.random.default_rng(0)
    for name in {photo.file_name for part in section.parts if isinstance(part, Gallery) for photo in part.photos}:
        place = tmp_path / "photos" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (160, 160, 3), np.uint8)).save(place)  # noise is what packs worst
    assert run.predictions is not None
    changes = changed(run.predictions.labels, run.predictions.arms["head_only"], run.predictions.arms["two_phase"])
    for row in (int(i) for which in changes for i in which[:12]):
        noise = Image.fromarray(random.integers(0, 255, (256, 780, 3), np.uint8))
        write_bytes(folder.heatmap(row), encoded(noise, "JPEG"))
    written = write_report(folder).read_text("utf-8")
    assert written.count("data:image/jpeg") == 36
    assert len(written) < 8e6


def test_a_matrix_of_forty_classes_is_drawn(tmp_path: Path) -> None:
    classes = [f"{number:02} 雪" for number in range(40)]  # the plots' font lacks the letter: that is no warning
    section = prediction_sections.confusion(
        read_run_data(finished_run(tmp_path, classes=classes, count=400, drawn=False))
    )
    assert section is not None
    (drawn,) = (part for part in section.parts if isinstance(part, Plot))
    assert drawn.wide


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("predictions", "file_name,label,head_only:=cmd\na,stranger,1\n"),
        ("predictions", "file_name,label\na\n"),
        ("history", "phase,epoch\n2,1\n"),
        ("args", "photos ="),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = finished_run(tmp_path, drawn=False)
    path = getattr(folder, name)
    write_text(path, content)
    with pytest.raises(RunError, match=re.escape(path.name)):
        write_report(folder)
    assert not folder.report.exists()


def test_a_run_has_not_failed_where_its_report_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_run(tmp_path, drawn=False)
    write_text(folder.predictions, "file_name,label\na\n")
    assert _report(folder) is None
    assert f"`unfreeze report {folder.root}` tries again" in capsys.readouterr().err
