"""The search for how to unfreeze: candidates are tried on the rounds, one after the other, from the head downwards."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from unfreeze.models.backbone import Backbone, Head, Tensors
from unfreeze.poses import UPRIGHT, Pose
from unfreeze.predict import Logits
from unfreeze.runtime import track
from unfreeze.training.activations import answers_from
from unfreeze.training.finetune import EpochRow, Indices, Trouble, Tuned, Weights, finetune
from unfreeze.training.gather import Sources
from unfreeze.training.interpolate import between
from unfreeze.training.parallel import Follow, n_parallel, run_parallel
from unfreeze.training.recipes import BACK_OFF, Candidate
from unfreeze.training.rounds import Round, TrainingData
from unfreeze.training.selection import Panel

TimeLeft = Callable[[int], bool]
WORDS: dict[Trouble, str] = {
    "not finite": "the loss was no number",
    "collapsed": "validation fell far below where it had begun",
}


@dataclass(frozen=True)
class Trial:
    """A candidate, trained on every round and on all photos.

    Attributes:
        candidate: As it was asked for, or, after trouble, at a tenth of its rates.
        answers: Of every alpha, what each round's model says of the round's photos, each of shape (V, C); none where it went
            wrong at the lower rates, too.
        finals: The model of every round, at alpha 1; the last one is that of all training photos.
        history: A row an epoch.
        trouble: What went wrong at the rates that were asked for.
        seconds: What all of it took.
    """

    candidate: Candidate
    answers: Mapping[float, tuple[Logits, ...]]
    finals: tuple[Weights, ...]
    history: tuple[EpochRow, ...]
    trouble: Trouble | None
    seconds: float

    def setbacks(self) -> Iterator[str]:
        """Yield what went wrong, for people."""
        if self.trouble is not None:
            again = "it was trained again at a tenth of that" if self.answers else "a tenth of it did no better"
            asked = self.candidate.lr / BACK_OFF
            yield f"phase 2 from {self.candidate.depth} went wrong at {asked:g} ({WORDS[self.trouble]}): {again}"


RoomLeft = Callable[[Trial], bool]


@dataclass(frozen=True)
class Bench:
    """What all trainings of phase 2 share.

    Attributes:
        backbone: Changed by every training.
        head: Likewise.
        pretrained: The stages that any of them moves, as they were.
        sources: Activations at the candidates' boundaries.
        data: The photos.
        poses: That models are asked about.
        rounds: Where candidates are judged; the last one learns from all training photos, and may judge nothing.
        starts: What each round's training goes on from.
        alphas: Points between the phases, up to 1.
        seed: Decides the order of photos.
    """

    backbone: Backbone
    head: Head
    pretrained: list[Tensors]
    sources: Sources
    data: TrainingData
    poses: tuple[Pose, ...]
    rounds: Sequence[Round]
    starts: Sequence[Weights]
    alphas: Sequence[float]
    seed: int

    def train(self, candidate: Candidate, start: Weights, on: Round, phase: str, follow: Follow = track) -> Tuned:
        """Go on from phase 1; leaves the backbone where training got to."""
        source = self.sources[candidate.plan.boundary]
        start.install(self.backbone, self.head, self.pretrained)
        features = self.sources[self.backbone.head_boundary] if candidate.schedule.anchor else None
        floor = answers_from(self.backbone, self.head, source, on.val) if len(on.val) else None
        return finetune(
            self.backbone, self.head, source, self.data.labels, candidate.plan, candidate.schedule,
            phase=phase, train=on.train, val=on.val, seed=self.seed, features=features, floor=floor, follow=follow,
        )  # fmt: skip

    def answers(self, model: Weights, candidate: Candidate, photos: Indices) -> Logits:
        """Return what a model says of ``photos``, shape (V, C)."""
        model.install(self.backbone, self.head, self.pretrained)
        return answers_from(self.backbone, self.head, self.sources[candidate.plan.boundary], photos, self.poses)

    def twins(self, count: int) -> list[Bench]:
        """Return this bench and others for trainings beside it, ``count`` in all.

        Their weights are their own from the lowest boundary up; what lies below is shared.
        """
        return [self, *(self._twin() for _ in range(count - 1))]

    def _twin(self) -> Bench:
        changed = self.backbone.stages[len(self.backbone.stages) - len(self.pretrained) :]
        own = {id(value) for stage in changed for value in stage.module.parameters()}
        parameters = [value for value in self.backbone.network.module.parameters() if id(value) not in own]
        shared = {id(value): value for value in (*parameters, self.backbone.built)}
        return replace(self, backbone=copy.deepcopy(self.backbone, shared), head=copy.deepcopy(self.head))


def search(
    bench: Bench, candidates: Sequence[Candidate], panel: Panel, time_left: TimeLeft, room_left: RoomLeft
) -> tuple[Trial, ...]:
    """Try candidates in order, until the panel wants no further one, or there is no time or no room for it.

    Args:
        bench: What trains.
        candidates: From the head downwards; the first is always tried.
        panel: Who judges.
        time_left: Whether there is time for another one, after so many.
        room_left: Whether the last one may forget more than it did: a deeper one will.
    """
    trials: list[Trial] = []
    for candidate in candidates:
        heard = [trial.answers for trial in trials if trial.answers]
        if trials and not (time_left(len(trials)) and panel.wants_more(heard) and room_left(trials[-1])):
            break
        trials.append(try_out(bench, candidate, f"phase 2 from {candidate.depth}"))
    return tuple(trials)


def try_out(bench: Bench, candidate: Candidate, phase: str) -> Trial:
    """Train a candidate on every round; where one goes wrong, all of them once more at a tenth of the rates."""
    started = time.perf_counter()
    asked = _on_rounds(bench, candidate, phase)
    if asked.trouble is None:
        return replace(asked, seconds=time.perf_counter() - started)
    slower = _on_rounds(bench, candidate.slower(), f"{phase}, slower")
    return replace(
        slower, history=asked.history + slower.history, trouble=asked.trouble, seconds=time.perf_counter() - started
    )


def _on_rounds(bench: Bench, candidate: Candidate, phase: str) -> Trial:
    rounds = bench.rounds
    judging = sum(bool(len(each.val)) for each in rounds)

    def on_round(bench: Bench, number: int, follow: Follow) -> tuple[Tuned, dict[float, Logits]]:
        own, start = rounds[number], bench.starts[number]
        name = f"{phase}, validating {number + 1} of {judging}" if len(own.val) else phase
        tuned = bench.train(candidate, start, own, name, follow)
        said: dict[float, Logits] = {}
        for alpha in bench.alphas if len(own.val) and tuned.trouble is None else ():
            model = between(bench.pretrained, start, tuned.weights, alpha)
            known = alpha == 1 and bench.poses == UPRIGHT
            said[alpha] = tuned.validation if known else bench.answers(model, candidate, own.val)
        return tuned, said

    history: list[EpochRow] = []
    finals: list[Weights] = []
    answers: dict[float, list[Logits]] = {alpha: [] for alpha in bench.alphas}
    source, batch_size = bench.sources[candidate.plan.boundary], candidate.schedule.batch_size
    count = n_parallel(bench.backbone, source, candidate.plan, batch_size, len(rounds))
    for tuned, said in run_parallel(bench.twins(count), range(len(rounds)), on_round):
        history.extend(tuned.history)
        if tuned.trouble is not None:
            return Trial(candidate, {}, (), tuple(history), tuned.trouble, 0.0)
        finals.append(tuned.weights)
        for alpha, of_round in said.items():
            answers[alpha].append(of_round)
    return Trial(
        candidate, {alpha: tuple(said) for alpha, said in answers.items()}, tuple(finals), tuple(history), None, 0.0
    )
