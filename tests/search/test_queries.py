"""Queries as a user writes them."""

import pytest

from musicfm_hf.search.queries import Query, parse_query


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parses where the files `song.mp3` and `a@1-2.wav` exist; the index has the song `album/known.flac`."""
    monkeypatch.chdir(tmp_path)
    for name in ("song.mp3", "a@1-2.wav", "me@70-90"):
        (tmp_path / name).write_bytes(b"")
    return lambda text: parse_query(text, {"album/known.flac": 7}.get)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("song.mp3", Query(path="song.mp3")),
        ("song.mp3@70-90", Query(path="song.mp3", start=70, end=90)),
        ("song.mp3@1:10-1:30.5", Query(path="song.mp3", start=70, end=90.5)),
        ("song.mp3@1:00:00-1:00:10", Query(path="song.mp3", start=3600, end=3610)),
        ("song.mp3@70-", Query(path="song.mp3", start=70)),
        ("a@1-2.wav", Query(path="a@1-2.wav")),
        ("a@1-2.wav@3-4", Query(path="a@1-2.wav", start=3, end=4)),
        ("me@70-90", Query(path="me@70-90")),
        ("album/known.flac", Query(song=7)),
        ("album/known.flac@0:05-0:08", Query(song=7, start=5, end=8)),
        ("slow piano, sad", Query(words="slow piano, sad")),
        ("AC/DC at 120 BPM", Query(words="AC/DC at 120 BPM")),
        ("piano", Query(words="piano")),
        ("live @ the club", Query(words="live @ the club")),
    ],
)
def test_queries(parse, text, query):
    assert parse(text) == query


@pytest.mark.parametrize(
    "text", ["none.mp3", "none.mp3@1:10-1:30", "./none", "music/none", "two words.flac", "/data/me@host/none.wav"]
)
def test_a_path_that_does_not_exist_is_not_taken_as_words(parse, text):
    with pytest.raises(FileNotFoundError, match=r"does not exist.*--words"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("song.mp3@90-70", "ends before it starts"),
        ("  ", "is empty"),
        ("song.mp3@1:10", "'1:10' is not a part of song.mp3: write .*such as song.mp3@1:10-1:30"),
        ("song.mp3@-30", "'-30' is not a part of song.mp3"),
        ("song.mp3@0:10 - 0:15", "'0:10 - 0:15' is not a part"),
        ("song.mp3@0\N{EN DASH}5", "is not a part"),
        ("album/known.flac@x", "'x' is not a part of album/known.flac"),
        ("none.flac@", "'' is not a part of none.flac"),
    ],
)
def test_wrong_queries(parse, text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)
