"""A small folder as that of POP909."""

import mido

from musicfm_hf.symbolic.midi_synthesis import PARTS

TICKS = 480

LABELS = {
    "beats": "0.055\t4\n0.555\t1\n1.055\t2\n",
    "chords": "0.000\t0.500\tN\n0.500\t1.000\tBb:min7/b3\n1.000\t1.500\tX\n",
    "keys": "0.000\t1.500\tB:maj\n",
    "segments": "0.555\t1.500\tA\t4\tverse\n",
    "segments2": "0.555\t1.055\tB\t2\tchorus\n1.055\t1.500\to\t2\toutro\n",
}


def write_midi(path, tracks, tempos=((0, 120),)):
    """Tracks: name → [(beat, message)], with note-offs made from (beat, beats, note, velocity)."""
    midi = mido.MidiFile(type=1, ticks_per_beat=TICKS)
    first = [(beat, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm))) for beat, bpm in tempos]
    for channel, (name, entries) in enumerate({"": first, **tracks}.items(), -1):
        events = [] if channel < 0 else [(0, mido.MetaMessage("track_name", name=name))]
        for entry in entries:
            if len(entry) == 4:
                beat, beats, note, velocity = entry
                events.append((beat, mido.Message("note_on", channel=channel, note=note, velocity=velocity)))
                events.append((beat + beats, mido.Message("note_on", channel=channel, note=note, velocity=0)))
            else:
                events.append((entry[0], entry[1] if entry[1].is_meta else entry[1].copy(channel=channel)))
        events.sort(key=lambda event: event[0])
        ticks = [round(beat * TICKS) for beat, _ in events]
        messages = [
            message.copy(time=tick - before)
            for tick, before, (_, message) in zip(ticks, [0, *ticks], events, strict=False)
        ]
        midi.tracks.append(mido.MidiTrack(messages))
    midi.save(path)
    return path


def write_pack(folder):
    """Write a folder as POP909's, with three songs of 1.5 s, and return it."""
    (folder / "midi").mkdir(parents=True)
    (folder / "splits").mkdir()
    songs = ["id\tsplit\ttitle\tartist\tseconds\tbpm\tfirst_key\tn_keys"]
    arrangements = ["id\tmelody_program\tbridge_program\tpiano_program\ttags"]
    for number, split in enumerate(("train", "valid", "test"), 1):
        notes = [(0, 1, 60 + number, 90), (2, 1, 67, 90)]
        write_midi(folder / f"midi/00{number}.mid", dict.fromkeys(PARTS, notes))
        songs.append(f"00{number}\t{split}\t木头人\tNobody\t1.50\t120.0\tF#:maj\t1")
        arrangements.append(f"00{number}\t40\t11\t{number}\tviolin,vibraphone,piano,major,fast")
        (folder / f"splits/{split}.txt").write_text(f"00{number}\n")
        (folder / f"splits/mini_{split}.txt").write_text(f"00{number}\n" if split != "train" else "")
        for kind, text in LABELS.items():
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / f"00{number}.{'beats' if kind == 'beats' else 'lab'}").write_text(text)
    (folder / "songs.tsv").write_text("\n".join(songs) + "\n", encoding="utf-8")
    (folder / "arrangements.tsv").write_text("\n".join(arrangements) + "\n")
    return folder
