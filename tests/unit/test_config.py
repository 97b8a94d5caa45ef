from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unfreeze.config import HIGHEST_LR, TrainConfig, make_comparison, make_config
from unfreeze.errors import ConfigError


def config(**settings: Any) -> TrainConfig:
    return make_config({"photos": "photos", **settings})


def test_only_photos_has_no_default() -> None:
    plain = config()
    assert plain.photos == Path("photos")
    assert plain.model_dump(exclude={"photos"}, exclude_none=True) == {
        "model": "efficientnet_lite0", "recipe": "auto", "head": "auto", "subset": "all", "tta": True, "bn": "frozen",
        "seed": 0, "color_jitter": "steady", "device": "auto", "precision": "auto", "cache_gib": 10.0,
        "frame": "first", "bands": "auto", "scaling": "auto", "group_by": "auto",
        "fit": "auto",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="photos"):
        make_config({})


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("--recipe", {"recipe": "magic"}),
        ("--bn", {"bn": "melted"}),
        ("--epochs", {"epochs": 0}),
        ("--cache-gib", {"cache_gib": -1}),
        ("--cache", {"cache": "somewhere", "cache_gib": 0}),
        ("--epochs", {"epochs": 2.5}),
        ("--head-epochs", {"recipe": "classic", "head_epochs": -1}),
        ("--lr", {"lr": 0}),
        ("--lr", {"lr": -1e-4}),
        ("--lr", {"lr": "fast"}),
        ("--lr", {"lr": float("nan")}),
        ("--lr", {"lr": float("inf")}),
        ("--head-lr", {"recipe": "classic", "head_lr": 0}),
        ("--head-lr", {"recipe": "classic", "head_lr": float("inf")}),
        ("--head-lr", {"recipe": "classic", "head_lr": float("nan")}),
        ("--batch-size", {"batch_size": 0}),
        ("--views", {"views": 0}),
        ("--views", {"views": 65}),
        ("--test-size", {"test_size": -0.1}),
        ("--test-size", {"test_size": 1}),
        ("--test-size", {"test_size": float("nan")}),
        ("--seed", {"seed": -1}),
        ("--seed", {"seed": 2**64}),  # torch takes no larger one
        ("--colour", {"colour": "red"}),
        ("--head-epochs", {"head_epochs": 3}),
        ("--head-lr", {"head_lr": 1e-3}),
        ("--depth", {"recipe": "classic", "depth": "all"}),
        ("--depth", {"recipe": "head-only", "depth": "all"}),
        ("--views", {"recipe": "classic", "views": 3}),
        ("--new-views", {"recipe": "classic", "new_views": 1}),
        ("--new-views", {"recipe": "head-only", "new_views": 1}),
        ("--new-views", {"depth": "all", "new_views": 1}),
        ("--new-views", {"bn": "train", "new_views": 1}),
        ("--new-views", {"new_views": -1}),
        ("--distill", {"recipe": "classic", "distill": 1.0}),
        ("--distill", {"recipe": "head-only", "distill": 1.0}),
        ("--distill", {"depth": "all", "distill": 0.0}),
        ("--distill", {"bn": "train", "distill": 1.0}),
        ("--distill", {"distill": -1}),
        ("--epochs", {"recipe": "head-only", "epochs": 3}),
        ("--lr", {"recipe": "head-only", "lr": 1e-4}),
        ("--batch-size", {"recipe": "head-only", "batch_size": 8}),
        ("--bn", {"recipe": "head-only", "bn": "train"}),
        ("--epochs", {"depth": "head", "epochs": 3}),
        ("--bn", {"depth": "head", "bn": "train"}),
        ("--symmetry", {"symmetry": "diagonal"}),
        ("--symmetry", {"recipe": "classic", "symmetry": "flip"}),
        ("--color-jitter", {"color_jitter": "dark"}),
        ("--color-jitter", {"recipe": "classic", "color_jitter": "varied"}),
        ("--subset", {"subset": "some"}),
        ("--subset", {"recipe": "classic", "subset": "norms"}),
        ("--subset", {"recipe": "head-only", "subset": "biases"}),
        ("--subset", {"depth": "head", "subset": "lora"}),
        ("--minutes", {"minutes": 0}),
        ("--minutes", {"minutes": float("inf")}),
        ("--minutes", {"recipe": "classic", "minutes": 5}),
        ("--minutes", {"recipe": "head-only", "minutes": 5}),
        ("--minutes", {"depth": "head", "minutes": 5}),
        ("--max-forgetting", {"reference": "there", "max_forgetting": -1}),
        ("--max-forgetting", {"reference": "there", "max_forgetting": 101}),
        ("--max-forgetting", {"max_forgetting": 1}),
        ("--max-forgetting", {"recipe": "classic", "reference": "there", "max_forgetting": 1}),
        ("--max-forgetting", {"recipe": "head-only", "reference": "there", "max_forgetting": 1}),
        ("--max-forgetting", {"depth": "head", "reference": "there", "max_forgetting": 1}),
    ],
)
def test_every_refusal_names_the_flag(flag: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    assert flag in f"{caught.value} ".replace("\n", " ").replace(".", " ").split(" ")
    assert caught.value.mend is not None


def test_a_setting_that_depth_makes_idle_is_refused_for_the_depth() -> None:
    with pytest.raises(ConfigError, match="--depth head"):
        config(depth="head", epochs=3)


def test_a_budget_for_forgetting_is_refused_for_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="without --reference"):
        config(max_forgetting=1)
    with pytest.raises(ConfigError, match="--recipe classic"):
        config(recipe="classic", reference="there", max_forgetting=1)


