"""The `evaluate` modules: the same as mir_eval and scikit-learn called the long way; offline, in an empty cache."""

import itertools
import json
import math
import os
import subprocess
import sys
import warnings

import mir_eval
import numpy as np
import pytest
import sklearn.metrics
from helpers.paths import ROOT

from musicfm_hf.metrics.beat import Beat
from musicfm_hf.metrics.chord import Chord
from musicfm_hf.metrics.key import Key
from musicfm_hf.metrics.structure import Structure
from musicfm_hf.metrics.tagging import Tagging
from musicfm_hf.tasks.annotations import PITCH_NAMES, Beats, Segment

METRICS = ROOT / "src/musicfm_hf/metrics"
SEEDS = range(20)
KINDS = """maj min 7 maj7 min7 maj6 min6 9 minmaj7 hdim7 dim dim7 aug sus2 sus4 5 1 maj/3 maj/5 min/b3 min/5 7/b7
    min7/b7 maj/2 min/3 sus4(b7)""".split()
COMPARISONS = """root majmin majmin_inv thirds thirds_inv triads triads_inv tetrads tetrads_inv sevenths sevenths_inv
    mirex""".split()
MODES = {"maj": "major", "min": "minor"}
FUNCTIONS = ("intro", "verse", "chorus", "bridge", "inst", "outro", "Verse 2", "Pre-Chorus", "guitar solo", "silence")


def compute(metric, **inputs):
    """Scores without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return metric(keep_in_memory=True).compute(**inputs)


def quietly(function, *arguments, **options):
    """mir_eval warns where nothing can be scored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def equal(found, expected):
    assert set(found) >= set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def split(segments):
    """Intervals and labels as mir_eval takes them."""
    return np.array([segment[:2] for segment in segments]).reshape(-1, 2), [segment.label for segment in segments]


def contiguous(generator, labels, seconds, start=0.0, longest=6.0):
    """Segments to about `seconds` on a grid of 1/8 s."""
    edges = [start]
    while edges[-1] < seconds:
        edges.append(edges[-1] + int(generator.integers(1, int(8 * longest))) / 8)
    return [Segment(a, b, str(generator.choice(labels))) for a, b in itertools.pairwise(edges)]


def disturbed(generator, segments, labels):
    """An estimate: moved boundaries, other labels here and there, another start and end."""
    found = []
    for start, end, label in segments:
        start = found[-1].end if found else max(0.0, start + float(generator.choice([-1.0, 0.0, 1.5])))
        end = max(start + 0.0625, end + float(generator.normal(0, 0.3)))
        found.append(Segment(start, end, label if generator.random() < 0.6 else str(generator.choice(labels))))
    cut = int(generator.integers(0, 3))  # shorter, as long, or longer
    if cut == 2:
        return [*found, Segment(found[-1].end, found[-1].end + 7.0, str(generator.choice(labels)))]
    return found[: max(1, len(found) - 3 * cut)]


# ---- chords


def chord_songs():
    labels = [f"{name}:{kind}" for name in PITCH_NAMES for kind in KINDS] + ["N", "X", "Gb", "E#:min"]
    simple = [f"{name}:{third}" for name in PITCH_NAMES for third in ("maj", "min")] + ["N"]
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        # Few labels, so that some are right.
        own = [str(label) for label in generator.choice(labels, 4)] + ["C:maj", "C/3", "A:min7", "N", "X"]
        reference = contiguous(generator, own, 60, start=float(generator.choice([0.0, 0.0, 2.5])))
        yield reference, disturbed(generator, reference, own if seed % 2 else simple)
    song = [Segment(0.0, 30.0, "C:maj"), Segment(30.0, 40.0, "N")]
    yield song, []
    yield song, [Segment(0.0, 40.0, "N")]
    yield [Segment(0.0, 40.0, "N")], [Segment(0.0, 40.0, "N")]
    yield [Segment(0.0, 40.0, "N")], []
    yield [Segment(0.0, 40.0, "X")], [Segment(0.0, 40.0, "C:maj")]
    yield [Segment(0.0, 9.0, "C:sus4"), Segment(9.0, 18.0, "D:5")], [Segment(0.0, 18.0, "C:maj")]
    yield song, [Segment(0.0, 5.0, "C:maj")]
    yield song, [Segment(10.0, 500.0, "C:maj")]
    yield song, [Segment(50.0, 60.0, "C:maj")]
    yield [Segment(20.0, 30.0, "C:maj")], [Segment(0.0, 10.0, "C:maj")]
    yield [Segment(20.0, 30.0, "C:maj")], [Segment(0.0, 20.0, "N"), Segment(20.0, 30.0, "C:maj")]


