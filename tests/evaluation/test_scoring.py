"""Scores of whole songs: averages, intervals, and the way from audio to a score."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.models import config_of

from musicfm_hf import MusicFMForAudioClassification, MusicFMForAudioFrameClassification, load_audio
from musicfm_hf.data.examples import crop_targets
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.bootstrap import (
    Difference,
    bootstrap_interval,
    correct_intervals,
    draw_runs,
    percentile_interval,
)
from musicfm_hf.evaluation.scoring import (
    average_scores,
    difference_of_systems,
    score_song,
    scores_with_intervals,
)
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.feature_cache import EncoderFeatures, FeatureCache
from musicfm_hf.inference.logits import song_logits
from musicfm_hf.tasks import tagging
from musicfm_hf.tasks.annotations import Beats, Segment

TAGS = ["even", "major", "minor"]
NAN = float("nan")


@pytest.fixture(scope="module")
def songs(labeled) -> list[LabeledSong]:
    return load_songs(labeled, "train")


def build(task: str, rate: float | None, **settings):
    config = config_of(task, rate, TAGS if task == "tagging" else None, classifier_proj_size=16, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (MusicFMForAudioClassification if rate is None else MusicFMForAudioFrameClassification)(config)
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "layer_weights")):
                tensor.normal_()
    return model.eval()


SCORES = {
    "beat": ["beat_f", "downbeat_f"],
    "chord": ["majmin", "root"],
    "structure": ["hr05_f", "hr3_f", "frame_accuracy"],
    "key": ["key_weighted", "key_frame"],
}


# From audio to logits


HEADS = {
    "beat": ("beat", 20.0, {"classifier_layer": 2}),
    "chord": ("chord", 8.0, {}),
    "structure, sum of all": ("structure", 5.0, {"use_weighted_layer_sum": True}),
    "key, layer 0": ("key", 0.5, {"classifier_layer": 0}),
    "tagging": ("tagging", None, {}),
    "tagging, sum of all": ("tagging", None, {"use_weighted_layer_sum": True}),
}


@pytest.mark.parametrize("name", HEADS)
def test_logits_from_a_cache_and_from_audio(songs, tmp_path, name):
    task, rate, more = HEADS[name]
    model = build(task, rate, **more)
    settings = WindowSettings(window_seconds=4.0, batch_size=3)
    layers = range(4) if "sum" in name else [3 if model.config.classifier_layer is None else more["classifier_layer"]]
    cache = FeatureCache(tmp_path, EncoderFeatures(model.musicfm, layers, settings), torch.float32)
    cache.fill(songs, 0, progress=False)
    direct = {song.id: logits for song, logits in song_logits(model, songs, settings)}
    assert direct.keys() == {song.id for song in songs}
    for head in (model, model.classifier):  # a classifier in training mode stays so
        head.train()
        for song, logits in song_logits(head, songs, settings, cache):
            np.testing.assert_allclose(logits, direct[song.id], rtol=0, atol=2e-5)
            assert logits.dtype == np.float32
            if rate is not None:
                assert len(logits) == len(crop_targets(model.config, song, 0.0, round(25 * song.duration)))
        assert head.training


def test_logits_of_one_window_are_those_of_the_model(songs):
    model = build("chord", 8.0)
    found = {song.id: logits for song, logits in song_logits(model, songs, WindowSettings(window_seconds=12.0))}
    for song in songs:
        with torch.no_grad():
            expected = model(torch.from_numpy(load_audio(song.audio))[None]).logits[0].numpy()
        np.testing.assert_allclose(found[song.id], expected, rtol=0, atol=2e-5)


# Scores of a song


@pytest.mark.parametrize("task", ["beat", "chord", "structure", "key"])
def test_perfect_logits(songs, task):
    rate = {"beat": 50.0, "chord": 25.0, "structure": 25.0, "key": 1.0}[task]
    config = config_of(task, rate)
    if task == "structure":
        config.decoding = {"peak_window_seconds": 1.0}
    song = songs[0]
    targets = crop_targets(config, song, 0.0, 250).numpy()
    logits = np.where(targets > 0, np.log(np.maximum(targets, 1e-6)), -8.0) if task == "beat" else 16.0 * targets - 8.0
    scores = score_song(config, song, logits)
    assert min(scores[name] for name in SCORES[task]) > 0.95, scores


def test_decoding_settings_are_used(songs):
    """The chord of a single frame is gone where chords last 1 s or more."""
    config = config_of("chord", 10.0)
    song = replace(songs[0], chords=[Segment(0.0, 10.0, "C:maj")])
    logits = np.zeros((100, 25))
    logits[:, 0] = 5.0
    logits[50, 7] = 9.0
    assert score_song(config, song, logits)["majmin"] == pytest.approx(0.99)
    config.decoding = {"min_seconds": 1.0}
    assert score_song(config, song, logits)["majmin"] == pytest.approx(1.0)


def test_the_key_of_a_song_is_its_mean(songs):
    """D for 6 frames by a hair, G for 4 clearly: the key is G, whatever most frames say."""
    config = config_of("key", 1.0)
    song = replace(songs[0], keys=[Segment(0.0, 10.0, "G:maj")])
    logits = np.zeros((10, 25))
    logits[:6, 2], logits[:6, 7], logits[6:, 7] = 2.0, 1.9, 9.0
    scores = score_song(config, song, logits)
    assert scores["key_weighted"] == 1.0
    assert scores["key_frame"] == pytest.approx(0.4 + 0.6 * 0.5)  # D is the fifth above G


def test_tags_of_a_song(songs):
    config = config_of("tagging", None, TAGS)
    found = score_song(config, songs[0], np.array([[0.0, 1.0, -1.0], [0.0, -1.0, -1.0]]))
    expected = {"even": 0.5, "major": 0.5, "minor": 1 / (1 + math.e)}
    assert found["probabilities"] == pytest.approx(expected)
    assert list(found["probabilities"]) == TAGS
    assert found["tags"] == songs[0].tags


# Averages


def test_averages_leave_nan_out():
    config = config_of("beat", 20.0)
    rows = {
        "a": {"beat_f": 0.5, "downbeat_f": NAN},
        "b": {"beat_f": 1.0, "downbeat_f": 0.25},
        "c": {"beat_f": 0.0, "downbeat_f": 0.75},
    }
    assert average_scores(config, rows) == {"beat_f": 0.5, "downbeat_f": 0.5}
    nothing = average_scores(config, {"a": rows["a"]})
    assert nothing["beat_f"] == 0.5
    assert math.isnan(nothing["downbeat_f"])
    summary = scores_with_intervals(config, rows)
    assert summary["beat_f"]["songs"] == 3
    assert summary["downbeat_f"]["songs"] == 2
    assert summary["downbeat_f"]["interval"] == (0.25, 0.75)


def test_averages_of_chords():
    rows = {
        "a": {"majmin": 0.8, "root": 0.9, "seconds": 100.0},
        "b": {"majmin": 0.4, "root": 0.5, "seconds": 300.0},
        "c": {"majmin": 0.0, "root": 0.1, "seconds": 0.0},
    }
    found = average_scores(config_of("chord", 8.0), rows)
    expected = {"majmin": 0.6, "root": 0.7, "majmin_by_duration": (0.8 * 100 + 0.4 * 300) / 400}
    assert found == pytest.approx(expected)
    summary = scores_with_intervals(config_of("chord", 8.0), rows)
    assert summary["majmin"] == {"mean": pytest.approx(0.6), "songs": 2, "interval": (0.4, 0.8)}
    assert "interval" not in summary["majmin_by_duration"]
    nothing = average_scores(config_of("chord", 8.0), {"c": rows["c"]})
    assert math.isnan(nothing["majmin_by_duration"])
    assert math.isnan(nothing["majmin"])


def test_averages_of_tags():
    """
    even: right before wrong, 1. minor: order wrong, right, wrong, right; precision 1/2 at both, of the pairs 1 in 4.
    major: all songs have it, so it is left out.
    """
    probabilities = [(0.9, 0.1, 0.9), (0.8, 0.2, 0.8), (0.3, 0.3, 0.7), (0.1, 0.4, 0.6)]
    tags = [["even", "major"], ["even", "major", "minor", "unheard"], ["major"], ["major", "minor"]]
    rows = {
        str(number): {"probabilities": dict(zip(TAGS, values, strict=True)), "tags": own}
        for number, (values, own) in enumerate(zip(probabilities, tags, strict=True))
    }
    config = config_of("tagging", None, TAGS)
    assert average_scores(config, rows) == pytest.approx({"map": (1 + 0.5) / 2, "roc_auc": (1 + 0.25) / 2})
    summary = scores_with_intervals(config, rows)
    assert (summary["map"]["mean"], summary["map"]["songs"]) == (pytest.approx(0.75), 4)
    samples = tagging.bootstrap(*arrays_of(rows), TAGS)["map"]
    moved = samples - np.nanmean(samples) + 0.75
    assert summary["map"]["interval"] == pytest.approx(tuple(np.nanquantile(moved, [0.025, 0.975])))
    assert summary["map"]["tags"] == pytest.approx({"even": 1.0, "minor": 0.5})
    assert summary["roc_auc"]["tags"] == pytest.approx({"even": 1.0, "minor": 0.25})
    assert summary["map"]["skipped"] == ["major"]


def test_the_interval_of_tags_lies_about_the_score():
    """Of sets with songs drawn twice the average precision is higher, for they hold each other's places."""
    generator = np.random.default_rng(0)
    rows = {
        str(number): {"probabilities": dict(zip(TAGS, generator.random(3), strict=True)), "tags": TAGS[: number % 4]}
        for number in range(60)
    }
    found = scores_with_intervals(config_of("tagging", None, TAGS), rows)["map"]
    samples = tagging.bootstrap(*arrays_of(rows), TAGS)["map"]
    assert samples.mean() > found["mean"] + 0.01
    low, high = found["interval"]
    assert (low + high) / 2 == pytest.approx(found["mean"], abs=0.01)
    assert high - low == pytest.approx(np.quantile(samples, 0.975) - np.quantile(samples, 0.025))


