from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.support.backbones import tiny_cnn, tiny_vit
from tests.support.photos import SIZE, noise, packed
from tests.support.serving import LOCAL, served

from unfreeze.data.decode import DecodeLimits
from unfreeze.predict import photo_batches, probabilities
from unfreeze.serve.app import create_app
from unfreeze.serve.guard import own_names
from unfreeze.serve.limits import Limits
from unfreeze.serve.model import Served

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("ant", "<b>bee</b>", "c" * 200, "wasp")
HOSTILE = "<img src=x onerror=alert(1)>.jpg"


@pytest.fixture(scope="module", params=[tiny_cnn, tiny_vit])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(tmp_path_factory.mktemp("run"), CLASSES, request.param)


def client_of(model: Served, limits: Limits | None = None) -> TestClient:
    return TestClient(create_app(model, own_names("127.0.0.1"), limits), base_url=LOCAL)


@pytest.fixture(scope="module")
def client(model: Served) -> Iterator[TestClient]:
    with client_of(model) as made:
        yield made


def test_answers_are_those_of_the_files_on_disk(client: TestClient, model: Served, tmp_path: Path) -> None:
    """The one decoder: orientation, CMYK, 16 bits, transparency and reduced JPEGs as training has them."""
    exif = Image.Exif()
    exif[274] = 6
    grey = Image.fromarray(np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 20)
    contents = {
        "turned.jpg": packed(noise(1, 400, 300), "JPEG", exif=exif),
        "cmyk.jpg": packed(noise(2).convert("CMYK"), "JPEG"),
        "deep.png": packed(grey),
        "deep.tif": packed(grey, "TIFF", compression="tiff_lzw"),
        "clear.webp": packed(Image.merge("RGBA", [*noise(3).split(), noise(4).convert("L")]), "WEBP"),
    }
    paths = [tmp_path / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    backbone, head, shown = model.model.backbone, model.model.head, model.model.views
    expected = probabilities(backbone, head, photo_batches(backbone, paths), views=shown)
    assert len(shown) > 1
    reply = client.post("/predict", files=[("photos", item) for item in contents.items()])
    assert reply.status_code == 200
    answered = reply.json()
    assert answered["model"] == {"name": "tiny_cnn", "depth": "head", "shipped": "head_only"}
    assert answered["seconds"] > 0
    assert [photo["file_name"] for photo in answered["photos"]] == list(contents)
    for photo, row in zip(answered["photos"], expected, strict=True):
        order = np.argsort(-row)
        assert photo["label"] == CLASSES[order[0]]
        assert [each["label"] for each in photo["probabilities"]] == [CLASSES[i] for i in order]
        np.testing.assert_allclose([each["probability"] for each in photo["probabilities"]], row[order], rtol=1e-5)
        assert set(photo) == {"file_name", "label", "probabilities"}


def test_top_names_so_many_classes(client: TestClient) -> None:
    (photo,) = client.post("/predict?top=2", files={"photos": packed(noise())}).json()["photos"]
    assert len(photo["probabilities"]) == 2
    assert client.post("/predict?top=0", files={"photos": packed(noise())}).status_code == 422


def test_heatmaps_come_as_large_as_what_the_network_sees(client: TestClient) -> None:
    (photo,) = client.post("/predict?heatmap=true", files={"photos": packed(noise())}).json()["photos"]
    view, heatmap = (Image.open(io.BytesIO(base64.b64decode(photo[name]))) for name in ("view", "heatmap"))
    assert view.size == heatmap.size == (SIZE, SIZE)
    assert view.format == heatmap.format == "JPEG"
    assert np.abs(np.asarray(view, int) - np.asarray(heatmap, int)).max() > 20


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"no photo", 415, "no photo in a format"),
        (b"", 422, "empty"),
        (packed(noise(), "GIF"), 415, "no photo in a format"),
        (packed(noise(), "JPEG")[:-300], 422, "truncated"),
        (packed(noise(), "PNG")[:-300], 422, "truncated"),
        (packed(Image.new("1", (8001, 8000)), "TIFF"), 413, "more than the 64,000,000 pixels"),
    ],
)
def test_a_photo_that_cant_be_answered_is_refused_by_its_content(
    client: TestClient, content: bytes, status: int, says: str
) -> None:
    files = [("photos", ("good.png", packed(noise()), "image/png")), ("photos", (HOSTILE, content, "image/jpeg"))]
    reply = client.post("/predict", files=files)
    assert reply.status_code == status
    assert says in reply.json()["detail"]
    assert reply.json()["file_name"] == HOSTILE


def test_formats_are_told_by_content_and_not_by_name(client: TestClient) -> None:
    reply = client.post("/predict", files={"photos": ("a.gif", packed(noise()), "text/html")})
    assert reply.status_code == 200


def test_what_is_not_accepted_is_not_even_decoded(model: Served) -> None:
    limits = replace(Limits(), accepted=DecodeLimits(("JPEG",), 1000))
    with client_of(model, limits) as client:
        assert client.post("/predict", files={"photos": packed(noise())}).status_code == 415
        assert client.post("/predict", files={"photos": packed(noise(), "JPEG")}).status_code == 413


