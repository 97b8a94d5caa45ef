"""The arms of the benchmark: every rival with the variants that it is tried in, and the arms whose rows are withdrawn.

A rival's figure is that of its best variant, chosen in hindsight on the test images, per set and number of images a class:
the choice favours the rival.  ``tables`` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "unfreeze auto"
HEAD_ONLY = "unfreeze head-only"
FASTAI = "fastai"
AUTOGLUON = "AutoGluon medium_quality"

CROPS = ("0.08", "0.5")  # smallest share of the image that a view shows: torchvision's default, and this program's own
LAYER_DECAY_RATES = ("1e-4", "3e-4", "1e-3")
LIGHTNING_RATES = ("3e-4", "1e-3", "3e-3")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        environment: Whose Python runs the script: own, peers or autogluon.
        command: The script in ``arms/``, and its arguments after the task.
        on_request: Only where ``--arms`` names it: it takes too long for every set and seed.
    """

    environment: str
    command: tuple[str, ...]
    on_request: bool = False


def _tutorial(batch_norm: str) -> dict[str, Arm]:
    return {
        f"tutorial, BatchNorm {batch_norm}, crops {crops} to 1, {epochs} epochs": Arm(
            "peers", ("tutorial", "--batch-norm", batch_norm, "--crops", crops, "--epochs-times", times)
        )
        for crops in CROPS
        for times, epochs in (("1", "5 + 5"), ("2", "10 + 10"))
    }


# A rival's name -> its variants. Together they are the arms; a row of a CSV file has the variant's name.
FAMILIES: dict[str, dict[str, Arm]] = {
    HEAD_ONLY: {HEAD_ONLY: Arm("own", ("unfreeze_train", "head-only"))},
    AUTO: {AUTO: Arm("own", ("unfreeze_train", "auto"))},
    "uncached, everything": {"uncached, everything": Arm("own", ("unfreeze_train", "uncached"))},
    "tutorial with BatchNorm live": _tutorial("live"),
    "tutorial with BatchNorm frozen": _tutorial("frozen"),
    FASTAI: {"fastai fine_tune": Arm("peers", ("fastai_fine_tune",))},
    "layer decay": {
        f"layer decay, one phase, rate {rate}": Arm("peers", ("layer_decay", "--rate", rate))
        for rate in LAYER_DECAY_RATES
    },
    "Lightning": {
        f"Lightning BackboneFinetuning, rate {rate}": Arm("peers", ("lightning_finetuning", "--rate", rate))
        for rate in LIGHTNING_RATES
    },
    AUTOGLUON: {"AutoGluon medium_quality, 16 a step": Arm("autogluon", ("autogluon_fit", "medium_quality"))},
    "AutoGluon best_quality": {
        "AutoGluon best_quality, 16 a step": Arm("autogluon", ("autogluon_fit", "best_quality"), on_request=True)
    },
}
ARMS: dict[str, Arm] = {name: arm for variants in FAMILIES.values() for name, arm in variants.items()}

# Arms of rows until 2026-11-28 and why no table uses them.
WITHDRAWN: dict[str, str] = {
    "AutoGluon": "128 images a step, which is one step an epoch on a small set",
    "tutorial": "crops 0.08 to 1 and 5 + 5 epochs alone",
    "tutorial, BatchNorm frozen": "crops 0.08 to 1 and 5 + 5 epochs alone",
    "layer decay, one phase": "rate 1e-4 alone",
    "Lightning BackboneFinetuning": "rate 1e-3 alone",
}


def arms_named(names: list[str]) -> list[str]:
    """Return the arms that the names mean: a rival's name means all of its variants."""
    chosen = {arm for name in names for arm in (FAMILIES.get(name) or {name: ARMS[name]})}
    return [name for name in ARMS if name in chosen]
