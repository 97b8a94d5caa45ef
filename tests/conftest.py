from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support import draw


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither find nor leave anything in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """30 drawn photos of three classes."""
    return draw(tmp_path_factory.mktemp("photos"), 30)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny layers are not worth a second thread's waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
