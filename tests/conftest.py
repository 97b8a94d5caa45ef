from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support import draw


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
