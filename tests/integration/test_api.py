"""The API against its own description: whatever is sent, the answer is one that is described, and never a 500."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.support.photos import noise, packed
from tests.support.serving import served

from unfreeze.serve.app import create_app

CASES = 250  # of each kind
PHOTOS = [packed(noise(n), kind) for n, kind in enumerate(("JPEG", "PNG", "WEBP", "TIFF"))]


@st.composite
def damaged_photos(draw: st.DrawFn) -> bytes:
    """Draw a photo: whole, cut short, or with a few bytes changed."""
    content = bytearray(draw(st.sampled_from(PHOTOS)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[place] = value
    return bytes(content[: draw(st.one_of(st.none(), st.integers(0, len(content))))])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_500_requests_end_as_it_is_described(one_thread: None, tmp_path: Path, mode: GenerationMode) -> None:
    torch.set_flush_denormal(False)  # as a training in this process may have left it: hypothesis refuses to draw floats
    app = create_app(served(tmp_path, ("ant", "bee", "wasp")), frozenset({"testserver"}))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen: Counter[int] = Counter()

    @seed(0)
    @settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=schema["/predict"]["POST"].as_strategy(generation_mode=mode),
        photos=st.none() if mode is GenerationMode.NEGATIVE else st.none() | st.lists(damaged_photos(), min_size=1),
    )
    def ask(case: schemathesis.Case[Any], photos: list[bytes] | None) -> None:
        if photos is not None and isinstance(case.body, dict):  # the description can't say what a photo is
            body: dict[str, Any] = case.body
            body["photos"] = photos[:3]
        reply = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        seen[reply.status_code] += 1

    ask()
    assert seen.total() >= CASES
    assert seen[422] > 0
    assert mode is GenerationMode.NEGATIVE or (seen[200] > 0 and seen[415] > 0)
