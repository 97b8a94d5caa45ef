from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.photos import draw

import unfreeze
from unfreeze.demo import draw_photos
from unfreeze.runs.run import Run


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


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six photos of each class of the demo's."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    draw_photos(folder, a_class=6)
    return folder


@pytest.fixture(scope="session")
def run(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A head-only run on them, of the packaged weights."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return unfreeze.train(drawn, recipe="head-only", views=1, test_size=0.35, tta=False, out=out)


@pytest.fixture
def compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tiny network chooses and compiles what computes its frozen stages itself."""
    monkeypatch.setattr("tests.support.backbones.SHARES_COMPILED", False)


@pytest.fixture
def four_threads() -> Iterator[None]:
    """As a machine with more cores has them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny layers are not worth a second thread's waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
