"""The served page and the report in a real Chromium: what people see, hear and can do; nothing loaded, nothing run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    Dialog,
    FileChooser,
    FilePayload,
    Locator,
    Page,
    TimeoutError,
    expect,
    sync_playwright,
)
from tests.support.photos import noise, packed
from tests.support.runs import finished_run
from tests.support.serving import running, served

from unfreeze.report import write_report
from unfreeze.serve.app import create_app
from unfreeze.serve.guard import own_names
from unfreeze.serve.limits import Limits

pytestmark = pytest.mark.usefixtures("one_thread")

ATTACK = "<img src=x onerror=alert(1)>"
HOSTILE = (
    f"{ATTACK}",
    "<script>alert(1)<\\script>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "${alert(1)}",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "\u202egpj.exe\u2066",
    "=cmd|' !A1",
    "]]><!-- -->",
    "https:\\evil.example\\x.png",
    "a" * 180,
    "名前 \u0301\U0001f600",
)
CLASSES = tuple(f"{name} class" for name in HOSTILE)
LIMITS = Limits(upload=100_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; without it the test is skipped, and on CI it fails."""
    program = os.environ.get("UNFREEZE_CHROMIUM") or shutil.which("chromium")
    if program is None:
        message = "There is no chromium, and UNFREEZE_CHROMIUM names none"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = served(tmp_path_factory.mktemp("runs") / ATTACK, CLASSES)
    with running(create_app(model, own_names("127.0.0.1"), LIMITS)) as where:
        yield where


@dataclass
class Watched:
    """A page, and everything that it must not do."""

    page: Page
    own: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("dialog", self._dismiss)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        self.page.on("console", lambda line: self.wrong.append(f"console {line.text}"))
        self.page.on("request", lambda request: self._watch(request.url))

    def _dismiss(self, dialog: Dialog) -> None:
        self.wrong.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _watch(self, url: str) -> None:
        if not url.startswith((self.own, "data:")):
            self.wrong.append(f"request {url}")


@contextmanager
def opened(browser: Browser, url: str, own: str, *, told: str = "") -> Iterator[Page]:
    """Open a page, and see at the end that it did nothing wrong; ``told``: what Chromium says of a refused request."""
    watched = Watched(browser.new_page(), own)
    watched.page.goto(url)
    yield watched.page
    watched.page.close()
    assert [line for line in watched.wrong if not told or told not in line] == []


def choose(page: Page, *photos: tuple[str, bytes]) -> None:
    page.get_by_label("choose them").set_input_files([payload(*photo) for photo in photos])


def payload(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "", "buffer": content}


def carry(page: Page, event: str, *photos: tuple[str, bytes]) -> None:
    """Drop or paste photos: what the browser makes of a real one."""
    page.evaluate(
        """([kind, photos]) => {
            const data = new DataTransfer();
            for (const [name, bytes] of photos) data.items.add(new File([new Uint8Array(bytes)], name));
            const made = kind === "paste"
                ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true })
                : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(made);
        }""",
        [event, [[name, list(content)] for name, content in photos]],
    )


def chooser_by_key(page: Page, tries: int = 3) -> FileChooser:
    """Press Space on the input: Chromium ignores a key that a busy machine lets go more than 5 s later, so press again."""
    for _ in range(tries):
        with suppress(TimeoutError):
            with page.expect_file_chooser(timeout=15_000) as chooser:
                page.keyboard.press("Space")
            return chooser.value
    pytest.fail("Space opens no file chooser")


def answers(page: Page) -> Locator:
    return page.locator("#answers > li")


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def test_a_chosen_photo_is_answered(browser: Browser, address: str) -> None:
    with opened(browser, address, address) as page:
        assert not page.get_by_role("heading", name="Answers").is_visible()
        choose(page, ("photo.png", packed(noise())))
        expect(answers(page)).to_have_count(1)
        expect(status(page)).to_contain_text("photo.png: ")
        (card,) = answers(page).all()
        assert card.get_by_role("heading").inner_text() == "photo.png"
        label = card.locator(".lead .label").inner_text()
        assert label in CLASSES
        rows = card.get_by_role("row").all()
        assert len(rows) == 5
        assert rows[0].get_by_role("rowheader").inner_text() == label
        shares = [float(row.locator("td.number").inner_text().strip("<> %")) for row in rows]
        assert shares == sorted(shares, reverse=True)
        for row, share in zip(rows, shares, strict=True):
            whole, bar = row.locator(".bar").bounding_box(), row.locator(".bar div").bounding_box()
            assert whole is not None
            assert bar is not None
            assert bar["width"] / whole["width"] == pytest.approx(share / 100, abs=0.02)
        for image in card.get_by_role("img").all():
            assert image.evaluate("image => image.complete && image.naturalWidth") == 16
            assert "photo.png" in (image.get_attribute("alt") or "")
        card.get_by_text("9 more classes").click()
        expect(card.get_by_role("row")).to_have_count(len(CLASSES))


def test_photos_are_dropped_pasted_and_chosen_again_the_newest_first(browser: Browser, address: str) -> None:
    with opened(browser, address, address) as page:
        carry(page, "dragover")
        assert "over" in (page.locator("#drop").get_attribute("class") or "")
        carry(page, "drop", ("1.png", packed(noise(1))), ("2.jpg", packed(noise(2), "JPEG")))
        assert "over" not in (page.locator("#drop").get_attribute("class") or "")
        carry(page, "paste", ("3.tif", packed(noise(3), "TIFF")))
        expect(answers(page)).to_have_count(3)
        for _ in range(2):
            choose(page, ("4.webp", packed(noise(4), "WEBP")))
        expect(answers(page)).to_have_count(5)
        titles = [card.get_by_role("heading").inner_text() for card in answers(page).all()]
        assert titles == ["4.webp", "4.webp", "3.tif", "2.jpg", "1.png"]


