"""Exported files against the run, on drawn photos: a CNN and a vision transformer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tomli_w
import torch
from tests.support.backbones import CPU, tiny_cnn
from tests.support.photos import noise
from tests.support.runs import verdict
from torch import Tensor, nn

import unfreeze
from unfreeze.data.rendering.transforms import normalize
from unfreeze.errors import ConfigError, MissingExtraError, ModelError, PhotosError, RunError
from unfreeze.export import Exported, export, int8, onnx_file, torchscript_file
from unfreeze.export.exporting import Format
from unfreeze.files import write_table, write_text
from unfreeze.models.backbone import Architecture, assemble
from unfreeze.models.head import Head
from unfreeze.models.networks import build
from unfreeze.models.saved import Classifier, save_model
from unfreeze.orientations import Orientation
from unfreeze.predict import photo_batches, probabilities
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.run import Run
from unfreeze.torchvision_shim import ensure_torchvision
from unfreeze.views import PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, Views, framings_of, tiles

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("cat", "dog, small", "Übergröße = ja")
ROUND = tuple(map(EvaluationView, (0, Orientation.ROT90, Orientation.ROT180, Orientation.ROT270)))
EXACT: tuple[Format, ...] = ("onnx", "torchscript", "safetensors")


def classifier(name: str, shown: Views = ROUND, head_stages: tuple[int, ...] = ()) -> Classifier:
    """Return a model with random weights."""
    library, _, short = name.partition("/")
    architecture = Architecture(library, short)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = tiny_cnn() if name == "tiny_cnn" else assemble(name, architecture, build(architecture), CPU)
        backbone = replace(backbone, head_stages=head_stages)
        head = Head(backbone.feature_dim, len(CLASSES))
        nn.init.normal_(head.weight)
    return Classifier(backbone, head, CLASSES, shown)


def make(root: Path, model: Classifier, *, tested: bool = True) -> Run:
    """Write a run's folder without a training: 18 photos, of which a third are test photos."""
    folder = RunFolder(root / "run")
    save_model(folder.model, model)
    photos = root / "photos"
    photos.mkdir()
    for number in range(18):
        noise(number, 40 + number, 30 + 2 * number).save(photos / f"{number}.png")
    rows = [
        (
            f"{number}.png",
            CLASSES[number % 3],
            f"part {number // 2}",
            "test" if tested and number >= 12 else "train",
            None,
        )
        for number in range(18)
    ]
    write_table(folder.splits, ["file_name", "label", "group", "split", "fold"], rows)
    write_text(folder.args, tomli_w.dumps({"photos": str(photos)}))
    write_text(folder.model_card, "# A card\n")
    write_text(folder.verdict, verdict(CLASSES).to_json())
    return unfreeze.load(folder.root, "cpu")


def views(run: Run) -> Tensor:
    """Return all photos of the run, rendered as it renders them."""
    paths = [run.folder.root.parent / "photos" / f"{number}.png" for number in range(18)]
    return torch.cat(list(photo_batches(run._model.backbone, paths)))


def expected(run: Run, images: Tensor, shown: Views = ROUND) -> Any:
    return probabilities(run._model.backbone, run._model.head, [images], views=shown)


def by_onnx(place: Path, images: Tensor) -> Any:
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probabilities"], {"images": images.numpy()})
    return answers


def by_torch(place: Path, images: Tensor) -> Any:
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        loaded = torch.jit.load(str(place))  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        return loaded(images).numpy()


@dataclass(frozen=True)
class Case:
    run: Run
    exported: Mapping[Format, Exported]


