"""The commands that use the model of a finished run: predict, explain, eval."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter
from cyclopts.validators import Number

from unfreeze.cli.parameters import UserPath
from unfreeze.errors import ConfigError, PhotosError
from unfreeze.screen import echo, inert_name, tell

if TYPE_CHECKING:
    from unfreeze.cli.outputs import Write
    from unfreeze.data.decode import Trait

STANDARD = Path("-")  # stdin or stdout in place of a file
Output = Annotated[UserPath | None, Parameter(allow_leading_hyphen=True)]


def predict(
    run: UserPath,
    places: Annotated[list[UserPath], Parameter(negative=(), json_list=False, allow_leading_hyphen=True)],
    /,
    *,
    csv: Output = None,
    json: Output = None,
    top: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    null: Annotated[bool, Parameter(name=["--null", "-0"], negative=())] = False,
    device: str = "auto",
) -> None:
    """Predict photos with the model of a finished run: one line per photo, a CSV table, or JSON Lines.

    Args:
        run: The run's folder.
        places: Photos, folders to search for them, quoted patterns such as "photos/**/*.jpg", or - for a list on stdin.
        csv: Write every class's probability to this file; - prints them.
        json: Write one JSON object per photo and line to this file; - prints them.
        top: How many of the most probable classes to write for each photo. Default: 1.
        null: Names on stdin end with a NUL, as find -print0 writes them.
        device: auto, cpu, gpu, cuda, cuda:1 (or 1), mps.
    """
    from unfreeze.data.decode import trait_notes
    from unfreeze.data.places import expand_globs, iter_photos, no_photo_error, read_path_list
    from unfreeze.predict import Unread
    from unfreeze.runs.run import load
    from unfreeze.runtime import prepare_process, progress_bar

    for place in (*places, csv or STANDARD, json or STANDARD):
        if str(place).startswith("-") and place != STANDARD and not place.exists():
            raise ConfigError("There is no such option.", where=place, mend="unfreeze predict --help lists them all.")
    from_stdin = STANDARD in places
    if from_stdin and len(places) > 1:
        raise ConfigError("- takes all photos from stdin.", where="PLACES", mend="Put the other places on the list.")
    if null and not from_stdin:
        raise ConfigError("--null has no meaning without a list on stdin.", where="--null", mend="find ... | ... RUN -")
    if csv == json == STANDARD:
        raise ConfigError("Only one of them can be printed.", where="--csv - --json -")
    if top is not None and csv is not None and json is None:
        raise ConfigError("--top has no meaning with --csv, which has every class.", where="--top")
    prepare_process()
    finished = load(run, device)
    paths: Iterable[Path]
    total = None
    passed_over: list[str] = []
    if from_stdin:
        paths = read_path_list(cast(BufferedIOBase, sys.stdin.buffer), null=null, notes=passed_over)
    else:
        expanded = expand_globs(places)
        paths, total = iter_photos(expanded), sum(1 for _ in iter_photos(expanded, passed_over))
        if not total:
            raise no_photo_error(places, passed_over)
    read = unread = 0
    traits: list[tuple[Trait, ...]] = []
    with ExitStack() as stack:
        writes = list(_outputs(stack, csv, json, top or 1, finished.classes))
        predictions = finished.predictions(paths)
        if not _fills_the_terminal(csv, json, total):
            predictions = progress_bar(predictions, "predicting", total=total, announce=False)
        for prediction in predictions:
            if isinstance(prediction, Unread):
                echo(f"left out: {prediction.error}")
                unread += 1
            else:
                read += 1
                traits += [prediction.traits] if prediction.traits else []
            for write in writes:
                write(prediction)
        if not read + unread:
            raise no_photo_error(places, passed_over)
    for note in (*passed_over, *(trait_notes(traits, finished.reading) if traits else ())):
        echo(f"note: {note}")
    for file in (csv, json):
        if file is not None and file != STANDARD:
            (echo if STANDARD in (csv, json) else tell)(f"{read} predictions in {file}")
    if unread:
        raise PhotosError(f"{unread} of {read + unread} photos can't be read; the others were predicted.")


def _outputs(
    stack: ExitStack, csv: Path | None, json: Path | None, top: int, classes: tuple[str, ...]
) -> Iterator[Write]:
    """Yield a writer of predictions for each output; ``stack`` closes them."""
    from unfreeze.cli.outputs import lines, objects, pages, table
    from unfreeze.files import rewriting

    out = sys.stdout  # while a progress bar is shown, sys.stdout is replaced by one that writes to stderr
    for file, write_into in ((csv, table(classes)), (json, objects(classes, top))):
        if file is not None:
            yield write_into(out if file == STANDARD else stack.enter_context(rewriting(file)))
    if csv is None and json is None:
        yield stack.enter_context(pages(out, classes, top)) if out.isatty() else lines(classes, top)(out)


def _fills_the_terminal(csv: Path | None, json: Path | None, total: int | None) -> bool:
    """Return whether predictions are printed continuously on a terminal, where a progress bar would disturb them."""
    from unfreeze.cli.outputs import PAGE

    if not sys.stdout.isatty():
        return False
    return STANDARD in (csv, json) or (csv is None and json is None and (total is None or total > PAGE))


def explain(
    run: UserPath,
    places: Annotated[list[UserPath], Parameter(negative=(), json_list=False)],
    /,
    *,
    out: UserPath | None = None,
    label: str | None = None,
    device: str = "auto",
) -> None:
    """Draw heatmaps of the evidence for a class: one PNG per photo, whose path is printed.

    Args:
        run: The run's folder.
        places: Photos, folders to search for them, or quoted patterns such as "photos/**/*.jpg".
        out: The folder for the pictures. Default: explained in the run's folder.
        label: The class. Default: each photo's most probable one.
        device: auto, cpu, gpu, cuda, cuda:1 (or 1), mps.
    """
    from unfreeze.data.folders import display_name
    from unfreeze.data.places import find_photos
    from unfreeze.explain import encoded
    from unfreeze.files import write_bytes
    from unfreeze.runs.run import load

    finished = load(run, device)
    paths = find_photos(places)
    folder, n_drawn = out or finished.folder.explained, 0
    for explanation in finished.explain(paths, label=label, skip_damaged=True):
        write_bytes(folder / explanation.file_name, encoded(explanation.picture(), "PNG"))
        path = display_name(str(folder / explanation.file_name))
        print(inert_name(path) if sys.stdout.isatty() else path)  # other programs take it as it is
        n_drawn += 1
    if n_drawn < len(paths):
        raise PhotosError(f"{len(paths) - n_drawn} of {len(paths)} photos can't be read; the others were drawn.")


def evaluate(run: UserPath, photos: UserPath, /, *, sides: str | None = None, device: str = "auto") -> None:
    """Score the model of a finished run on other labelled photos.

    Args:
        run: The run's folder.
        photos: Labelled photos, as for train. All readable photos are scored, whatever their split.
        sides: As for train.
        device: auto, cpu, gpu, cuda, cuda:1 (or 1), mps.
    """
    from unfreeze.runs.run import load

    scores = load(run, device).evaluate(photos, sides=sides)
    tell(f"{scores.n} photos, with 95 % intervals")
    for name, value, (low, high) in scores.rows():
        tell(f"{name:18} {value:.4f}  ({low:.4f} to {high:.4f})")
    n_scored = sum(row.n > 0 for row in scores.per_class)
    if n_scored < len(scores.per_class):
        tell(f"balanced accuracy is over {n_scored} of {len(scores.per_class)} classes: the others have no photo here")