def chord_scores(reference, estimate):
    """The steps of mir_eval's own example."""
    intervals, labels = split(reference)
    span = intervals.min(), intervals.max()
    estimated = mir_eval.util.adjust_intervals(*split(estimate), *span, "N", "N")
    intervals, labels, names = mir_eval.util.merge_labeled_intervals(intervals, labels, *estimated)
    durations = mir_eval.util.intervals_to_durations(intervals)
    found = {}
    for name in COMPARISONS:
        right = getattr(mir_eval.chord, name)(labels, names)
        found[name] = quietly(mir_eval.chord.weighted_accuracy, right, durations)
        if name not in ("majmin", "root") and not durations[right >= 0].sum():
            found[name] = float("nan")  # nothing can be compared
    return found | {"seconds": float(durations[mir_eval.chord.majmin(labels, names) >= 0].sum())}


def test_chords_as_mir_eval():
    references, estimates = zip(*chord_songs(), strict=True)
    found = compute(Chord, predictions=estimates, references=references)
    for index, (reference, estimate, song) in enumerate(zip(references, estimates, found["songs"], strict=True)):
        equal(song, chord_scores(reference, estimate))
        if index < len(SEEDS):
            expected = quietly(mir_eval.chord.evaluate, *split(reference), *split(estimate))
            equal(song, {name: expected[name] for name in COMPARISONS})
    seconds = np.array([song["seconds"] for song in found["songs"]])
    scores = np.array([[song["majmin"], song["root"]] for song in found["songs"]])
    scored = seconds > 0
    assert scored.sum() >= 20
    assert not scored.all()
    assert len(np.unique(scores[:20, 0])) > 15
    means = scores[scored].mean(axis=0)
    by_duration = np.average(scores[:, 0], weights=seconds)
    equal(found, {"majmin": means[0], "root": means[1], "majmin_by_duration": by_duration})


# ---- keys


def key_songs():
    labels = [f"{name}:{mode}" for name in PITCH_NAMES for mode in MODES]
    near = ["C:maj", "G:maj", "F:maj", "A:min", "C:min", "N"]
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        own = near if seed % 2 else labels
        reference = contiguous(generator, own[:5], 100, longest=60)
        yield reference, disturbed(generator, reference, own), str(generator.choice(own))
    song = [Segment(0.0, 30.0, "Cb major")]
    yield song, [Segment(0.0, 30.0, "F#:maj")], "B:maj"
    yield song, [], "N"
    yield [Segment(0.0, 30.0, "none")], [Segment(0.0, 30.0, "C:maj")], "C:maj"
    yield [Segment(0.0, 30.0, "N")], [], "N"
    yield song, [Segment(0.0, 3.0, "B:maj")], "B:min"


def mir_eval_key(label):
    if label in ("N", "none"):
        return "X"
    return "B major" if label == "Cb major" else f"{label.split(':')[0]} {MODES[label.split(':')[1]]}"


def label_at(segments, time):
    return next((label for start, end, label in segments if start <= time < end), "N")