@pytest.fixture(scope="module", params=["timm/test_efficientnet", "timm/test_vit"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A run that was exported in the exact formats: a CNN's, and a vision transformer's."""
    run = make(tmp_path_factory.mktemp("case"), classifier(request.param))
    return Case(run, {each.format: each for each in export(run, EXACT)})


@pytest.fixture
def small(tmp_path: Path) -> Run:
    """A run that timm opens."""
    return make(tmp_path, classifier("timm/test_efficientnet"))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A run of a network that no library builds, exported with 8-bit integers in an instant."""
    model = classifier("tiny_cnn")
    monkeypatch.setattr("unfreeze.export.exporting.load_model", lambda folder, device, expected: model)
    run = make(tmp_path, model)
    return Case(run, {each.format: each for each in export(run, ["int8"])})


@pytest.mark.parametrize(("kind", "ask"), [("onnx", by_onnx), ("torchscript", by_torch)])
def test_a_file_says_what_the_run_says_however_many_photos_it_gets(
    case: Case, kind: Format, ask: Callable[[Path, Tensor], Any]
) -> None:
    images = views(case.run)
    for count in (1, 3, 18):
        answers = ask(case.exported[kind].path, images[:count])
        np.testing.assert_allclose(answers, expected(case.run, images[:count]), rtol=0, atol=1e-5)
    assert case.exported[kind].difference <= 1e-5
    assert case.exported[kind].photos == 6  # the test photos


def test_poses_are_averaged_in_the_file(case: Case) -> None:
    images = views(case.run)
    assert np.abs(expected(case.run, images, PLAIN_ONLY) - expected(case.run, images)).max() > 1e-3


@pytest.mark.parametrize(
    "shown",
    [
        (PLAIN, EvaluationView.of(SQUEEZE), EvaluationView.of(SQUEEZE, Orientation.FLIPPED)),
        (PLAIN, *map(EvaluationView.of, tiles((1, 3)))),
    ],
)
def test_a_file_takes_all_framings_of_a_photo(tmp_path: Path, shown: Views) -> None:
    run = make(tmp_path, classifier("timm/test_efficientnet", shown))
    exported = {each.format: each for each in export(run, (*EXACT, "int8"))}
    model, framings = run._model, framings_of(shown)
    paths = [run.folder.root.parent / "photos" / f"{number}.png" for number in range(18)]
    images = torch.cat(list(photo_batches(model.backbone, paths, framings=framings)))
    assert images.shape == (18, len(framings), 3, *model.backbone.network.preprocessing.size)
    probable = probabilities(model.backbone, model.head, [images], views=shown)
    by_file = torch.tensor([answer.probabilities for answer in run.predict(paths)]).numpy()
    np.testing.assert_allclose(by_file, probable, rtol=0, atol=1e-5)
    for count in (1, 3, 18):
        for kind, ask in (("onnx", by_onnx), ("torchscript", by_torch)):
            answers = ask(exported[kind].path, images[:count].contiguous())  # type: ignore[index]
            np.testing.assert_allclose(answers, probable[:count], rtol=0, atol=1e-5)
    assert exported["int8"].cost is not None
    assert by_onnx(exported["int8"].path, images.contiguous()).shape == (18, 3)
    told = {entry.key: entry.value for entry in onnx.load(exported["onnx"].path).metadata_props}
    recipe = json.loads(told["preprocessing"])
    assert [framing["framing"] for framing in recipe["framings"]] == [framing.name for framing in framings]
    assert f"N x {len(framings)} x 3 x height x width" in recipe["input"]
    assert [EvaluationView.from_dict(view) for view in recipe["views"]] == list(shown)


def test_timm_reproduces_the_logits_of_the_plain_view(case: Case) -> None:
    ensure_torchvision()
    import timm

    images, model = normalize(views(case.run), case.run._model.backbone.network.preprocessing), case.run._model
    theirs = timm.create_model(f"local-dir:{case.exported['safetensors'].path}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), model.head(model.backbone.run(images)), rtol=1e-5, atol=1e-4)
    assert case.exported["safetensors"].note is None
    assert {file.name for file in case.exported["safetensors"].path.iterdir()} == {
        "config.json", "model.safetensors", "README.md",
    }  # fmt: skip


def test_a_file_tells_how_to_use_it(case: Case) -> None:
    proto = onnx.load(case.exported["onnx"].path)
    told = {entry.key: entry.value for entry in proto.metadata_props}
    extra = dict.fromkeys(("labels.json", "preprocessing.json"), "")
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        torch.jit.load(str(case.exported["torchscript"].path), _extra_files=extra)  # type: ignore[no-untyped-call]
    preprocessing = case.run._model.backbone.network.preprocessing
    for labels, recipe in (
        (told["labels"], told["preprocessing"]),
        (extra["labels.json"], extra["preprocessing.json"]),
    ):
        assert tuple(json.loads(labels)) == CLASSES
        assert tuple(json.loads(recipe)["size"]) == preprocessing.size
        assert tuple(json.loads(recipe)["mean"]) == preprocessing.mean
        assert [view["orientation"] for view in json.loads(recipe)["views"]] == [
            "identity",
            "rot90",
            "rot180",
            "rot270",
        ]
    assert told["unfreeze_version"] == unfreeze.__version__
    assert len(told["unfreeze_run_sha256"]) == 64
    assert str(Path(unfreeze.__file__).parent).encode() not in case.exported["onnx"].path.read_bytes()


@pytest.mark.parametrize(("name", "stages"), [("timm/test_efficientnet", (2, 4)), ("timm/test_vit3", (3, 6))])
def test_a_head_on_several_stages_says_the_same_in_every_format(
    tmp_path: Path, name: str, stages: tuple[int, ...]
) -> None:
    run = make(tmp_path, classifier(name, (PLAIN, EvaluationView.of(orientation=Orientation.FLIPPED)), stages))
    exported = {each.format: each for each in export(run, EXACT)}
    images = views(run)
    for answers in (by_onnx(exported["onnx"].path, images), by_torch(exported["torchscript"].path, images)):
        np.testing.assert_allclose(answers, expected(run, images, run._model.views), rtol=0, atol=1e-4)
    folder = exported["safetensors"].path
    assert {file.name for file in folder.iterdir()} == {
        "config.json", "model.safetensors", "modeling.py", "README.md",
    }  # fmt: skip
    assert "modeling.py" in (exported["safetensors"].note or "")
    told = {entry.key: entry.value for entry in onnx.load(exported["onnx"].path).metadata_props}
    assert tuple(json.loads(told["unfreeze_head_stages"])) == run._model.backbone.head_stage_names
    int8.write(exported["onnx"].path, tmp_path / "int8.onnx", torch.split(images, 6))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert made_by.get(products[-1].input[0]) == "Concat"
    assert any(made_by.get(node.input[0]) == "DequantizeLinear" for node in graph.node)


def test_a_folder_whose_code_says_something_else_is_removed(tmp_path: Path) -> None:
    run = make(tmp_path, classifier("timm/test_efficientnet", PLAIN_ONLY, (2, 4)))
    config = json.loads(run.folder.model_config.read_text("utf-8"))
    config["unfreeze"]["head"]["arguments"] = {"act_layer": "relu"}
    run.folder.model_config.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match="differ from the run's"):
        export(run, ["safetensors"])
    assert list(run.folder.export.iterdir()) == []


def test_int8_is_measured_on_the_test_photos(tiny: Case) -> None:
    small = tiny.exported["int8"]
    assert small.cost is not None
    model, paths = classifier("tiny_cnn"), [tiny.run.folder.root.parent / "photos" / f"{n}.png" for n in range(12, 18)]
    images = torch.cat(list(photo_batches(model.backbone, paths)))
    labels = np.arange(12, 18) % 3
    before, after = (by_onnx(tiny.exported[kind].path, images).argmax(axis=1) for kind in ("onnx", "int8"))
    assert small.cost.n == 6
    assert small.cost.unseen
    assert small.cost.accuracy == pytest.approx(float((before == labels).mean()))
    assert small.cost.accuracy_change == pytest.approx(float((after == labels).mean() - (before == labels).mean()))
    assert small.cost.agreement == pytest.approx(float((before == after).mean()))
    assert "on 6 test photos" in small.cost.sentence()
    told = {entry.key: entry.value for entry in onnx.load(small.path).metadata_props}
    assert json.loads(told["int8_cost"])["n"] == 6
    assert tuple(json.loads(told["labels"])) == CLASSES
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(small.path).graph.node)
    table = json.loads((tiny.run.folder.export / "export.json").read_text("utf-8"))
    assert table["files"]["int8"]["cost"]["n"] == 6


def test_depthwise_convolutions_stay_float(case: Case, tmp_path: Path) -> None:
    int8.write(case.exported["onnx"].path, tmp_path / "int8.onnx", torch.split(views(case.run), 6))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    grouped: dict[str, list[bool]] = {"Conv": [], "depthwise": []}
    for node in graph.node:
        if node.op_type == "Conv":
            groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
            kind = "depthwise" if groups > 1 else "Conv"
            grouped[kind].append(made_by.get(node.input[1]) == "DequantizeLinear")
    assert all(grouped["Conv"])
    assert not any(grouped["depthwise"])
    assert bool(grouped["depthwise"]) == ("efficientnet" in case.run.folder.model_config.read_text("utf-8"))


def test_int8_of_a_cross_fitted_run_claims_no_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier("tiny_cnn", PLAIN_ONLY)
    monkeypatch.setattr("unfreeze.export.exporting.load_model", lambda folder, device, expected: model)
    run = make(tmp_path, model, tested=False)
    exact, small = export(run, ["int8"])
    assert (exact.format, small.format) == ("onnx", "int8")
    assert small.cost is not None
    assert small.cost.accuracy is None
    assert small.cost.n == 18
    assert "that the model was trained on" in small.cost.sentence()


def test_the_folder_holds_the_files_and_what_was_measured_alone(case: Case) -> None:
    folder = case.run.folder.export
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "model.pt", "model", "export.json"}
    table = json.loads((folder / "export.json").read_text("utf-8"))
    assert set(table["files"]) == set(EXACT)
    for kind, row in table["files"].items():
        assert row["difference"] == case.exported[kind].difference
        assert row["size"] > 1000


