"""The model card of the shipped model: intended use, data, scores, forgetting and limits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from unfreeze.data.sources import PhotoSet
from unfreeze.data.splits import Splits
from unfreeze.files import write_text
from unfreeze.models.backbone import Architecture
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.summary import expected_gain
from unfreeze.training.recipe import Recipe
from unfreeze.verdict import Verdict
from unfreeze.verdict_sentences import counted
from unfreeze.version import __version__

MAX_LISTED = 100  # classes that are listed
FEW = 20  # scored images of a class below which its recall is uncertain: one image is 5 points
SIDES = {"train": "to train on", "val": "to choose by", "test": "to test on"}
BY_TIMM = """
With timm, in the plain view alone:

```python
# Leave the next two lines out where `import timm` works without: a CPU build of torch beside PyPI's torchvision needs them.
from unfreeze.torchvision_shim import ensure_torchvision

ensure_torchvision()
import timm
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

model = timm.create_model("local-dir:FOLDER_OF_THIS_FILE", pretrained=True).eval()
transform = create_transform(**resolve_model_data_config(model), is_training=False)
logits = model(transform(Image.open("photo.jpg").convert("RGB")).unsqueeze(0))
print(model.pretrained_cfg["label_names"][int(logits.argmax())])
```
"""
BY_CODE = """
With {library} and torch, in the plain view alone, by `modeling.py` beside this file (copy it next to your code):

```python
from modeling import load_classifier

model, labels = load_classifier("FOLDER_OF_THIS_FILE")
logits = model(images)  # (N, 3, height, width), prepared as pretrained_cfg in config.json says
print(labels[int(logits[0].argmax())])
```

The head reads several stages of the network, and {library} alone knows no such head: it can load the backbone, not the
classifier.
"""


def write_card(
    folder: RunFolder, verdict: Verdict, recipe: Recipe, architecture: Architecture, photos: PhotoSet, splits: Splits
) -> None:
    """Write the model card, in the format of model hubs."""
    sections = (
        _header(verdict, architecture),
        ("Intended use", _use(verdict)),
        ("Data", _data(verdict, photos, splits)),
        ("Scores", _scores(verdict)),
        ("Forgetting", _forgetting(verdict)),
        ("Limits", _limits(verdict)),
        ("How to use it", _loading(verdict, architecture, has_code=folder.model_code.exists())),
        ("How it was trained", _training(verdict, recipe)),
    )
    front, *rest = sections
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in rest)
    write_text(folder.model_card, f"{front}\n\n{body}\n")


def plain(text: str) -> str:
    """Return a name on one line, escaped so that Markdown shows it unchanged, in tables too."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$:])", r"\\\1", " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split()))


def _header(verdict: Verdict, architecture: Architecture) -> str:
    tags = "\n".join(
        f"- {tag}" for tag in ("image-classification", architecture.library, "transfer-learning", "unfreeze")
    )
    library = "pytorch" if verdict.model.head_stages else architecture.library  # with which the whole model loads
    return f"""---
library_name: {library}
pipeline_tag: image-classification
tags:
{tags}
---

# Image classifier, fine-tuned from {plain(verdict.model.name)}

{" ".join(verdict.sentences())}"""


def _use(verdict: Verdict) -> str:
    classes = verdict.data.classes
    names = ", ".join(plain(name) for name in classes[:MAX_LISTED]) + (", ..." if len(classes) > MAX_LISTED else "")
    return f"""It tells photos of {len(classes)} classes apart: {names}.

It is for photos like those that it was trained on: of the same things, taken in the same way. It is not for photos of
anything else, as it always answers with one of its classes; nor should it alone decide what matters to people's health,
safety or rights."""


def _data(verdict: Verdict, photos: PhotoSet, splits: Splits) -> str:
    counts = {
        side: Counter(photos.samples[int(i)].label for i in getattr(splits, side))
        for side in SIDES
        if len(getattr(splits, side))
    }
    rows = [
        (plain(name), *(str(by_label[label]) for by_label in counts.values()))
        for label, name in list(enumerate(photos.classes))[:MAX_LISTED]
    ]
    totals = ("all", *(str(by_label.total()) for by_label in counts.values()))
    notes = [counted(verdict.data.left_out, "file") + " left out"]
    if len({sample.group for sample in photos.samples} - {None}):
        notes.append("photos of one group (such as a patient) are on one side")
    if verdict.scores.protocol == "cross_fitted":
        notes.append("none was held out: each was scored by models of the folds that never saw it")
    if len(photos.classes) > MAX_LISTED:
        notes.append(f"the other {len(photos.classes) - MAX_LISTED} classes are not listed")
    table = _table(("photos of", *(SIDES[side] for side in counts)), [*rows, totals])
    return f"{table}\n\n{_sentence('; '.join(notes))}"


