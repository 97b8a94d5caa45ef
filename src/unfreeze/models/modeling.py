"""The classifier of a model folder in plain torch: its head reads pooled outputs of several stages of the network.

    from modeling import load_classifier
    model, labels = load_classifier("FOLDER_OF_THIS_FILE")
    logits = model(images)  # (N, classes), for images (N, 3, height, width)

Images are RGB, resized and cropped as ``pretrained_cfg`` in config.json says, scaled to 0..1, less ``mean``, divided by
``std``.  A model that was trained on numbers in bands reads the channels that ``unfreeze.preprocessing.reading`` in
config.json lists, each scaled from ``low``..``high`` to 0..1; the network reads them in groups.  This file needs torch,
safetensors and timm (torchvision for its networks), and nothing of unfreeze.
"""

import json
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

KEPT_ALIVE: list[object] = []  # the declarations of ``import_torchvision``


def import_torchvision() -> None:
    """Import torchvision, which timm needs, also beside a CPU build of torch that lacks its compiled operators."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        KEPT_ALIVE.append(library)
        import torchvision  # noqa: F401


def pool(x: Tensor, pooling: str, n_class_tokens: int = 0) -> Tensor:
    """Return the features of a stage's output, shape (N, D)."""
    if pooling == "class token and patches":
        return torch.cat([x[:, 0], x[:, n_class_tokens:].mean(1)], 1)
    if pooling.startswith("mean and maximum of maps"):
        dims = (1, 2) if pooling.endswith("channels last") else (2, 3)
        return torch.cat([x.mean(dims), x.amax(dims)], 1)
    return {"maps": lambda: x.mean((2, 3)), "tokens": lambda: x.mean(1), "none": lambda: x}[pooling]()


class Classifier(nn.Module):
    """A network whose modules are hooked where the head reads, and the head."""

    def __init__(self, config: dict) -> None:  # type: ignore[type-arg]
        super().__init__()
        import_torchvision()
        saved, head = config["unfreeze"], config["unfreeze"]["head"]
        if saved["library"] == "timm":
            import timm

            self.network = timm.create_model(saved["name"], **head["arguments"])
            if self.network.num_classes == 0:  # a network without a classifier: its place is hooked
                self.network.reset_classifier(1)
        else:
            from torchvision import models

            self.network = models.get_model(saved["name"], weights=None, **head["arguments"])
        self.stages = head["stages"]
        self.groups = head.get("groups", 1)
        self.features: dict[int, Tensor] = {}
        for index, stage in enumerate(self.stages):
            hook = partial(self._pool, index)
            self.network.get_submodule(stage["input_of"]).register_forward_pre_hook(hook, with_kwargs=True)
        self.head = nn.Linear(sum(stage["dim"] for stage in self.stages), config["num_classes"])

    def _pool(self, index: int, module: nn.Module, args: tuple, kwargs: dict) -> None:  # type: ignore[type-arg]
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        stage = self.stages[index]
        if self.groups > 1:  # the channels of an image's groups are joined
            axis = 1 if "maps" in stage["pooling"] and not stage["pooling"].endswith("last") else x.dim() - 1
            x = torch.unflatten(x, 0, (-1, self.groups)).movedim(1, axis).flatten(axis, axis + 1)
        self.features[index] = pool(x, stage["pooling"], stage.get("n_class_tokens", 0))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (N, classes)."""
        if self.groups > 1:
            images = torch.unflatten(images, 1, (self.groups, -1)).flatten(0, 1)
        self.network(images)
        logits: Tensor = self.head(torch.cat([self.features.pop(index) for index in range(len(self.stages))], 1))
        return logits


def load_classifier(folder: str | Path) -> tuple[Classifier, list[str]]:
    """Return the model in eval mode, and the names of its classes."""
    config = json.loads(Path(folder, "config.json").read_text("utf-8"))
    model, weights = Classifier(config), load_file(Path(folder, "model.safetensors"))
    weights.pop("head_on_stages.center", None)  # the features' mean, for heatmaps
    model.head.load_state_dict({name: weights.pop(f"head_on_stages.{name}") for name in ("weight", "bias")})
    classifier, state = config["pretrained_cfg"]["classifier"] + ".", model.network.state_dict()
    expected = {name: value for name, value in state.items() if not name.startswith(classifier)}
    if {name: value.shape for name, value in expected.items()} != {
        name: value.shape for name, value in weights.items()
    }:
        raise ValueError(f"the weights are not those of {config['architecture']} as it is installed")
    for name, value in expected.items():
        value.copy_(weights[name])
    return model.eval(), config["label_names"]