def test_more_photos_than_are_taken_are_refused(client: TestClient) -> None:
    reply = client.post("/predict", files=[("photos", ("a.png", packed(noise())))] * 33)
    assert reply.status_code == 422
    assert "at most 32 items" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "body", "status", "says"),
    [
        ("image/png", packed(noise()), 422, "multipart/form-data: curl -F"),
        ("application/json", b"{}", 422, "multipart/form-data: curl -F"),
        ("application/x-www-form-urlencoded", b"photos=a", 422, "multipart/form-data: curl -F"),
        ("multipart/form-data", b"", 400, "boundary"),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\n", 400, ""),
        ("multipart/form-data; boundary=a", b"x", 400, ""),
    ],
)
def test_a_body_that_is_no_form_of_photos_is_a_mistake_of_the_sender(
    client: TestClient, kind: str, body: bytes, status: int, says: str
) -> None:
    reply = client.post("/predict", content=body, headers={"content-type": kind})
    assert reply.status_code == status
    assert says in reply.json()["detail"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-7", "nonsense"])
def test_any_file_name_can_be_written_as_json(client: TestClient, encoding: str) -> None:
    part = b'--a\r\nContent-Disposition: form-data; name="photos"; filename="+2AA-\xff"\r\n\r\n%s\r\n--a--\r\n'
    kind = f"multipart/form-data; boundary=a; charset={encoding}"
    reply = client.post("/predict", content=part % packed(noise()), headers={"content-type": kind})
    assert reply.status_code == 200
    assert reply.json()["photos"][0]["file_name"]


def test_a_photo_without_a_name_gets_a_number(client: TestClient) -> None:
    part = b'--a\r\nContent-Disposition: form-data; name="photos"; filename=""\r\n\r\n%s\r\n--a--\r\n'
    kind = "multipart/form-data; boundary=a"
    reply = client.post("/predict", content=part % packed(noise()), headers={"content-type": kind})
    assert reply.json()["photos"][0]["file_name"] == "photo 1"


class Stuck(Served):
    """Answers when it is let, and remembers whose turn came."""

    go = threading.Event()
    began = threading.Event()
    turns: list[str] = []  # noqa: RUF012

    def predict(self, uploads, *rest, **named):  # type: ignore[no-untyped-def]
        self.turns.append(uploads[0].name)
        self.began.set()
        assert self.go.wait(30)
        return super().predict(uploads, *rest, **named)


@pytest.fixture
def stuck(model: Served) -> Iterator[Stuck]:
    made = Stuck(model.run, model.model)
    for event in (made.go, made.began):
        event.clear()
    made.turns.clear()
    yield made
    made.go.set()


def test_a_full_queue_refuses_and_says_when_to_come_again(stuck: Stuck) -> None:
    with client_of(stuck, Limits(max_queue=1)) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/predict", files={"photos": packed(noise())})
        assert stuck.began.wait(30)
        refused = client.post("/predict", files={"photos": packed(noise())})
        assert client.get("/health").status_code == 200  # it isn't the server that is stuck
        stuck.go.set()
        assert waiting.result().status_code == 200
        assert client.post("/predict", files={"photos": packed(noise())}).status_code == 200
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert "busy" in refused.json()["detail"]


def test_who_waits_too_long_is_told_and_isnt_worked_for(stuck: Stuck) -> None:
    with client_of(stuck, Limits(seconds=0.3)) as client:
        late = [client.post("/predict", files={"photos": (name, packed(noise()))}) for name in ("first", "second")]
        stuck.go.set()
    assert [reply.status_code for reply in late] == [504, 504]
    assert "longer than 0.3 seconds" in late[0].json()["detail"]
    assert stuck.turns == ["first"]


def test_health_and_metrics(model: Served) -> None:
    with client_of(model) as client:
        assert client.get("/health").json() == {
            "status": "ok",
            "model": {"name": "tiny_cnn", "depth": "head", "shipped": "head_only"},
            "classes": list(CLASSES),
        }
        client.post("/predict", files=[("photos", ("a.png", packed(noise())))] * 2)
        client.post("/predict", files={"photos": b"no photo"})
        client.post("/predict?top=x", files={"photos": packed(noise())})
        reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    assert {name: float(value) for name, value in values.items() if not name.endswith("_sum")} == {
        'unfreeze_predict_requests_total{status="200"}': 1,
        'unfreeze_predict_requests_total{status="415"}': 1,
        'unfreeze_predict_requests_total{status="422"}': 1,
        "unfreeze_predict_photos_total": 2,
        "unfreeze_predict_seconds_count": 3,
    }
    assert float(values["unfreeze_predict_seconds_sum"]) > 0


def test_an_error_of_ours_is_counted_and_says_nothing_of_the_inside(
    model: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Served, "predict", fail)
    app = create_app(model, own_names("127.0.0.1"))
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        reply = client.post("/predict", files={"photos": packed(noise())})
        assert reply.status_code == 500
        assert "secret" not in reply.text
        assert 'requests_total{status="500"} 1' in client.get("/metrics").text


def test_pages_that_load_from_elsewhere_are_not_there(client: TestClient) -> None:
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert client.get("/openapi.json").json()["paths"].keys() == {"/predict", "/health", "/metrics"}


def test_the_page_shows_names_as_text(client: TestClient) -> None:
    page = client.get("/").text
    assert "&lt;b&gt;bee&lt;/b&gt;" in page
    assert "<b>" not in page


def test_every_answer_binds_the_browser(client: TestClient) -> None:
    for path in ("/", "/static/page.js", "/static/page.css", "/health", "/metrics", "/openapi.json", "/gone"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_strangers_are_refused(client: TestClient) -> None:
    files = {"photos": packed(noise())}
    assert client.post("/predict", files=files, headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/predict", files=files, headers={"origin": LOCAL}).status_code == 200
