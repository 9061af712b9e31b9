"""
Readers on the annotations that their authors publish. MUSICFM_PUBLIC_DATA names a folder with

    git clone --depth 1 https://github.com/urinieto/harmonixset
    git clone --depth 1 https://github.com/TempoBeatDownbeat/gtzan_tempo_beat
    git clone --depth 1 https://github.com/GiantSteps/giantsteps-key-dataset
    git clone --depth 1 https://github.com/music-x-lab/POP909-Dataset
    git clone --depth 1 https://github.com/Dsqvival/hierarchical-structure-analysis
    git clone --depth 1 https://github.com/AndyWeasley2004/POP909-CL-Dataset

The audio is not published: every song gets the same file of silence.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicfm_hf.data.labeled import read_all
from musicfm_hf.data.pop909_sources import write_pop909
from musicfm_hf.data.readers import giantsteps, gtzan, harmonix
from musicfm_hf.tasks.annotations import read_beats, read_segments
from musicfm_hf.tasks.key import parse_key
from musicfm_hf.tasks.structure import function_of

pytestmark = pytest.mark.slow


def public(name):
    folder = Path(os.environ.get("MUSICFM_PUBLIC_DATA", "none")) / name
    if not folder.is_dir():
        pytest.skip(f"MUSICFM_PUBLIC_DATA has no {name}: see the commands at the top of this file")
    return folder


@pytest.fixture
def silence(tmp_path):
    """Return a function that gives every song the same silent file, longer than the longest song of Harmonix."""
    path = tmp_path / "silence.flac"
    soundfile.write(path, np.zeros(700_000, dtype=np.int16), 1000)

    def name_songs(names, suffix=".flac"):
        folder = tmp_path / "audio"
        folder.mkdir()
        for name in names:
            (folder / f"{name}{suffix}").symlink_to(path)
        return folder

    return name_songs


def test_harmonix(silence):
    folder = public("harmonixset")
    audio = silence(path.stem for path in (folder / "dataset/segments").iterdir())
    songs, problems = read_all(harmonix.song_readers(folder, audio).items(), strict=True)
    assert (len(songs), problems) == (912, [])
    assert sum(len(song.beats.times) for song in songs) == 379_065
    positions = Counter(int(position) for song in songs for position in song.beats.positions)
    assert (positions[1], max(positions)) == (94_296, 14)
    functions = Counter(function_of(section.label) for song in songs for section in song.sections)
    assert functions == {
        "chorus": 3622,
        "verse": 3044,
        "intro": 874,
        "bridge": 773,
        "inst": 715,  # of 716: one song has a last label without an end
        "outro": 425,
        "silence": 221,
    }
    for song in songs:
        path = folder / f"dataset/jams/{song.id}.jams"
        np.testing.assert_array_equal(read_beats(path).positions, song.beats.positions)
        if song.id == "0318_windup":
            with pytest.raises(ValueError, match=r"observation 10: 157.242 s is after the end of the audio"):
                read_segments(path, "segment_open")
            continue
        labels = [section.label for section in read_segments(path, "segment_open") if function_of(section.label)]
        # The JAMS files lack a last section without an end.
        assert [section.label for section in song.sections][: len(labels)] == labels
        assert len(song.sections) - len(labels) in (0, 1)


def test_held_out_and_aligned_songs_of_harmonix(silence):
    folder = public("harmonixset")
    audio = silence(path.stem for path in (folder / "dataset/segments").iterdir())
    readers = harmonix.song_readers(folder, audio, min_alignment=0.95, held_out=150)
    songs, problems = read_all(readers.items(), strict=True)
    assert (len(songs), len(problems)) == (784, 128)
    assert all("alignment score" in problem.reason for problem in problems)
    everything = [reader().split for reader in harmonix.song_readers(folder, audio, held_out=150).values()]
    assert Counter(everything) == {"train": 678, "validation": 84, "test": 150}


def test_gtzan(silence, tmp_path, monkeypatch):
    from mirdata import core

    folder = public("gtzan_tempo_beat")
    tracks = {}
    for path in sorted((folder / "beats").glob("*.beats")):
        _, genre, number = path.stem.split("_")
        name = f"{genre}.{number}"
        parts = {"audio": f"{name}.wav", "beats": f"beats/{path.name}", "tempo": f"tempo/{path.stem}.bpm"}
        tracks[name] = {part: [place, "0" * 32] for part, place in parts.items()}
    (tmp_path / "index.json").write_text(json.dumps({"version": "1.0", "tracks": tracks}))
    monkeypatch.setattr(core.Index, "get_path", lambda self: str(tmp_path / "index.json"))
    songs, problems = read_all(gtzan.song_readers(folder, silence(tracks)).items(), strict=True)
    assert (len(songs), problems) == (999, [])
    for song in songs:
        beats = read_beats(song.files["beats"])
        np.testing.assert_array_equal(beats.times, song.beats.times)
        np.testing.assert_array_equal(beats.positions, song.beats.positions)
    assert sum(not song.beats.positions.any() for song in songs) == 6  # beats without positions


def test_giantsteps(silence):
    folder = public("giantsteps-key-dataset")
    names = [path.stem for path in (folder / "annotations/key").glob("*.key")]
    songs, problems = read_all(giantsteps.song_readers(folder, silence(names)).items(), strict=True)
    assert (len(songs), problems) == (604, [])
    keys = Counter(parse_key(song.keys[0].label) for song in songs)
    assert sum(count for key, count in keys.items() if key.endswith(":min")) == 511
    for song in songs:
        segment, *rest = read_segments(folder / f"annotations/jams/{song.id}.jams", "key_mode")
        assert not rest
        assert parse_key(segment.label) == parse_key(song.keys[0].label)


def test_pop909_is_the_data_of_the_measured_scores(tmp_path):
    """The digest is that of the folder from which all scores of POP909 in the documentation were measured."""
    source = public("POP909-Dataset").parent
    assert write_pop909(source, tmp_path / "POP909") == 470
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "POP909").rglob("*")):
        if path.is_file() and path.name != "songs.tsv":
            digest.update(f"{path.relative_to(tmp_path / 'POP909').as_posix()}\n".encode() + path.read_bytes())
    assert digest.hexdigest() == "5d34a510aef821069580ff0a235e8e5535b7460d9d1c4719360f927d7709b13c"
