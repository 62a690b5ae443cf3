"""The scikit-learn estimator, as scikit-learn and its users take it."""

import io
import pickle

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import minicnn as api
from minicnn.sklearn import EXPECTED_FAILED_CHECKS, MiniCNNClassifier

DIGITS, DIGIT = load_digits(return_X_y=True)
FEW, FEW_LABELS = DIGITS[:300], DIGIT[:300]
ROWS = {"image_shape": (8, 8), "max_iter": 4, "random_state": 0, "threads": 1}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_checks_of_scikit_learn():
    found = check_estimator(
        MiniCNNClassifier(threads=1),
        on_fail=None,
        on_skip=None,
        expected_failed_checks=EXPECTED_FAILED_CHECKS,
    )
    failed = {check["check_name"]: check["status"] for check in found}
    assert {name for name, status in failed.items() if status == "xfail"} == set(
        EXPECTED_FAILED_CHECKS
    )
    assert not [name for name, status in failed.items() if status == "failed"]
    assert list(failed.values()).count("passed") > 40


def test_digits_are_learnt_and_scored():
    classifier = MiniCNNClassifier("vgg-small", **ROWS).fit(DIGITS[:1200], DIGIT[:1200])
    assert classifier.score(DIGITS[1200:], DIGIT[1200:]) > 0.85
    assert classifier.n_iter_ == len(classifier.loss_curve_) == 4
    assert classifier.loss_curve_[-1] < 0.5 * classifier.loss_curve_[0]
    np.testing.assert_allclose(classifier.predict_proba(FEW).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (FEW.reshape(-1, 8, 8), {}),
        (FEW.reshape(-1, 8, 8, 1), {}),
        (FEW.reshape(-1, 1, 8, 8), {"channels": "first"}),
        (FEW, {"image_shape": (8, 8)}),
        (FEW, {"image_shape": (8, 8, 1)}),
    ],
)
def test_every_layout_of_the_same_images_gives_the_same_model(images, options):
    expected = MiniCNNClassifier(**ROWS).fit(FEW, FEW_LABELS)
    found = MiniCNNClassifier(**ROWS | {"image_shape": None} | options).fit(images, FEW_LABELS)
    np.testing.assert_array_equal(found.predict_proba(images), expected.predict_proba(FEW))


def test_bytes_are_scaled_and_not_standardised():
    classifier = MiniCNNClassifier(**ROWS).fit((FEW * 15).astype(np.uint8), FEW_LABELS)
    assert classifier.mean_ is None and classifier.model_.maximum == 255


@pytest.mark.parametrize(
    "labels",
    [np.array(["even", "odd"])[FEW_LABELS % 2], FEW_LABELS % 2 == 1, FEW_LABELS % 2 * 5 - 7],
)
def test_labels_are_given_back_as_they_were(labels):
    classifier = MiniCNNClassifier(**ROWS).fit(FEW, labels)
    found = classifier.predict(FEW)
    assert found.dtype == labels.dtype and (found == labels).mean() > 0.8
    np.testing.assert_array_equal(classifier.classes_, np.unique(labels))


def test_partial_fit_goes_on_and_knows_classes_that_come_later():
    classifier = MiniCNNClassifier(**ROWS)
    first = FEW_LABELS < 5
    classifier.partial_fit(FEW[first], FEW_LABELS[first], classes=np.arange(10))
    for _ in range(3):
        classifier.partial_fit(FEW, FEW_LABELS)
    assert classifier.n_iter_ == 4 and classifier.predict_proba(FEW).shape == (300, 10)
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[1]
    with pytest.raises(ValueError, match="the label 10"):
        classifier.partial_fit(FEW, FEW_LABELS + 2)


