from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.training import task

from unfreeze.data.sources import Sample
from unfreeze.data.splits import Splits
from unfreeze.training.folds import Folds, TrainingSet, concat_folds, fold_labels, labels_by_fold

JUDGES = 100


def data_of(train: int, val: int = 0, folds: int = 5) -> TrainingSet:
    indices = np.arange(train + val)
    fold = np.arange(train) % folds
    return TrainingSet(torch.arange(train + val + 9) % 3, indices[:train], indices[train:], fold, 3, indices)


# What training may see


def test_training_asks_for_no_photo_of_the_test_set(photos: tuple[Path, ...]) -> None:
    given = task(photos, train=12, val=6)
    wanted = given.data.requested_views(3)
    assert set(wanted) == set(range(18))
    assert not set(wanted) & set(given.test.tolist())
    assert {photo: tuple(views) for photo, views in wanted.items()} == {
        **dict.fromkeys(range(12), (0, 1, 2)), **dict.fromkeys(range(12, 18), (0,)),
    }  # fmt: skip


def test_training_knows_its_photos_by_its_own_numbers() -> None:
    train, val, test = np.array([1, 4, 6]), np.array([0, 5]), np.array([2, 3])
    splits = Splits(train, val, test, np.array([-1, 2, -1, -1, 0, -1, 1]))
    learning = [Sample(Path(), "", label) for label in (2, 0, 1, 1, 2)]
    data = TrainingSet.of(learning, splits, 3)
    assert (data.train.tolist(), data.val.tolist(), data.fold.tolist()) == ([0, 1, 2], [3, 4], [2, 0, 1])
    assert (data.labels.tolist(), data.n_classes) == ([2, 0, 1, 1, 2], 3)
    assert data.ids.tolist() == [1, 4, 6, 0, 5]


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [0, 4, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (400, list(range(10)))]
)
def test_some_of_the_photos_are_spread_over_all(count: int, expected: list[int]) -> None:
    data = data_of(10, val=2)
    some = data.subsample(count)
    assert some.train.tolist() == expected
    assert some.fold.tolist() == [photo % 5 for photo in expected]
    assert (some.val.tolist(), some.n_classes) == ([10, 11], 3)
    assert some.labels is data.labels
    assert some.ids is data.ids


# Who judges


def test_the_users_validation_is_the_only_round() -> None:
    folds = Folds.of(data_of(20, 7), JUDGES)
    (only,) = folds.validation
    assert only.train.tolist() == list(range(20))
    assert only.val.tolist() == list(range(20, 27))
    assert only.fold is None
    assert folds.final is None  # it is trained on all training images already
    assert folds.trainings == (only,)
    assert folds.n_validation == 7


@pytest.mark.parametrize(
    ("train", "rounds"), [(40, 5), (JUDGES, 5), (2 * JUDGES, 3), (5 * JUDGES, 1), (JUDGES * 20, 1)]
)
def test_there_are_as_many_folds_as_give_enough_judges(train: int, rounds: int) -> None:
    data = data_of(train)
    folds = Folds.of(data, JUDGES)
    found = folds.validation
    assert [each.fold for each in found] == list(range(rounds))
    for each in found:
        assert sorted([*each.train, *each.val]) == list(range(train))
        assert {int(data.fold[photo]) for photo in each.val} == {each.fold}
    assert folds.n_validation == sum(len(each.val) for each in found) >= min(train, JUDGES)
    assert folds.trainings == (*found, folds.final)
    assert folds.final is not None
    assert (folds.final.train.tolist(), folds.final.val.tolist(), folds.final.fold) == (list(range(train)), [], None)


def test_one_fold_is_held_out_for_one_judge_and_none_for_none() -> None:
    assert [each.fold for each in Folds.of(data_of(40), 1).validation] == [0]
    for data in (data_of(40), data_of(40, 7)):
        folds = Folds.of(data, 0)
        assert (folds.validation, folds.n_validation) == ((), 0)
        (only,) = folds.trainings
        assert (only.train.tolist(), only.val.tolist(), only.fold) == (list(range(40)), [], None)


def test_truth_and_answers_are_joined_in_the_rounds_order() -> None:
    data = data_of(20)
    rounds = Folds.of(data, 20).validation
    assert fold_labels(rounds, data).tolist() == [photo % 3 for fold in range(5) for photo in range(fold, 20, 5)]
    assert fold_labels(rounds[1:2], data).tolist() == [photo % 3 for photo in range(1, 20, 5)]
    assert [each.tolist() for each in labels_by_fold(rounds, data)] == [
        [photo % 3 for photo in range(fold, 20, 5)] for fold in range(5)
    ]
    answers = [np.full((4, 3), number, np.float32) for number in range(5)]
    np.testing.assert_array_equal(concat_folds(answers, 3)[:, 0], np.arange(5).repeat(4))


def test_without_rounds_there_is_neither_truth_nor_answer() -> None:
    assert fold_labels((), data_of(20)).tolist() == []
    assert concat_folds([], 3).shape == (0, 3)
    assert concat_folds([], 3).dtype == np.float32