def test_keys_as_mir_eval():
    references, estimates, keys = zip(*key_songs(), strict=True)
    found = compute(Key, predictions=estimates, references=references, keys=keys)
    for reference, estimate, song_key, song in zip(references, estimates, keys, found["songs"], strict=True):
        seconds = {}
        for start, end, label in reference:
            seconds[label] = seconds.get(label, 0) + end - start
        main = max(seconds, key=seconds.get)
        equal(song, {"key_weighted": mir_eval.key.weighted_score(mir_eval_key(main), mir_eval_key(song_key))})
        # Over time: between all boundaries of both.
        times = {time for segment in (*reference, *estimate) for time in segment[:2]}
        times = sorted(time for time in times if reference[0].start <= time <= reference[-1].end)
        stretches = [
            (
                b - a,
                mir_eval.key.weighted_score(mir_eval_key(label_at(reference, a)), mir_eval_key(label_at(estimate, a))),
            )
            for a, b in itertools.pairwise(times)
        ]
        total = sum(length for length, _ in stretches)
        equal(song, {"key_frame": sum(length * value for length, value in stretches) / total})
    assert {song["key_weighted"] for song in found["songs"]} == {0, 0.2, 0.3, 0.5, 1}
    for name in ("key_weighted", "key_frame"):
        equal(found, {name: np.mean([song[name] for song in found["songs"]])})


def test_songs_without_a_key_are_left_out():
    c, x = [Segment(0.0, 9.0, "C")], [Segment(0.0, 9.0, "X")]
    found = compute(Key, predictions=[c, c, c], references=[x, c, []])
    equal(found, {"key_weighted": 1.0, "key_frame": 1.0})
    assert math.isnan(found["songs"][0]["key_weighted"])
    equal(compute(Key, predictions=[c], references=[x]), {"key_weighted": math.nan, "key_frame": math.nan})
    with pytest.raises(ValueError, match="2 songs, got 1"):
        compute(Key, predictions=[c, c], references=[c, c], keys=["C"])


# ---- beats


def beat_songs():
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        period, meter = generator.uniform(0.3, 1.0), int(generator.choice([3, 4]))
        times = generator.uniform(0, 3) + period * np.arange(60)
        times = np.sort(times + generator.normal(0, 0.01, 60)).clip(0)
        positions = np.arange(60) % meter + 1
        kept = generator.random(60) < 0.8
        # Moved by as much as the window, or at twice the tempo.
        found = np.unique((times[kept] + generator.normal(0, 0.05, kept.sum())).clip(0))
        found = found if seed % 3 else np.unique(np.concatenate([found, found + period / 2]))
        found_positions = np.roll(np.arange(len(found)) % meter + 1, seed % 2)
        yield Beats(times, positions), Beats(found, found_positions)
    song = Beats(np.arange(0.5, 20.5, 0.5), np.arange(40) % 4 + 1)
    nothing = Beats(np.zeros(0), np.zeros(0, dtype=np.int64))
    one = Beats(np.array([8.0]), np.array([1]))
    yield song, nothing
    yield nothing, song
    yield nothing, nothing
    yield song, one
    yield one, song
    yield one, one
    yield song, Beats(song.times[:4], song.positions[:4])  # all in the first 5 s
    yield song, Beats(song.times[:5] + 600, song.positions[:5])
    yield song, song
    yield song, Beats(song.times, 0 * song.positions)


def test_beats_as_mir_eval():
    references, estimates = zip(*beat_songs(), strict=True)
    found = compute(Beat, predictions=estimates, references=references)
    for reference, estimate, song in zip(references, estimates, found["songs"], strict=True):
        downbeats = [beats.times[beats.positions == 1] for beats in (reference, estimate)]
        for name, pair in (("beat", (reference.times, estimate.times)), ("downbeat", downbeats)):
            trimmed = [mir_eval.beat.trim_beats(times) for times in pair]
            if name == "downbeat" and not reference.positions.any():
                assert math.isnan(song["downbeat_f"])
                assert math.isnan(song["downbeat_f_trimmed"])
                continue
            equal(song, {f"{name}_f": quietly(mir_eval.beat.f_measure, *pair)})
            equal(song, {f"{name}_f_trimmed": quietly(mir_eval.beat.f_measure, *trimmed)})
    for name in ("beat_f", "downbeat_f", "beat_f_trimmed", "downbeat_f_trimmed"):
        values = [song[name] for song in found["songs"]]
        assert len(set(values)) > 10
        equal(found, {name: np.nanmean(values)})