def arrays_of(rows):
    references = [[tag in row["tags"] for tag in TAGS] for row in rows.values()]
    return np.array(references, dtype=int), np.array([list(row["probabilities"].values()) for row in rows.values()])


# Intervals


def test_bootstrap_beside_scipy():
    values = np.random.default_rng(0).beta(5, 2, 40)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = bootstrap_interval([*values, NAN, NAN], draws=50_000)
    assert found == pytest.approx((expected.low, expected.high), abs=0.002)
    narrow = bootstrap_interval(values, draws=50_000, share=0.5)
    assert found[0] < narrow[0] < values.mean() < narrow[1] < found[1]
    deviation = values.std() / math.sqrt(40)
    assert narrow == pytest.approx((values.mean() - 0.6745 * deviation, values.mean() + 0.6745 * deviation), abs=0.002)


def test_bootstrap_of_known_cases():
    assert bootstrap_interval([0.25] * 9) == (0.25, 0.25)
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)  # both are drawn twice in a quarter of all draws
    assert bootstrap_interval([0.0] * 100 + [1.0]) == pytest.approx((0.0, 3 / 101), abs=1e-9)  # about Poisson(1)
    assert all(math.isnan(value) for value in bootstrap_interval([]))
    assert all(math.isnan(value) for value in bootstrap_interval([NAN]))
    values = [0.1, 0.5, 0.8]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1, draws=20) != bootstrap_interval(values, seed=2, draws=20)


