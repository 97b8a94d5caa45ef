"""Validated settings, with the same names on the command line, in Python and in ``args.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from unfreeze.errors import ConfigError
from unfreeze.paths import model_text, user_model, user_path
from unfreeze.reading_settings import ReadingSettings

UserPath = Annotated[Path, AfterValidator(user_path)]

HIGHEST_LR = 3e-3  # a higher one destroys pretrained weights within an epoch; see the naive arm of the benchmarks


class Common(ReadingSettings):
    """Settings of every training, except the images."""

    model: Annotated[
        str,
        BeforeValidator(model_text),
        AfterValidator(user_model),
        Field(description="efficientnet_lite0, torchvision/NAME[:WEIGHTS], timm/NAME, or a checkpoint."),
    ] = "efficientnet_lite0"
    arch: Annotated[
        str | None, Field(description="For a checkpoint file: the architecture it fits, timm/NAME or torchvision/NAME.")
    ] = None
    fit: Annotated[
        Literal["auto", "crop", "squash", "pad", "tiles"],
        Field(
            description="How photos that aren't square fill the model's input: crop (their middle), squash (all, out of "
            "shape), pad (all, with borders), tiles (overlapping parts). Default: by the folds, from crop, squash and tiles."
        ),
    ] = "auto"
    test_size: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="Share held out as the test set where PHOTOS doesn't name one; 0: none, every photo trains and "
            "is scored by models that never saw it. Default: 0.2, and 0 below 300 photos.",
        ),
    ] = None
    reference: Annotated[
        UserPath | None,
        Field(description="Photos of the original task, in folders by class, to measure forgetting on."),
    ] = None
    sides: Annotated[
        str | None,
        Field(
            description="Which folders of PHOTOS (or words in a table's column split) are sides, such as "
            "train=Training,test=Testing; none: every folder is a class. Default: names such as train, Testing, val_set."
        ),
    ] = None
    group_by: Annotated[
        str,
        Field(
            description="Which photos belong together (a patient, a scene) and stay on one side of every split: auto "
            "(a table's column group, DICOM's patients, or what file names tell), none, a column, or a pattern."
        ),
    ] = "auto"
    device: Annotated[
        str, Field(description="auto, cpu, gpu, cuda, cuda:1 (or 1), mps.", coerce_numbers_to_str=True)
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(description="Number format of frozen stages. auto: bf16 where the hardware has units for it."),
    ] = "auto"
    cache: Annotated[
        UserPath | None, Field(description="Folder of activations that later runs reuse. Default: ~/.cache/unfreeze")
    ] = None
    cache_gib: Annotated[
        float, Field(ge=0, description="The most that the cache may hold, in GiB; 0 turns it off.")
    ] = 10.0
    out: Annotated[UserPath | None, Field(description="The run's folder. Default: runs/train, runs/train2, ...")] = None

    @model_validator(mode="after")
    def _refuse_unwritable_names(self) -> Self:
        for name in ("photos", "reference", "model", "cache"):
            try:
                str(getattr(self, name, None)).encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(f"The path of {name} is no valid Unicode: rename it, or use a link") from error
        if self.cache is not None and self.cache_gib == 0:
            raise ValueError("--cache has no meaning with --cache-gib 0")
        return self


FORMER_NAMES = {
    "light": "color_jitter", "anchor": "distill", "forget_at_most": "max_forgetting", "fresh_views": "new_views",
}  # fmt: skip
"""Current names by the names in earlier versions, which files and commands may still have."""


class Settings(Common):
    """All settings of a run, except the images.  Each field is a flag of ``unfreeze train``."""

    recipe: Annotated[
        Literal["auto", "classic", "head-only"], Field(description="How phase 1 and phase 2 are set up.")
    ] = "auto"
    depth: Annotated[
        str | None, Field(description="Train from this stage up: a stage's name, all, or head. Default: by the recipe.")
    ] = None
    head: Annotated[
        Literal["auto", "last", "stages"],
        Field(
            description="What the head reads: the last stage's features, or those of several stages, which hold more. "
            "Default: stages, where the recipe solves the head."
        ),
    ] = "auto"
    subset: Annotated[
        Literal["all", "norms", "biases", "lora"],
        Field(
            description="Which weights of the unfrozen stages train; lora: low-rank changes of a transformer's "
            "attention."
        ),
    ] = "all"
    epochs: Annotated[int | None, Field(gt=0, description="Epochs of phase 2.")] = None
    head_epochs: Annotated[
        int | None, Field(gt=0, description="Epochs of phase 1 (classic recipe; auto solves it).")
    ] = None
    lr: Annotated[
        float | None, Field(gt=0, le=HIGHEST_LR, description="Learning rate of phase 2, at the topmost stage.")
    ] = None
    head_lr: Annotated[float | None, Field(gt=0, le=1, description="Learning rate of phase 1 (classic recipe).")] = None
    batch_size: Annotated[int | None, Field(gt=0, description="Photos a step.")] = None
    views: Annotated[
        int | None, Field(gt=0, le=64, description="Cached views of each training photo, the plain one included.")
    ] = None
    new_views: Annotated[
        int | None,
        Field(ge=0, le=64, description="Cached views that are replaced by new ones after each epoch of phase 2."),
    ] = None
    symmetry: Annotated[
        Literal["none", "flip", "rotate"] | None,
        Field(
            description="How a photo may be turned without changing its class: left and right (flip), or every way "
            "(rotate: aerial and microscope photos). Default: flip or rotate, whichever is better in phase 1."
        ),
    ] = None
    color_jitter: Annotated[
        Literal["steady", "varied"],
        Field(
            description="varied: for later photos by another camera or in another light; the strength of red, green "
            "and blue varies from view to view in training."
        ),
    ] = "steady"
    tta: Annotated[
        bool,
        Field(
            description="Whether predictions may be averaged over several views of a photo (its centre, the whole of it, "
            "parts, flipped or turned): done where that is better on the folds."
        ),
    ] = True
    bn: Annotated[
        Literal["frozen", "train"], Field(description="BatchNorm's statistics: frozen, or the textbooks' train mode.")
    ] = "frozen"
    minutes: Annotated[
        float | None,
        Field(gt=0, description="How long the run may take: fewer depths are searched. Default: as long as it needs."),
    ] = None
    max_forgetting: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            description="Points of accuracy that may be lost on --reference. Default: no limit; it is measured.",
        ),
    ] = None
    distill: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            description="Weight of the distillation loss that keeps the original classifier's predictions for your "
            "photos (learning without forgetting): 0.5 to 2. Default: 0.",
        ),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of every random choice.")] = 0

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: object) -> object:
        return in_present_names(values) if isinstance(values, dict) else values


def in_present_names(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings under their present names.

    Raises:
        ValueError: A setting stands under both.
    """
    for former, name in FORMER_NAMES.items():
        if former in values and name in values:
            raise ValueError(f"--{former.replace('_', '-')} is the former name of --{name.replace('_', '-')}: give one")
    return {FORMER_NAMES.get(name, name): value for name, value in values.items()}