def test_downbeats_need_positions_in_the_reference():
    song = Beats(np.arange(0.5, 20.5, 0.5), np.arange(40) % 4 + 1)
    without = Beats(song.times, np.zeros(40, dtype=np.int64))
    found = compute(Beat, predictions=[song, song], references=[song, without])
    assert math.isnan(found["songs"][1]["downbeat_f"])
    equal(found, {"beat_f": 1.0, "downbeat_f": 1.0, "downbeat_f_trimmed": 1.0})
    equal(compute(Beat, predictions=[song], references=[without]), {"beat_f": 1.0, "downbeat_f": math.nan})


# ---- structure


def structure_songs():
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        start = float(generator.choice([0.0, 8.5]))
        reference = contiguous(generator, FUNCTIONS, 120, start=start, longest=25)
        yield reference, disturbed(generator, reference, FUNCTIONS)
    song = [Segment(0.0, 10.0, "intro"), Segment(10.0, 30.0, "verse"), Segment(30.0, 40.0, "outro")]
    yield song, song
    yield song, []
    yield song, [Segment(0.0, 40.0, "verse")]
    yield [Segment(0.0, 40.0, "verse")], [Segment(0.0, 40.0, "verse")]
    yield song, [Segment(0.0, 12.0, "verse")]
    yield song, [Segment(0.0, 10.4, "verse"), Segment(10.4, 300.0, "intro")]
    yield [Segment(0.0, 40.0, "silence")], [Segment(0.0, 40.0, "inst")]


def test_structure_as_mir_eval():
    references, estimates = zip(*structure_songs(), strict=True)
    found = compute(Structure, predictions=estimates, references=references)
    for reference, estimate, song in zip(references, estimates, found["songs"], strict=True):
        intervals, labels = split(reference)
        intervals, _ = mir_eval.util.adjust_intervals(intervals, labels, t_min=0.0)
        estimated, _ = mir_eval.util.adjust_intervals(*split(estimate), t_min=0.0, t_max=intervals.max())
        precision, recall, f = mir_eval.segment.detection(intervals, estimated, window=0.5, trim=False)
        wide = mir_eval.segment.detection(intervals, estimated, window=3.0, trim=False)[2]
        equal(song, {"hr05_p": precision, "hr05_r": recall, "hr05_f": f, "hr3_f": wide})
        whole = mir_eval.segment.evaluate(*split(reference), *split(estimate)) if estimate else {"F-measure@0.5": f}
        assert whole["F-measure@0.5"] == f
    for name in ("hr05_f", "hr05_p", "hr05_r", "hr3_f", "frame_accuracy"):
        values = [song[name] for song in found["songs"]]
        assert len(set(values)) > 10
        equal(found, {name: np.mean(values)})


# ---- tags


@pytest.mark.parametrize("seed", SEEDS)
def test_tags_as_sklearn(seed):
    generator = np.random.default_rng(seed)
    songs, names = int(generator.integers(5, 40)), [f"tag {index}" for index in range(8)]
    references = (generator.random((songs, 8)) < generator.uniform(0.1, 0.9, 8)).astype(int)
    references[:, 0], references[:, 1] = 0, 1
    # Rounded, so that there are ties.
    estimates = (0.3 * references + generator.random((songs, 8))).round(seed % 3)
    found = compute(Tagging, predictions=estimates, references=references, labels=names)
    kept = [index for index in range(8) if len(set(references[:, index])) == 2]
    assert found["skipped"] == [name for index, name in enumerate(names) if index not in kept]
    assert found["skipped"][:2] == names[:2]
    truth, guess = references[:, kept], estimates[:, kept]
    equal(found, {"map": sklearn.metrics.average_precision_score(truth, guess, average="macro")})
    equal(found, {"roc_auc": sklearn.metrics.roc_auc_score(truth, guess, average="macro")})
    for index in kept:
        tag = found["tags"][names[index]]
        equal(tag, {"roc_auc": sklearn.metrics.roc_auc_score(references[:, index], estimates[:, index])})
        equal(tag, {"positives": references[:, index].sum()})


