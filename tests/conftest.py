from pathlib import Path

import pytest

from tests.support import draw


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """30 drawn photos of three classes."""
    return draw(tmp_path_factory.mktemp("photos"), 30)