class TrainConfig(Settings):
    """The images and the settings of one run."""

    photos: UserPath

    @model_validator(mode="after")
    def _refuse_unused(self) -> Self:
        classic, head_only = self.recipe == "classic", self.recipe == "head-only" or self.depth == "head"
        refused = {
            "head_epochs": not classic,
            "head_lr": not classic,
            "depth": classic or (self.recipe == "head-only" and self.depth != "head"),
            "views": classic,
            "symmetry": classic,
            "new_views": classic or head_only,
            "epochs": head_only,
            "lr": head_only,
            "batch_size": head_only,
            "minutes": classic or head_only,
            "max_forgetting": classic or head_only,
            "distill": classic or head_only,
        }
        for name, unused in refused.items():
            if unused and getattr(self, name) is not None:
                cause = (
                    "--depth head"
                    if head_only and name != "depth" and self.recipe == "auto"
                    else f"--recipe {self.recipe}"
                )
                raise ValueError(f"--{name.replace('_', '-')} has no meaning with {cause}")
        if self.max_forgetting is not None and self.reference is None:
            raise ValueError("--max-forgetting has no meaning without --reference")
        for name in ("new_views", "distill"):
            if getattr(self, name) is not None and (self.depth == "all" or self.bn == "train"):
                raise ValueError(f"--{name.replace('_', '-')} has no meaning where every epoch draws new views")
        if (classic or head_only) and self.subset != "all":
            raise ValueError(f"--subset has no meaning with {'--recipe classic' if classic else 'the head alone'}")
        if classic and self.head == "stages":
            raise ValueError("--head stages has no meaning with --recipe classic: its head is the tutorials'")
        if classic and self.color_jitter == "varied":
            raise ValueError("--color-jitter varied has no meaning with --recipe classic: its views are the tutorials'")
        if classic and not self.tta:
            raise ValueError("--no-tta has no meaning with --recipe classic: it predicts from the plain view alone")
        if self.fit == "tiles" and (classic or not self.tta):
            raise ValueError(
                f"--fit tiles has no meaning with {'--recipe classic' if classic else '--no-tta'}: several parts are "
                "looked at. Take squash or pad"
            )
        if head_only and self.bn == "train":
            raise ValueError("--bn train has no meaning where the backbone is not trained")
        return self


class CompareSettings(Common):
    """Settings of a comparison.  Each field is a flag of ``unfreeze compare``."""

    test_size: Annotated[
        float | None,
        Field(ge=0, lt=1, description="Share held out as the test set where PHOTOS doesn't name one. Default: 0.2."),
    ] = None
    out: Annotated[
        UserPath | None, Field(description="The comparison's folder. Default: runs/compare, runs/compare2, ...")
    ] = None
    seeds: Annotated[int, Field(gt=0, le=100, description="How often every arm is trained, with seeds 0, 1, ...")] = 3
    epochs: Annotated[
        int, Field(gt=1, description="Of every arm but ours; the classic ones divide them between their phases.")
    ] = 10


class CompareConfig(CompareSettings):
    """The images and the settings of one comparison."""

    photos: UserPath

    @model_validator(mode="after")
    def _refuse_no_test(self) -> Self:
        if self.test_size == 0:
            raise ValueError("--test-size 0 has no meaning here: all arms are scored on the same test photos")
        return self


def make_config(values: dict[str, Any]) -> TrainConfig:
    """Validate the settings of one run.

    Raises:
        ConfigError: A value is invalid; the error names the first one.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error) from error


def make_comparison(values: dict[str, Any]) -> CompareConfig:
    """Validate the settings of a comparison; for errors see ``make_config``."""
    try:
        return CompareConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error) from error


def explain(error: ValidationError) -> ConfigError:
    """Return an error about the first invalid value, by its flag's name."""
    first = error.errors()[0]
    flag = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-") if first["loc"] else None
    plain = {
        "extra_forbidden": "There is no such setting",
        "path_type": f"This is no path: {type(first['input']).__name__}",
    }
    message = first["msg"].removeprefix("Value error, ").replace("Input should", f"{first['input']!r} should")
    message = plain.get(first["type"], message)
    if flag == "--lr" and first["type"] == "less_than_equal":
        message += ": a pretrained backbone does not survive such a rate"
    return ConfigError(f"{message}.", where=flag, mend="--help lists every setting.")
