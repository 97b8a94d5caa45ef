"""The arms of the benchmark: ours with the flags that they are, and every rival with the variants that it is tried in.

A rival's figure is that of its best variant, chosen in hindsight on the test images, per set and number of images a class:
the choice favours the rival.  ``tables`` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "unfreeze auto"
HEAD_ONLY = "unfreeze head-only"
FIRST_HEAD_ONLY = "unfreeze head-only of the first edition"
FROZEN_TUTORIAL = "tutorial with BatchNorm frozen"
FASTAI = "fastai"
AUTOGLUON = "AutoGluon medium_quality"

MILD = "0.5"  # smallest share of the image that a view shows: this program's own
LIBRARY = "0.08"  # torchvision's and timm's default
LAYER_DECAY_RATES = ("1e-4", "3e-4", "1e-3")
LIGHTNING_RATES = ("3e-4", "1e-3", "3e-3")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        environment: Whose Python runs it: own, peers or autogluon.
        command: Of ours, the flags of ``unfreeze train``; of a peer, the script in ``arms/`` and its arguments.
        on_request: Only where ``--arms`` names it.
        shown: Of ours, whose score in the verdict counts.
        without: Modules that are kept from being imported: what a user has who didn't install an extra.
    """

    environment: str
    command: tuple[str, ...]
    on_request: bool = False
    shown: str = "shipped"
    without: tuple[str, ...] = ()


def _own(*flags: str, on_request: bool = False, shown: str = "shipped", without: tuple[str, ...] = ()) -> Arm:
    return Arm("own", flags, on_request, shown, without)


OURS: dict[str, Arm] = {
    HEAD_ONLY: _own("--recipe", "head-only"),
    # One plain and one random view, the last stage, the plain view asked alone.
    FIRST_HEAD_ONLY: _own("--recipe", "head-only", "--head", "last", "--no-tta", "--views", "2"),
    AUTO: _own(),
    "unfreeze classic": _own("--recipe", "classic", shown="two_phase"),
    "unfreeze, everything trains": _own("--depth", "all", "--epochs", "10", shown="two_phase"),
    "unfreeze, from blocks.4 up": _own("--depth", "blocks.4", on_request=True, shown="two_phase"),
    "unfreeze, from blocks.2 up": _own("--depth", "blocks.2", on_request=True, shown="two_phase"),
    "unfreeze auto without bf16": _own("--precision", "fp32", on_request=True),
    "unfreeze auto without OpenVINO": _own(on_request=True, without=("openvino",)),
    "unfreeze auto without bf16 and OpenVINO": _own("--precision", "fp32", on_request=True, without=("openvino",)),
}


def _tutorial(batch_norm: str, variants: tuple[tuple[str, str, str, str], ...], *, on_request: bool) -> dict[str, Arm]:
    return {
        f"tutorial, BatchNorm {batch_norm}, crops {crops} to 1, {epochs} epochs, rate {rate}": Arm(
            "peers",
            ("tutorial", "--batch-norm", batch_norm, "--crops", crops, "--epochs-times", times, "--rate", rate),
            on_request,
        )
        for crops, times, epochs, rate in variants
    }


# A rival's name -> its variants.
RIVALS: dict[str, dict[str, Arm]] = {
    FROZEN_TUTORIAL: _tutorial(
        "frozen",
        (
            (MILD, "2", "10 + 10", "1e-5"),
            (MILD, "2", "10 + 10", "1e-4"),
            (MILD, "1", "5 + 5", "1e-5"),
            (MILD, "4", "20 + 20", "1e-5"),
        ),
        on_request=False,
    ),
    "tutorial with BatchNorm live": _tutorial(
        "live", ((MILD, "2", "10 + 10", "1e-5"), (LIBRARY, "1", "5 + 5", "1e-5")), on_request=True
    ),
    FASTAI: {
        f"fastai fine_tune({epochs}), {framed}": Arm(
            "peers", ("fastai_fine_tune", "--epochs-times", times, "--framed", framed)
        )
        for epochs, times, framed in (
            ("10", "1", "cropped"),
            ("10", "1", "squeezed"),
            ("20", "2", "cropped"),
            ("10", "1", "random"),
        )
    },
    AUTOGLUON: {"AutoGluon medium_quality, 16 a step": Arm("autogluon", ("autogluon_fit", "medium_quality"))},
    "layer decay": {
        f"layer decay, one phase, crops {crops} to 1, rate {rate}": Arm(
            "peers", ("layer_decay", "--rate", rate, "--crops", crops)
        )
        for crops in (MILD, LIBRARY)
        for rate in LAYER_DECAY_RATES
    },
    "Lightning": {
        f"Lightning BackboneFinetuning, crops {crops} to 1, rate {rate}": Arm(
            "peers", ("lightning_finetuning", "--rate", rate, "--crops", crops)
        )
        for crops in (MILD, LIBRARY)
        for rate in LIGHTNING_RATES
    },
    "AutoGluon best_quality": {
        "AutoGluon best_quality, 16 a step": Arm("autogluon", ("autogluon_fit", "best_quality"), on_request=True)
    },
}
# A row of a CSV file has an arm's name from here, and its variant's. Ours are their only variants.
FAMILIES: dict[str, dict[str, Arm]] = {name: {name: arm} for name, arm in OURS.items()} | RIVALS
VARIANTS: dict[str, Arm] = {name: arm for variants in FAMILIES.values() for name, arm in variants.items()}
FAMILY_OF: dict[str, str] = {name: family for family, variants in FAMILIES.items() for name in variants}


def variants_named(names: list[str]) -> list[str]:
    """Return the variants that the names mean: a rival's name means all of its variants."""
    chosen = {variant for name in names for variant in (FAMILIES.get(name) or {name: VARIANTS[name]})}
    return [name for name in VARIANTS if name in chosen]