def test_beats_without_positions(songs):
    """Downbeats of such a song have no score, and the average is that of the others."""
    config = config_of("beat", 50.0)
    unknown = replace(songs[0], beats=Beats(songs[0].beats.times, np.zeros(len(songs[0].beats.times), dtype=np.int64)))
    logits = np.where(crop_targets(config, songs[0], 0.0, 250) > 0.6, 8.0, -8.0)
    rows = {"known": score_song(config, songs[0], logits), "unknown": score_song(config, unknown, logits)}
    assert math.isnan(rows["unknown"]["downbeat_f"])
    averages = average_scores(config, rows)
    assert averages["downbeat_f"] == rows["known"]["downbeat_f"]
    assert averages["beat_f"] == pytest.approx((rows["known"]["beat_f"] + rows["unknown"]["beat_f"]) / 2)


def test_paired_difference():
    """
    A song without a score on one side is left out. The seeds differ from the other system by 0.1 and 0.3 on all songs,
    so only the draw of seeds counts: a quarter of all samples has the first twice, another one the second.
    """
    first = {str(song): {"beat_f": 0.05 * song} for song in range(8)} | {"c": {"beat_f": NAN}}

    def plus(shift):
        return {song: {"beat_f": 0.9 if song == "c" else row["beat_f"] + shift} for song, row in first.items()}

    second = [plus(0.1), plus(0.3)]
    found = difference_of_systems("beat", [first], second, "beat_f")
    assert (found.mean, found.songs) == (pytest.approx(0.2), 8)
    assert percentile_interval(found.samples) == pytest.approx((0.1, 0.3))
    # A standard deviation of 0.1 / sqrt(2), and 2.3646 for seven degrees of freedom.
    half = 2.3646 * 0.1 / 2**0.5 * (8 / 7) ** 0.5
    assert found.interval() == pytest.approx((0.2 - half, 0.2 + half), rel=0.02)
    assert difference_of_systems("beat", [first], second[:1], "beat_f").interval() == pytest.approx((0.1, 0.1))
    paired = difference_of_systems("beat", [second[0], second[1]], [second[1], second[0]], "beat_f")
    assert paired.mean == 0.0
    assert percentile_interval(paired.samples) == pytest.approx((-0.2, 0.2))
    same = difference_of_systems("beat", second, second, "beat_f")  # seed by seed
    assert same.summary() == {"mean": 0.0, "interval": (0.0, 0.0)}
    none = difference_of_systems("beat", [{"a": {"beat_f": NAN}}], [{"a": {"beat_f": 0.5}}], "beat_f")
    assert all(math.isnan(value) for value in (none.mean, *none.interval()))
    chords = {"a": {"majmin": 0.0, "seconds": 0.0}, "b": {"majmin": 0.5, "seconds": 9.0}}
    better = {"a": {"majmin": 0.0, "seconds": 0.0}, "b": {"majmin": 0.75, "seconds": 9.0}}
    assert difference_of_systems("chord", [chords], [better], "majmin").mean == pytest.approx(0.25)


