from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from unfreeze.serve.guard import own_names, refusal

NAMES = own_names("Photos.example")


def status(method: str = "POST", **headers: str) -> int | None:
    refused = refusal(method, Headers({name.replace("_", "-"): value for name, value in headers.items()}), NAMES)
    return refused[0] if refused else None


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:80", "192.168.0.7", "[::1]:8000", "photos.example:1"],
)
def test_addresses_and_own_names_are_heard(host: str) -> None:
    assert status(host=host) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "a@b@c"]
)
def test_a_name_that_someone_else_pointed_here_is_refused(host: str) -> None:
    assert status("GET", host=host) == 400


def test_a_request_without_a_host_is_refused() -> None:
    assert status("GET") == 400


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, None),  # no browser
        ({"origin": "http://localhost:8000"}, None),
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"sec_fetch_site": "same-origin", "origin": "https://behind.a.proxy"}, None),
        ({"sec_fetch_site": "none"}, None),
        ({"sec_fetch_site": "same-site", "origin": "http://localhost:8000"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_only_the_own_page_may_send_photos(headers: dict[str, str], refused: int | None) -> None:
    assert status(host="localhost:8000", **headers) == refused


def test_a_link_to_the_page_may_be_anywhere() -> None:
    assert status("GET", host="localhost:8000", sec_fetch_site="cross-site") is None