def test_it_is_worked_with_the_keyboard_alone(browser: Browser, address: str) -> None:
    with opened(browser, address, address) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files"
        chooser_by_key(page).set_files(payload("a.png", packed(noise())))
        expect(answers(page)).to_have_count(1)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.localName") == "summary"
        page.keyboard.press("Enter")
        expect(answers(page).get_by_role("row")).to_have_count(len(CLASSES))
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "forget"
        page.keyboard.press("Enter")
        expect(answers(page)).to_have_count(0)
        assert page.evaluate("document.activeElement.id") == "files"
        expect(status(page)).to_have_text("The answers are forgotten.")


def test_an_error_is_said_by_the_photos_name(browser: Browser, address: str) -> None:
    wrong = {
        f"{ATTACK}.jpg": (b"no photo", "no photo in a format"),
        "cut.png": (packed(noise())[:-300], "truncated"),
        "empty.png": (b"", "empty"),
        "long.png": (bytes(100_001), "It has 0.1 MB, and no more than 0.1 MB are taken."),
        "longer on its way.png": (bytes(99_990), "More than 0.1 MB are not taken at once"),
    }
    with opened(browser, address, address, told="the server responded with a status of 4") as page:
        choose(page, *((name, content) for name, (content, _) in wrong.items()), ("good.png", packed(noise())))
        expect(answers(page)).to_have_count(len(wrong) + 1)
        good, *bad = answers(page).all()
        assert good.get_by_role("heading").inner_text() == "good.png"
        for card, (name, (_, says)) in zip(reversed(bad), wrong.items(), strict=True):
            assert card.get_by_role("heading").inner_text() == name
            expect(card).to_contain_text(says)


def test_a_drop_without_files_and_a_server_that_is_gone_are_told(browser: Browser, address: str) -> None:
    with opened(browser, address, address, told="ERR_INTERNET_DISCONNECTED") as page:
        carry(page, "drop")
        expect(status(page)).to_contain_text("There is no photo in that")
        page.context.set_offline(True)
        choose(page, ("a.png", packed(noise())))
        expect(answers(page)).to_contain_text("The server doesn't answer")


def test_hostile_names_are_text(browser: Browser, address: str) -> None:
    with opened(browser, address, address) as page:
        header = page.locator("header").text_content() or ""
        assert [name for name in (ATTACK, *CLASSES[:12]) if name not in header] == []
        carry(page, "drop", *((f"{name}.png", packed(noise(number))) for number, name in enumerate(HOSTILE)))
        expect(answers(page)).to_have_count(len(HOSTILE))
        titles = [card.get_by_role("heading").text_content() for card in answers(page).all()]
        assert titles == [f"{name}.png" for name in reversed(HOSTILE)]
        first = answers(page).first
        first.locator("summary").click()
        assert {each.text_content() for each in first.get_by_role("rowheader").all()} == set(CLASSES)
        assert page.locator("svg, script:not([src]), [onerror], [onload], [onmouseover]").count() == 0
        assert page.locator("img:not([src^='data:image/jpeg;base64,'])").count() == 0


def test_another_site_can_neither_ask_nor_frame_it(browser: Browser, address: str) -> None:
    refused = 'unfreeze_predict_requests_total{status="403"}'
    assert refused not in httpx.get(f"{address}/metrics").text
    page = browser.new_page()
    page.set_content(f'<iframe src="{address}/"></iframe>')
    said = page.evaluate(
        """async (address) => {
            const form = new FormData();
            form.append("photos", new File(["x"], "a.png"));
            try { return (await fetch(`${address}/predict`, { method: "POST", body: form })).status; }
            catch (error) { return error.name; }
        }""",
        address,
    )
    assert said == "TypeError"  # it may not read the answer
    assert f"{refused} 1" in httpx.get(f"{address}/metrics").text
    (frame,) = page.main_frame.child_frames
    frame.wait_for_load_state()
    assert frame.locator("#files").count() == 0
    page.close()


def test_nothing_is_cut_off_and_everything_can_be_read(browser: Browser, address: str) -> None:
    with opened(browser, address, address) as page:
        choose(page, (f"{'long' * 40}.png", packed(noise())))
        expect(answers(page)).to_have_count(1)
        for width in (390, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            for selector in ("body", ".quiet", ".lead", "th", "footer a", "button", "figcaption", "summary"):
                assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, (scheme, selector)  # WCAG 2.2, 1.4.3


def test_the_report_runs_and_loads_nothing(browser: Browser, tmp_path: Path) -> None:
    written = write_report(finished_run(tmp_path, classes=CLASSES, named=HOSTILE)).as_uri()
    with opened(browser, written, written) as page:
        assert page.locator("h2").count() == 11
        shown = page.locator("body").text_content() or ""
        assert [name for name in CLASSES if name not in shown] == []
        files = page.locator("figcaption .quiet").all_text_contents()
        assert sum(any(name in file for file in files) for name in HOSTILE) >= 12
        for image in page.get_by_role("img").all():
            assert image.evaluate("image => image.complete && image.naturalWidth") > 0
        assert page.locator("script, svg, [onerror], [onload], [onmouseover]").count() == 0
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


CONTRAST = """(element) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b]
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    let behind = element;
    while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(numbers).map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