def test_songs_of_a_difference_are_drawn():
    """Of one run, the samples of the difference are the bootstrap over songs; several runs widen them."""
    generator = np.random.default_rng(0)
    values = generator.normal(0.1, 0.2, 40)
    first = {str(song): {"beat_f": 0.0} for song in range(40)}
    second = {str(song): {"beat_f": value} for song, value in enumerate(values)}
    mean, samples, songs = difference_of_systems("beat", [first], [second], "beat_f", draws=40_000)
    assert songs == 40
    assert mean == pytest.approx(values.mean())
    assert samples.shape == (40_000,)
    assert samples.std() == pytest.approx(values.std() / 40**0.5, rel=0.02)
    assert percentile_interval(samples) == pytest.approx(bootstrap_interval(values, draws=40_000), abs=0.003)
    shifted = [{song: {"beat_f": row["beat_f"] + shift} for song, row in second.items()} for shift in (-0.3, 0.0, 0.3)]
    wide = difference_of_systems("beat", [first], shifted, "beat_f", draws=40_000).samples
    # Three runs with a variance of 0.06 between them, drawn with replacement.
    assert wide.var() == pytest.approx(samples.var() + 0.06 / 3, rel=0.03)


def test_runs_are_drawn_in_pairs():
    samples = [np.arange(1000.0), np.arange(1000.0) + 5000, np.arange(1000.0) + 9000]
    ours, theirs = draw_runs(samples), draw_runs([of_run - 1 for of_run in samples])
    np.testing.assert_allclose(ours - theirs, 1)
    assert len(np.unique(np.round(ours - np.arange(1000)))) == 10  # sums of three of 0, 5000 and 9000
    np.testing.assert_array_equal(draw_runs(samples[:1]), samples[0])
    with_two = draw_runs([of_run - 1 for of_run in samples[:2]])
    assert len(np.unique(ours - with_two)) > 10


def difference(mean: float, error: float, songs: int = 50) -> Difference:
    """A difference whose samples have a standard deviation such that its standard error is `error`."""
    deviation = error * ((songs - 1) / songs) ** 0.5
    return Difference(mean, np.array([mean - deviation, mean + deviation] * 50), songs)


def test_p_values():
    """Student's t with 49 degrees of freedom: 2.0096 for 0.05, and 3.4 for 0.00135 (normal: 0.0007)."""
    assert difference(2.0096, 1.0).p == pytest.approx(0.05, abs=1e-4)
    assert difference(-3.4, 1.0).p == pytest.approx(0.00135, abs=1e-5)
    assert difference(-2.0096, 1.0).interval() == pytest.approx((-4.0192, 0.0), abs=1e-4)
    assert difference(0.0, 0.0).p == 1
    assert Difference(NAN, np.array([NAN]), 0).p == 1
    assert difference(1.0, 0.0, songs=10).p == 2**-9
    assert difference(1.0, 0.0, songs=10).interval() == (1.0, 1.0)