def test_a_file_that_says_something_else_is_not_left_there(tiny: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: Classifier, *rest: Any, write: Callable[..., None]) -> None:
        with torch.no_grad():
            model.head.bias[0] += 0.01
        write(model, *rest)
        with torch.no_grad():
            model.head.bias[0] -= 0.01

    before = {file.name: file.read_bytes() for file in tiny.run.folder.export.iterdir()}
    modules: dict[Format, Any] = {"onnx": onnx_file, "torchscript": torchscript_file}
    for kind, module in modules.items():
        monkeypatch.setattr(module, "write", partial(other, write=module.write))
        with pytest.raises(ModelError, match="differ from the run's"):
            export(tiny.run, [kind])
    assert {file.name: file.read_bytes() for file in tiny.run.folder.export.iterdir()} == before


def test_timm_that_says_something_else_is_an_error(small: Run) -> None:
    config = json.loads(small.folder.model_config.read_text("utf-8"))
    config["model_args"] = {"act_layer": "relu"}
    small.folder.model_config.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match="differ from the run's"):
        export(small, ["safetensors"])
    assert list(small.folder.export.iterdir()) == []


def test_a_network_of_torchvisions_is_for_unfreeze_to_open(tmp_path: Path) -> None:
    run = make(tmp_path, classifier("torchvision/squeezenet1_1", PLAIN_ONLY))
    (exported,) = export(run, ["safetensors"], out=tmp_path / "out")
    assert exported.note is not None
    assert "timm can't open" in exported.note
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert exported.difference <= 1e-5


