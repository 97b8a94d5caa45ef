"""Reference images of the original task, on which forgetting is measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from unfreeze.data.folders import FolderWalk, display_name, quote_list
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.errors import PhotosError


def read_reference(folder: Path, class_names: Sequence[Sequence[str]]) -> PhotoSet:
    """List reference images from ``folder/CLASS/**``, labelled with the matching output of the original head.

    Args:
        folder: Has one folder a class, with any of the class's names; case, underscores and spaces don't matter.
        class_names: For each output of the original head, all its names (WordNet id, synset words, category, ...).

    Returns:
        Images whose ``label`` is an index into ``class_names``; ``classes`` are the first names.  Folders that match no
        output, or several ("crane" is a bird and a machine), are left out with the reason.

    Raises:
        PhotosError: The folder doesn't exist, or no folder in it matches.
    """
    if not folder.is_dir():
        raise PhotosError("There is no such folder of reference photos.", where=folder)
    outputs: dict[str, set[int]] = defaultdict(set)
    for output, names in enumerate(class_names):
        for name in names:
            outputs[_normalized(name)].add(output)
    walk = FolderWalk(folder)
    samples: list[Sample] = []
    skipped: list[str] = []
    for class_folder in walk.folders(folder):
        matches = sorted(outputs.get(_normalized(class_folder.name), ()))
        if len(matches) == 1:
            samples += [Sample(path, walk.name(path), matches[0]) for path in walk.photos(class_folder)]
            continue
        several = f"names several classes: {quote_list(class_names[output][0] for output in matches)}"
        walk.leave_out(class_folder, several if matches else "names no class of the original head", note=False)
        skipped.append(walk.name(class_folder))
    if not samples:
        raise PhotosError(
            "No folder with photos is named like a class of the original head"
            + (f"; there are {quote_list(skipped)}." if skipped else "."),
            where=folder,
            mend=f"Name the folders by WordNet id or class name, such as {quote_list(class_names[0])}.",
        )
    notes = walk.notes()
    if skipped:
        notes.append(
            f"Folders that name no class of the original head, or several, were left out: {quote_list(skipped)}."
        )
    return PhotoSet(
        folder, tuple(names[0] for names in class_names), tuple(samples), tuple(walk.left_out), tuple(notes)
    )


def _normalized(name: str) -> str:
    return " ".join(display_name(name).casefold().replace("_", " ").split())
