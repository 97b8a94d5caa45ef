"""The FastAPI application: routes, response models, error handlers and the HTML page."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, Field

from unfreeze.errors import FormatError, SizeError
from unfreeze.serve.guard import OriginGuard
from unfreeze.serve.limits import Limits, LimitsMiddleware
from unfreeze.serve.metrics import CONTENT_TYPE, Metrics, MetricsMiddleware
from unfreeze.serve.model import ImagePrediction, RefusedError, Served, Upload
from unfreeze.serve.worker import BusyError, open_worker
from unfreeze.version import __version__

PREDICT = "/predict"


class ServedModel(BaseModel):
    """The served model."""

    name: str = Field(description="The backbone.")
    depth: str = Field(description="The first stage of this model that phase 2 trained; head: none.")
    shipped: Literal["two_phase", "head_only"] = Field(description="Which of the run's two models it is.")


class ClassProbability(BaseModel):
    """One class and how probable it is."""

    label: str
    probability: float = Field(ge=0, le=1, description="Calibrated on photos that the model hadn't seen.")


class PhotoPrediction(BaseModel):
    """The prediction for one photo."""

    file_name: str = Field(description="As it was sent.")
    label: str = Field(description="The most probable class.")
    probabilities: list[ClassProbability] = Field(description="The most probable class first.")
    view: str | None = Field(None, description="The network's input: a JPEG in base64.")
    note: str | None = Field(None, description="Which part of the photo that is, where the network sees several.")
    heatmap: str | None = Field(
        None, description="The same with the evidence for the label in colour: a JPEG in base64."
    )


class Predictions(BaseModel):
    """The predictions for one request, in the order of its photos."""

    model: ServedModel
    seconds: float = Field(ge=0, description="For all photos, waiting included.")
    photos: list[PhotoPrediction]


class Problem(BaseModel):
    """The reason why a request failed."""

    detail: str = Field(description="A sentence for people.")
    file_name: str | None = Field(None, description="The photo that it is about, where it is about one.")


class Health(BaseModel):
    """The server is up, and its model is loaded."""

    status: Literal["ok"] = "ok"
    model: ServedModel
    classes: list[str]


def _problem(description: str, **extra: Any) -> dict[str, Any]:
    return {"model": Problem, "description": description, **extra}


WRONG_HOST: dict[int | str, dict[str, Any]] = {
    400: {
        "description": "The Host header is no name of this server.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The body isn't well-formed, or the Host header is no name of this server."),
    403: _problem("A browser sends this for the page of another site."),
    413: _problem("The body is too long, or a photo has too many pixels."),
    415: _problem("A file is no photo, or not in an accepted format."),
    422: _problem("A photo is damaged, or a parameter is wrong."),
    503: _problem(
        "Too many requests are waiting.",
        headers={"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
    ),
    504: _problem("It took too long."),
}


def create_app(served: Served, names: frozenset[str], limits: Limits | None = None) -> FastAPI:
    """Return the application that serves a model.

    Args:
        served: The run and its model.
        names: Host names that requests may carry in ``Host``; IP addresses are always accepted.
        limits: Limits per request and of the queue.
    """
    limits = limits or Limits()
    metrics = Metrics()
    classes = served.run.classes
    verdict = served.run.verdict
    depth = verdict.model.depth if verdict.shipped == "two_phase" else "head"
    model = ServedModel(name=verdict.model.name, depth=depth, shipped=verdict.shipped)
    page = _page(served, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with open_worker(limits.max_queue) as worker:
            yield {"worker": worker}

    app = FastAPI(
        title="unfreeze",
        description="Class probabilities of photos, by a fine-tuned image classifier.",
        version=__version__,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    app.add_middleware(LimitsMiddleware, limits=limits)
    app.add_middleware(OriginGuard, names=names)
    app.add_middleware(MetricsMiddleware, metrics=metrics, path=PREDICT)  # added last: outermost
    app.mount("/static", StaticFiles(packages=[("unfreeze.serve", "static")]))

    @app.post(PREDICT, responses=PROBLEMS, response_model_exclude_none=True)
    async def predict(
        request: Request,
        photos: Annotated[list[UploadFile], File(min_length=1, max_length=limits.photos)],
        top: Annotated[int, Query(ge=1, description="How many classes are named of each photo.")] = len(classes),
        heatmap: Annotated[bool, Query(description="Whether pictures of the evidence are wanted.")] = False,
    ) -> Predictions:
        """Return the class probabilities of one photo or several, which are sent as multipart/form-data."""
        start = time.monotonic()
        uploads = [Upload(_name(photo, number), photo.file) for number, photo in enumerate(photos, 1)]
        try:
            predictions = await request.state.worker.run(
                served.predict, uploads, limits.accepted, explain=heatmap, until=start + limits.seconds
            )
        except BusyError:
            raise HTTPException(503, "The server is busy. Try again in a moment.", {"Retry-After": "1"}) from None
        metrics.photos.inc(len(predictions))
        return Predictions(
            model=model,
            seconds=time.monotonic() - start,
            photos=[_photo_prediction(prediction, classes, top) for prediction in predictions],
        )

    @app.get("/health", responses=WRONG_HOST)
    async def health() -> Health:
        """Say that the server is up, and what it serves."""
        return Health(model=model, classes=list(classes))

    @app.get("/metrics", responses=WRONG_HOST, response_class=PlainTextResponse)
    async def counters() -> PlainTextResponse:
        """Return counters in Prometheus' text format."""
        return PlainTextResponse(metrics.encode(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def read_page() -> HTMLResponse:
        return HTMLResponse(page)

    app.add_exception_handler(RefusedError, _refused_response)
    app.add_exception_handler(RequestValidationError, _invalid_response)
    return app


async def _refused_response(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    reason = error.reason
    status = 415 if isinstance(reason, FormatError) else 413 if isinstance(reason, SizeError) else 422
    detail = f"{reason.what} {reason.mend or ''}".strip()
    return JSONResponse({"detail": detail, "file_name": error.name}, status)


async def _invalid_response(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    parameter = ".".join(str(part) for part in first["loc"][1:]) or "request"
    detail = f"{parameter}: {first['msg']}."
    if first["loc"][0] == "body":
        detail += " Photos are sent as files named photos in multipart/form-data: curl -F photos=@photo.jpg"
    return JSONResponse({"detail": detail}, 422)


def _name(photo: UploadFile, number: int) -> str:
    """Return a file name that can be encoded as JSON: some form encodings decode to lone surrogates."""
    return (photo.filename or f"photo {number}").encode("utf-8", "replace").decode("utf-8")


def _photo_prediction(prediction: ImagePrediction, classes: tuple[str, ...], top: int) -> PhotoPrediction:
    ranked = sorted(zip(prediction.probabilities, classes, strict=True), key=lambda pair: -pair[0])
    return PhotoPrediction(
        file_name=prediction.name,
        label=ranked[0][1],
        probabilities=[ClassProbability(label=name, probability=value) for value, name in ranked[:top]],
        view=prediction.view,
        heatmap=prediction.heatmap,
        note=prediction.note,
    )


def _page(served: Served, limits: Limits) -> str:
    environment = Environment(
        loader=PackageLoader("unfreeze.serve"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        run=served.run, name=served.run.folder.root.resolve().name, limits=limits, version=__version__
    )