@pytest.mark.parametrize("songs", [1, 2, 5])
def test_few_songs_show_nothing(songs):
    """Five songs that agree have a probability of 1 / 16 without a difference."""
    found = correct_intervals({"a": difference(1.0, 0.001, songs)})["a"]
    assert not found["holds"]
    assert np.isnan(found["corrected_interval"]).all()
    assert correct_intervals({"a": difference(1.0, 0.001, 6)})["a"]["holds"]


def test_correction_for_many_comparisons():
    """
    Of three, with p = 0, 0.02 and 0.04, all hold: 0.02 is less than 0.05 / 2, and 0.04 less than 0.05. With a fourth,
    0.02 is more than 0.05 / 3, and nothing after it holds, though 0.04 is less than 0.05.
    """
    differences = {"c": difference(2.1099, 1.0), "a": difference(20.0, 1.0), "b": difference(-2.4049, 1.0)}
    found = correct_intervals(differences)
    assert list(found) == list(differences)
    assert [value["p"] for value in found.values()] == pytest.approx([0.04, 0, 0.02], abs=1e-4)
    assert [value["holds"] for value in found.values()] == [True, True, True]
    assert found["a"]["corrected_interval"] == pytest.approx((20 - 2.4796, 20 + 2.4796), abs=2e-3)  # 0.05 / 3
    assert found["b"]["corrected_interval"] == pytest.approx((-2.4049 - 2.3125, -2.4049 + 2.3125), abs=2e-3)
    assert found["c"]["corrected_interval"] == pytest.approx((2.1099 - 2.0096, 2.1099 + 2.0096), abs=2e-3)
    more = correct_intervals(differences | {"d": difference(1.9, 1.0)})
    assert {name for name, value in more.items() if value["holds"]} == {"a"}
    assert more["c"]["corrected_interval"] == pytest.approx((2.1099 - 2.4796, 2.1099 + 2.4796), abs=2e-3)
    for value in [*found.values(), *more.values()]:
        low, high = value["corrected_interval"]
        assert value["holds"] == (not low <= 0 <= high)
    assert not correct_intervals({"e": Difference(NAN, np.array([NAN, NAN]), 3)})["e"]["holds"]


@pytest.mark.parametrize(("songs", "differences"), [(50, 46), (10, 9)])
def test_errors_are_as_rare_as_promised(songs, differences):
    """Of 400 studies without a true difference, at most about 20 find one; 33 are three standard deviations more."""
    generator = np.random.default_rng(0)
    weights = generator.multinomial(songs, np.full(songs, 1 / songs), size=2000) / songs
    wrong = 0
    for _ in range(400):
        values = generator.standard_normal((songs, differences))
        samples = weights @ values
        named = {str(k): Difference(values[:, k].mean(), samples[:, k], songs) for k in range(differences)}
        wrong += any(found["holds"] for found in correct_intervals(named).values())
    assert 4 <= wrong <= 32


def test_paired_difference_of_tags():
    """Songs are drawn as sets: of what is always as good the interval is 0, and it is narrower than that of either."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (40, len(TAGS)))
    noise = generator.normal(size=truth.shape)

    def rows(scores):
        return {
            str(index): {
                "probabilities": dict(zip(TAGS, row, strict=True)),
                "tags": [tag for tag, own in zip(TAGS, truth[index], strict=True) if own],
            }
            for index, row in enumerate(scores)
        }

    good, better = rows(truth + noise), rows(1.2 * truth + noise)
    same = difference_of_systems("tagging", [good], [rows(2 * truth + 2 * noise)], "map")
    assert same.summary() == {"mean": 0.0, "interval": (0.0, 0.0)}
    found = difference_of_systems("tagging", [good], [better], "map").summary()
    config = config_of("tagging", None, TAGS)
    scores = [scores_with_intervals(config, own)["map"] for own in (good, better)]
    assert found["mean"] == pytest.approx(scores[1]["mean"] - scores[0]["mean"])
    low, high = found["interval"]
    assert 0 < low < found["mean"] < high
    assert high - low < 0.5 * (scores[0]["interval"][1] - scores[0]["interval"][0])


def test_systems_with_other_tags_are_not_compared():
    def rows(*labels):
        return {str(song): {"probabilities": dict.fromkeys(labels, 0.5), "tags": ["slow"]} for song in range(2)}

    with pytest.raises(ValueError, match=r"The systems predict different labels: slow, fast or slow, loud\."):
        difference_of_systems("tagging", [rows("slow", "fast")], [rows("slow", "loud")], "map")