def _scores(verdict: Verdict) -> str:
    if verdict.data.no_score is not None:
        return f"{verdict.data.no_score} So nothing is scored."
    scores = verdict.scores.shipped
    on = "test photos" if verdict.scores.protocol == "test" else "photos, by models that never saw them"
    rows = [(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}") for name, value, (low, high) in scores.rows()]
    recalls = [
        (row.recall, row.n, plain(name))
        for row, name in zip(scores.per_class, verdict.data.classes, strict=False)
        if row.recall is not None
    ]
    weakest = "; ".join(f"{name} {recall:.2f} of {n}" for recall, n, name in sorted(recalls)[:3])
    table = _table((f"score on {scores.n} {on}", "value", "95 % interval"), rows)
    return table + (f"\n\nLowest recall: {weakest}." if weakest else "")


def _forgetting(verdict: Verdict) -> str:
    forgetting = verdict.forgetting
    if verdict.shipped == "head_only" and verdict.model.bn == "frozen":
        return "Nothing is forgotten: the pretrained backbone is part of the model as it was, and only the head is new."
    sentences = []
    if (
        forgetting is not None
        and forgetting.drop is not None
        and forgetting.drop_ci95 is not None
        and forgetting.before is not None
    ):
        low, high = forgetting.drop_ci95
        sentences.append(
            f"The original classifier on this backbone lost {forgetting.drop * 100:.1f} points (95 % interval "
            f"{low * 100:.1f} to {high * 100:.1f}) of {forgetting.before * 100:.1f} % accuracy on "
            f"{forgetting.n} photos of its own task."
        )
    if forgetting is not None and forgetting.agreement is not None:
        sentences.append(
            f"On {forgetting.agreement_n} of the scored photos it still gives the same answer as before in "
            f"{forgetting.agreement * 100:.1f} % of cases."
        )
    return " ".join(sentences) or "What the backbone forgot of its original task was not measured."


def _limits(verdict: Verdict) -> str:
    return "\n".join(f"- {limit}" for limit in _known_limits(verdict))


def _known_limits(verdict: Verdict) -> Iterator[str]:
    if verdict.data.no_score is not None:
        yield "Nothing is known of how well it does: score it on photos of other patients or places (`unfreeze eval`)."
        return
    yield (
        "The scores hold for photos like those that were scored. On photos from another camera, place or time they may "
        "be worse: test there before you rely on it (`unfreeze eval`)."
    )
    if verdict.scores.calibration is not None:
        yield "Its probabilities are calibrated for such photos alone, and for classes as frequent as they were there."
    scarce = [
        f"{plain(name)} ({row.n})"
        for row, name in zip(verdict.scores.shipped.per_class, verdict.data.classes, strict=False)
        if row.n < FEW
    ]
    if scarce:
        shown = ", ".join(scarce[:MAX_LISTED]) + (", ..." if len(scarce) > MAX_LISTED else "")
        yield f"Of these classes fewer than {FEW} photos were scored, so that little is known of each: {shown}."
    if verdict.scores.protocol == "cross_fitted":
        yield "The model itself was never tested on photos that it hadn't seen: models made in the same way were."
    yield "Whatever is wrong with the photos' labels or choice is wrong with the model too; nobody has looked for bias."
    yield "The licences of the pretrained weights and of the photos apply."


def _loading(verdict: Verdict, architecture: Architecture, *, has_code: bool) -> str:
    own = """With unfreeze, in the run's folder, as it was scored:

    unfreeze predict RUN PHOTO...
    unfreeze export RUN --onnx

The second writes one file with preprocessing and labels for ONNX Runtime, which averages over all views."""
    if has_code:
        return f"{own}\n{BY_CODE.format(library=architecture.library)}"
    return own + ("\n" + BY_TIMM if architecture.library == "timm" and not verdict.model.head_stages else "")


def _training(verdict: Verdict, recipe: Recipe) -> str:
    model = verdict.model
    stages = ", ".join(f"`{name}`" for name in model.head_stages or ())
    rows = [
        f"Recipe `{recipe.name}`: phase 1 trained a new head on the frozen backbone"
        + (f", which reads {len(model.head_stages)} stages ({stages})" if model.head_stages else "")
        + (f"; phase 2 trained from `{model.depth}` up, BatchNorm {model.bn}" if recipe.candidates else "; no phase 2"),
    ]
    if verdict.shipped == "two_phase":
        rows.append(f"The weights stand at {model.alpha:g} between phase 1 (0) and phase 2 (1)")
    if verdict.expected is not None:
        rows.append(f"Expected of phase 2, by these photos and by other data sets: {expected_gain(verdict.expected)}")
    rows += [
        f"In predicting, {model.describe_views()}" + (", and the logits are averaged" if model.n_views > 1 else ""),
        f"Made with unfreeze {__version__}; the run's `args.toml` and `verdict.json` have every setting and figure",
    ]
    return "\n".join(f"- {row}" for row in rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