def test_a_rate_that_ruins_pretrained_weights_is_refused_and_says_why() -> None:
    assert config(lr=HIGHEST_LR).lr == HIGHEST_LR
    with pytest.raises(ConfigError, match=r"does not survive(?s:.*)--lr"):
        config(lr=HIGHEST_LR * 1.01)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "recipe": "classic",
            "head_epochs": 2,
            "head_lr": 1e-3,
            "epochs": 3,
            "lr": 1e-5,
            "batch_size": 8,
            "bn": "train",
        },
        {"recipe": "head-only", "views": 2, "depth": "head"},
        {"depth": "blocks.5", "lr": 1e-4, "epochs": 3, "views": 8, "batch_size": 16, "bn": "train"},
        {"depth": "head", "views": 3},
        {"minutes": 2.5, "symmetry": "rotate"},
        {"recipe": "head-only", "symmetry": "none", "color_jitter": "varied"},
        {"depth": "head", "symmetry": "flip"},
        {"reference": Path("there"), "max_forgetting": 0},
    ],
)
def test_what_fits_a_recipe_is_taken(settings: dict[str, Any]) -> None:
    taken = config(**settings).model_dump()
    assert {name: taken[name] for name in settings} == settings


def test_a_configuration_cant_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().seed = 3


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("--seeds", {"seeds": 0}),
        ("--epochs", {"epochs": 1}),
        ("--test-size", {"test_size": 1}),
        ("--recipe", {"recipe": "auto"}),
        ("--cache", {"cache": "x", "cache_gib": 0}),
        ("--test-size 0", {"test_size": 0}),
    ],
)
def test_a_comparison_refuses_what_it_has_no_use_for(flag: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=flag):
        make_comparison({"photos": "photos", **settings})


def test_a_comparison_has_defaults() -> None:
    plain = make_comparison({"photos": "photos"})
    assert (plain.seeds, plain.epochs, plain.test_size, plain.out) == (3, 10, None, None)


@pytest.mark.parametrize(("given", "frame"), [("middle", "middle"), ("first", "first"), (3, 3), ("3", 3)])
def test_a_frame_is_named_or_counted_from_one(given: Any, frame: Any) -> None:
    assert config(frame=given).reading.frame == frame
    assert make_comparison({"photos": "photos", "frame": given}).reading.frame == frame


@pytest.mark.parametrize("given", [0, -1, "last", 1.0, True, None, "0"])
def test_what_is_no_frame_is_refused_by_name(given: Any) -> None:
    with pytest.raises(ConfigError, match="is no page: it is first, middle, or a number from 1") as caught:
        config(frame=given)
    assert caught.value.where == "--frame"


def test_a_checkpoints_path_may_be_a_path() -> None:
    assert make_config({"photos": "photos", "model": Path("weights") / "mine.pth"}).model == str(
        Path("weights/mine.pth")
    )


@pytest.mark.parametrize("photos", [None, 4, ["a.jpg"], {"cat": ["a.jpg"]}])
def test_photos_that_are_no_path_are_refused_in_plain_words(photos: object) -> None:
    with pytest.raises(ConfigError, match=f"no path: {type(photos).__name__}(?s:.*)--photos"):
        make_config({"photos": photos})
