"""
MIDI files of annotated songs, for sequencers and notation programs: a tempo map and time signatures that follow the
recording (see `midi_grid.py`), sections as markers, key signatures, a track of chords with their notes and names, and
a track of beats.

Each track of annotations is named after its column and has a text for each label, so that the file can be read back.
The text `(end)` ends a segment before a gap.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..tasks.annotations import Beats, Segment
from ..tasks.key_names import short_key
from ..training.files import complete_file
from .midi_grid import DEFAULT_TEMPO, TICKS_PER_BEAT, MidiGrid, grid_of_beats

INSTALL = "pip install 'musicfm_hf[files]'"
END = "(end)"
UNKNOWN = "?"  # position of a beat

_DRUMS, _PIANO = 9, 0  # channels
_HIGH, _LOW = 76, 77  # woodblocks of General MIDI, for downbeats and other beats
_VELOCITY = 80
_BASS, _MIDDLE = 36, 48  # the C from which a bass note, and the notes above it, are counted
_LATEST_TEMPO = (1 << 24) - 1  # microseconds per quarter note that MIDI can express

Event = tuple[int, int, Any]  # tick, order among events of the same tick, message


class MidiSong(Protocol):
    """The part of a [`SongAnnotation`] that is written."""

    duration: float
    more: dict[str, Any]

    def get(self, name: str) -> Any:
        """Return the result with this name, or `None`."""


def check_installed() -> None:
    """Raise an `ImportError` if packages are missing that MIDI files need."""
    try:
        import mido  # noqa: F401
        import mir_eval  # noqa: F401
    except ImportError as error:
        raise ImportError(f"MIDI files need mido and mir_eval: `{INSTALL}`.") from error


def write_midi(path: Path, song: MidiSong) -> None:
    """
    Write a song as a MIDI file.

    Raises:
        ImportError: if mido or mir_eval is not installed.
        ValueError: if a label of a chord is not a chord, or beats are so slow that MIDI has no such tempo.
    """
    check_installed()
    from mido import MidiFile

    beats = song.get("beats")
    grid = grid_of_beats(beats)
    end = grid.ticks(song.duration)
    columns = {name: events for name in ("chords", "sections", "keys") if (events := song.get(name)) is not None}
    columns |= {name: events for name, events in song.more.items() if _is_segments(events)}
    tracks = [_track("", [*_conductor(grid), *_markers(grid, columns, end)], end)]
    if beats is not None:
        tracks.append(_track("beats", _beat_events(grid, beats, end), end))
    for name, segments in columns.items():
        events = list(_texts(grid, segments, end))
        if name == "chords":
            events += _chord_events(grid, segments)
        tracks.append(_track(name, events, end))
    midi = MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT, charset="utf-8", tracks=tracks)
    with complete_file(path) as temporary:
        midi.save(temporary)


def read_midi_song(path: Path) -> dict[str, Any]:
    """
    Read the results of a song from a MIDI file of [`write_midi`], as the entries of the JSON file of a song.

    Raises:
        ImportError: if mido or mir_eval is not installed.
        ValueError: if the file is not MIDI, or has no track of annotations.
    """
    check_installed()
    from mido import MidiFile, merge_tracks

    try:
        midi = MidiFile(path, charset="utf-8")
    except FileNotFoundError:
        raise
    except Exception as error:  # mido's own errors are of several kinds
        raise ValueError(f"{path} is not a MIDI file ({error or type(error).__name__}).") from error
    times = list(_absolute(merge_tracks(midi.tracks)))
    tempos = {tick: message.tempo for tick, message in times if message.type == "set_tempo"}
    grid = MidiGrid(sorted({0: DEFAULT_TEMPO, **tempos}.items()), [], midi.ticks_per_beat)
    length = grid.seconds(max((tick for tick, _ in times), default=0))
    content: dict[str, Any] = {"duration": round(length, 3)}
    for track in midi.tracks:
        texts = [(grid.seconds(tick), message.text) for tick, message in _absolute(track) if message.type == "text"]
        if track.name == "beats":
            content["beats"] = [
                {"time": round(time, 6), "position": None if text == UNKNOWN else text} for time, text in texts
            ]
        elif texts and track.name:
            ends = [*(time for time, _ in texts[1:]), length]
            content[track.name] = [
                {"start": round(time, 6), "end": round(end, 6), "label": text}
                for (time, text), end in zip(texts, ends, strict=True)
                if text != END and end > time
            ]
    if not content.keys() - {"duration"}:
        raise ValueError(
            f"{path} has no track of annotations, such as beats or chords: only MIDI files that `musicfm annotate "
            "--format midi` wrote can be read."
        )
    return content


def _is_segments(events: Any) -> bool:
    """Return whether a result consists of segments."""
    return isinstance(events, list) and bool(events) and isinstance(events[0], Segment)


def _absolute(track: Iterable[Any]) -> Iterable[tuple[int, Any]]:
    """Return the messages of a track with their ticks."""
    tick = 0
    for message in track:
        tick += message.time
        yield tick, message


def _track(name: str, events: Iterable[Event], end: int) -> Any:
    """Return a track with events in the order of their ticks. It ends with the audio, or with the last event."""
    from mido import MetaMessage, MidiTrack

    track = MidiTrack([MetaMessage("track_name", name=name)] if name else [])
    before = 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - before))
        before = tick
    track.append(MetaMessage("end_of_track", time=max(end - before, 0)))
    return track


def _conductor(grid: MidiGrid) -> list[Event]:
    """Return tempos and time signatures."""
    from mido import MetaMessage

    if max(tempo for _, tempo in grid.tempos) > _LATEST_TEMPO:
        raise ValueError("The beats are further apart than a MIDI file can express: leave out the format midi.")
    events = [(tick, 0, MetaMessage("set_tempo", tempo=tempo)) for tick, tempo in grid.tempos]
    return events + [
        (tick, 1, MetaMessage("time_signature", numerator=number, denominator=note))
        for tick, number, note in grid.signatures
    ]


def _markers(grid: MidiGrid, columns: dict[str, Sequence[Segment]], end: int) -> list[Event]:
    """Return markers of sections, and key signatures."""
    from mido import MetaMessage

    events = [
        (tick, 2, MetaMessage("marker", text=message.text))
        for tick, _, message in _texts(grid, columns.get("sections", []), end)
    ]
    for start, _, label in columns.get("keys", []):
        if (name := short_key(label)) is not None:
            events.append((grid.ticks(start), 2, MetaMessage("key_signature", key=name)))
    return events


def _beat_events(grid: MidiGrid, beats: Beats, end: int) -> list[Event]:
    """Return a text with the position in the bar, or `?`, and a note of the drums for each beat."""
    from mido import Message, MetaMessage

    events: list[Event] = []
    for time, position in zip(beats.times.tolist(), beats.positions.tolist(), strict=True):
        tick, note = grid.ticks(time), _HIGH if position == 1 else _LOW
        events.append((tick, 0, MetaMessage("text", text=str(position or UNKNOWN))))
        events.append((tick, 2, Message("note_on", channel=_DRUMS, note=note, velocity=_VELOCITY)))
        stop = max(min(tick + TICKS_PER_BEAT // 8, end), tick + 1)
        events.append((stop, 1, Message("note_off", channel=_DRUMS, note=note)))
    return events


def _texts(grid: MidiGrid, segments: Sequence[Segment], end: int) -> Iterable[Event]:
    """Return a text for each segment, and for the end of those that no other one follows."""
    from mido import MetaMessage

    starts = [*(grid.ticks(segment.start) for segment in segments), end][1:]
    for segment, after in zip(segments, starts, strict=True):
        yield grid.ticks(segment.start), 0, MetaMessage("text", text=segment.label)
        if (stop := grid.ticks(segment.end)) < after - 1:
            yield stop, 0, MetaMessage("text", text=END)


def _chord_events(grid: MidiGrid, chords: Sequence[Segment]) -> list[Event]:
    """Return the notes of chords, and their names as lyrics, such as `Bbm7/Ab`."""
    from mido import Message, MetaMessage

    from .drawing import short_chord

    events: list[Event] = []
    for start, end, label in chords:
        name = short_chord(label).translate({ord("♭"): "b", ord("♯"): "#"})
        begin, stop = grid.ticks(start), grid.ticks(end)
        events.append((begin, 1, MetaMessage("lyrics", text=name)))
        for note in chord_notes(label):
            events.append((begin, 3, Message("note_on", channel=_PIANO, note=note, velocity=_VELOCITY)))
            events.append((max(stop, begin + 1), 2, Message("note_off", channel=_PIANO, note=note)))
    return events


def chord_notes(label: str) -> list[int]:
    """
    Return the MIDI notes of a chord in Harte's syntax: its bass below, and its notes upwards from the root; none for N
    and X.

    Raises:
        ValueError: if the label is not a chord.
    """
    from mir_eval.chord import encode

    from ..tasks.chord_syntax import chord_tones, encode_chord

    root = encode_chord(label)[0]
    if root < 0:
        return []
    bass = (root + encode(label)[2]) % 12
    intervals = sorted((tone - root) % 12 for tone in chord_tones(label))
    return [_BASS + bass, *(_MIDDLE + root + interval for interval in intervals)]
