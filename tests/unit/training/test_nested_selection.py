"""A planted choice that is worth nothing gains nothing: simulated, against the same choice made by all images."""

import numpy as np
from tests.support.priors import linear

from unfreeze.evaluation.calibration import softmax
from unfreeze.evaluation.prior import PriorTable
from unfreeze.training.augmentation import choose_on_folds, select_nested

N_DRAWS, N_IMAGES, N_FOLDS, N_OPTIONS = 300, 60, 5, 40
PRIOR = PriorTable({"any:*": linear(0.0, 1.0)})


def test_options_of_pure_noise_score_at_chance_where_the_other_folds_choose_and_above_it_where_all_images_do() -> None:
    random = np.random.default_rng(0)
    fold = np.arange(N_IMAGES) % N_FOLDS
    nested, naive = [], []
    for _ in range(N_DRAWS):
        labels = random.integers(0, 2, N_IMAGES)
        logits = random.normal(size=(N_OPTIONS, N_IMAGES, 2))
        own = np.take_along_axis(np.stack([softmax(each) for each in logits]), labels[None, :, None], axis=2)[..., 0]
        correct = logits.argmax(axis=2) == labels
        baseline, *others = -np.log(own)
        options = [("any", losses) for losses in others]
        by_fold = np.array(select_nested(baseline, options, PRIOR, fold, N_FOLDS))
        nested.append(correct[by_fold[fold], np.arange(N_IMAGES)].mean())
        naive.append(correct[choose_on_folds(baseline, options, PRIOR, fold, range(N_FOLDS))].mean())
    standard_error = np.std(nested) / np.sqrt(N_DRAWS)
    assert abs(np.mean(nested) - 0.5) < 3 * standard_error
    assert np.mean(naive) > 0.55