def test_warm_start_goes_on_and_else_each_fit_begins_anew():
    classifier = MiniCNNClassifier(**ROWS, warm_start=True).fit(FEW, FEW_LABELS)
    before = classifier.loss_curve_
    assert classifier.fit(FEW, FEW_LABELS).loss_curve_[0] < before[1]
    classifier.set_params(warm_start=False).fit(FEW, FEW_LABELS)
    assert classifier.loss_curve_ == before
    assert classifier.set_params(random_state=1).fit(FEW, FEW_LABELS).loss_curve_ != before


def test_what_is_kept_is_the_average_where_one_is():
    plain, averaged = (
        MiniCNNClassifier("mlp", **ROWS, options=options).fit(FEW, FEW_LABELS)
        for options in ({}, {"ema": 0.9})
    )
    assert averaged.loss_curve_ == plain.loss_curve_  # training is the same
    assert (averaged.model_.params != plain.model_.params).any()


def test_weights_of_samples_and_of_classes_multiply():
    labels = (FEW_LABELS > 6).astype(int)

    def ones(**options):
        weight = options.pop("sample_weight", None)
        made = MiniCNNClassifier(**ROWS, **options)
        return made.fit(FEW, labels, sample_weight=weight).predict(FEW).sum()

    assert ones(class_weight={0: 100, 1: 0.01}) < ones(class_weight={0: 0.01, 1: 100})
    of_class = MiniCNNClassifier(**ROWS, class_weight={1: 3.0}).fit(FEW, labels)
    of_sample = MiniCNNClassifier(**ROWS).fit(FEW, labels, np.where(labels == 1, 3.0, 1.0))
    assert of_class.loss_curve_ == of_sample.loss_curve_
    ones(class_weight="balanced", sample_weight=np.ones(300))


def test_early_stopping_ends_when_the_validation_loss_no_longer_falls():
    rng = np.random.default_rng(0)
    classifier = MiniCNNClassifier(
        **ROWS | {"max_iter": 50}, early_stopping=True, n_iter_no_change=2
    ).fit(FEW, rng.permutation(FEW_LABELS))
    assert classifier.n_iter_ < 50
    assert len(classifier.validation_scores_) == classifier.n_iter_


def test_clone_pickle_and_joblib_keep_what_matters():
    network = api.preset("softmax", (8, 8, 1), 10)
    classifier = MiniCNNClassifier(network, **ROWS).fit(FEW, FEW_LABELS)
    fresh = clone(classifier)
    assert fresh.get_params() == classifier.get_params() and not hasattr(fresh, "model_")
    file = io.BytesIO()
    joblib.dump(classifier, file)
    file.seek(0)
    for copy in (pickle.loads(pickle.dumps(classifier)), joblib.load(file)):
        np.testing.assert_array_equal(copy.predict_proba(FEW), classifier.predict_proba(FEW))


def test_a_grid_search_in_two_processes_finds_what_one_finds():
    pipeline = make_pipeline(StandardScaler(), MiniCNNClassifier(**ROWS | {"threads": None}))
    grid = {"minicnnclassifier__learning_rate": [1e-5, 1e-2]}
    searches = [
        GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs, error_score="raise").fit(FEW, FEW_LABELS)
        for jobs in (1, 2)
    ]
    assert searches[1].best_params_ == {"minicnnclassifier__learning_rate": 1e-2}
    np.testing.assert_allclose(*(s.cv_results_["mean_test_score"] for s in searches), atol=0.02)


def test_a_worker_takes_no_more_threads_than_joblib_leaves_to_it():
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        threads = joblib.Parallel(n_jobs=2)(joblib.delayed(_threads)() for _ in range(2))
    assert threads == [1, 1]
    assert cross_val_score(MiniCNNClassifier(**ROWS), FEW, FEW_LABELS, cv=2).min() > 0.3


def _threads() -> int:
    from minicnn.backends.cpu import resolve_threads

    return resolve_threads()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "minicnn.sklearn")
    with pytest.raises(ImportError, match=r"minicnn-numba\[sklearn\]"):
        import minicnn.sklearn  # noqa: F401