def test_photos_that_have_moved_are_asked_for(small: Run, tmp_path: Path) -> None:
    moved = (tmp_path / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(PhotosError, match="compared on real photos"):
        export(small, ["safetensors"])
    (exported,) = export(small, ["safetensors"], photos=moved)
    assert exported.photos == 6  # the test photos, found again
    others = tmp_path / "others"
    others.mkdir()
    for number in range(3):
        noise(number).save(others / f"other{number}.png")
    (exported,) = export(small, ["safetensors"], photos=others)
    assert exported.photos == 3
    with pytest.raises(PhotosError, match="training photos"):
        export(small, ["int8"], photos=others)
    (others / "other0.png").unlink()
    (others / "other1.png").unlink()
    with pytest.raises(PhotosError, match="compared on real photos"):
        export(small, ["safetensors"], photos=others)


def test_an_unknown_format_is_refused(small: Run) -> None:
    with pytest.raises(ConfigError, match="onxx"):
        export(small, ["onxx"])  # type: ignore[list-item]


def test_what_no_export_wrote_is_not_overwritten(small: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no export wrote it"):
        export(small, ["safetensors"], out=small.folder.root)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="can't be written"):
        export(small, ["safetensors"], out=tmp_path / "file")
    export(small, ["safetensors"])
    export(small, ["safetensors"])  # its own is


def test_a_missing_package_is_named_before_any_work(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript(.|\n)*unfreeze\[export\]"):
        export(small, ["onnx"])
    assert not small.folder.export.exists()


def test_a_model_that_is_too_large_for_onnx_is_refused(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="2 GiB"):
        export(small, ["onnx"])
    assert list(small.folder.export.iterdir()) == []


def test_a_network_that_can_not_be_exported_is_named(tmp_path: Path) -> None:
    class Fickle(Head):
        def forward(self, input: Tensor) -> Tensor:
            logits = super().forward(input)
            return logits if int(logits.sum() * 1000) % 2 else -logits

    backbone = tiny_cnn()
    with pytest.raises(ModelError, match=r"exported to ONNX: .*data-dependent(.|\n)*tiny_cnn"):
        onnx_file.write(Classifier(backbone, Fickle(backbone.feature_dim, 3), CLASSES), tmp_path / "model.onnx", {})
    assert not (tmp_path / "model.onnx").exists()