def test_tags_of_a_single_song():
    found = compute(Tagging, predictions=[[0.2, 0.9]], references=[[0, 1]], labels=["a", "b"])
    equal(found, {"map": math.nan, "roc_auc": math.nan})
    assert found["skipped"] == ["a", "b"]


# ---- the modules


def test_columns_and_objects_score_alike():
    """What a data set holds, and what the decoders return."""
    segments = [Segment(0.0, 2.0, "C:maj"), Segment(2.0, 3.0, "G:maj")]
    columns = {"starts": [0.0, 2.0], "ends": [2.0, 3.0], "labels": ["C:maj", "G:maj"]}
    wrong = {"starts": [0.0], "ends": [3.0], "labels": ["C:maj"]}
    for metric, name in ((Chord, "majmin"), (Key, "key_weighted")):
        assert compute(metric, predictions=[columns, segments], references=[segments, columns])[name] == 1
    assert compute(Chord, predictions=[wrong], references=[segments])["majmin"] == pytest.approx(2 / 3)
    beats = {"times": [6.0, 6.5], "positions": [1, 2]}
    assert (
        compute(Beat, predictions=[beats], references=[Beats(np.array([6.0, 6.5]), np.array([1, 2]))])["beat_f"] == 1
    )


def test_songs_one_by_one():
    metric = Chord(keep_in_memory=True)
    metric.add(prediction=[Segment(0.0, 2.0, "C")], reference=[Segment(0.0, 2.0, "C")])
    metric.add(prediction=[], reference=[Segment(0.0, 6.0, "C")])
    found = metric.compute()
    equal(found, {"majmin": 0.5, "majmin_by_duration": 0.25})


def test_mistakes():
    song = [Segment(0.0, 2.0, "C")]
    with pytest.raises(ValueError, match="not annotated"):
        compute(Chord, predictions=[song], references=[None])
    with pytest.raises(ValueError, match="got 2 and 1"):
        compute(Chord, predictions=[song, song], references=[song])
    with pytest.raises(ValueError, match="must not overlap"):
        compute(Chord, predictions=[song], references=[[*song, Segment(1.0, 3.0, "C")]])


SCRIPT = """
import json, socket, sys
def refuse(*arguments):
    raise AssertionError(f"network: {arguments}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
segments = {"starts": [0.0, 6.0], "ends": [6.0, 9.0], "labels": ["C:maj", "G:maj"]}
song = {name: [segments] for name in ("predictions", "references")}
structure = {**segments, "labels": ["verse", "chorus"]}
beats = {"times": [6.0, 6.5], "positions": [1, 2]}
inputs = {
    "beat": {"predictions": [beats], "references": [beats]},
    "chord": song,
    "structure": {"predictions": [structure], "references": [structure]},
    "key": song,
    "tagging": {"predictions": [[0.9], [0.1]], "references": [[1], [0]], "labels": ["piano"]},
}
found = {}
for name, values in inputs.items():
    metric = evaluate.load(f"{sys.argv[1]}/{name}.py")
    assert metric.description and metric.citation and metric.inputs_description
    found[name] = metric.compute(**values)
print(json.dumps(found))
"""


def test_loaded_by_path_offline_in_an_empty_cache(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {**kept, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(METRICS)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["beat"]["beat_f"] == found["beat"]["downbeat_f_trimmed"] == 1
    assert found["chord"]["majmin_by_duration"] == found["structure"]["hr05_f"] == found["key"]["key_frame"] == 1
    assert found["chord"]["songs"] == [dict.fromkeys(COMPARISONS, 1.0) | {"seconds": 9.0}]
    assert found["tagging"] == {
        "map": 1.0,
        "roc_auc": 1.0,
        "tags": {"piano": {"map": 1.0, "roc_auc": 1.0, "positives": 1}},
        "skipped": [],
    }
    assert "Warning" not in done.stderr
