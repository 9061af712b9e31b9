"""The web page that annotates songs: its HTML and, where Gradio and Chromium are installed, its look in a browser."""

import base64
import html
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.audio import music
from helpers.models import HEADS, head
from helpers.paths import ROOT
from huggingface_hub import metadata_load

from musicfm_hf import SMALL_MODEL
from musicfm_hf.inference.annotation import annotate
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.song_annotation import SongAnnotation
from musicfm_hf.tasks.annotations import Beats, Segment

SPACE = ROOT / "hub_cards/space"
sys.path.insert(0, str(SPACE))

import app  # noqa: E402
import timeline  # noqa: E402

RATE = 24000
BROWSER = shutil.which("chromium") and shutil.which("chromedriver") and find_spec("gradio") and find_spec("selenium")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """Saved models for all tasks, with random weights."""
    place = tmp_path_factory.mktemp("models")
    for task in HEADS:
        head(task).save_pretrained(place / task)
    return [str(place / task) for task in HEADS]


@pytest.fixture
def page(folders, monkeypatch):
    """The function that returns the HTML for a file, with small models."""
    monkeypatch.setenv("MUSICFM_MODELS", ",".join(folders))
    app.models.cache_clear()
    yield app.annotate_file
    app.models.cache_clear()


def song(path: Path, seconds: float) -> str:
    soundfile.write(path, music(seconds), RATE)
    return str(path)


def events(shown: str) -> dict:
    return json.loads(html.unescape(re.search(r'data-events="(.*?)"', shown)[1]))


def draw(annotation: SongAnnotation, title: str = "song") -> str:
    waveform = np.zeros(round(annotation.duration * 100), dtype=np.float32)
    return timeline.timeline(annotation, waveform, title, b"", [])


def test_a_song_is_shown_and_offered_as_files(page, tmp_path):
    shown = page(song(tmp_path / "my song.wav", 12.0))
    audio, _ = soundfile.read(tmp_path / "my song.wav", dtype="float32")
    expected = annotate(app.models(), audio, RATE)
    beats = zip(expected.beats.times.tolist(), expected.beats.positions.tolist(), strict=True)
    assert events(shown)["beats"] == [[round(time, 3), position] for time, position in beats]
    assert [start for start, *_ in events(shown)["chords"]] == [round(s.start, 3) for s in expected.chords]
    assert "<h2>my song</h2>" in shown
    assert "0:12" in shown
    for tag, probability in expected.tags.items():
        assert f'<meter value="{probability:.3f}"></meter>{tag}' in shown
    content = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        paths = expected.save(tmp_path, "my song")
        assert {path.name: path.read_bytes() for path in paths} == {n: archive.read(n) for n in archive.namelist()}
    assert len(paths) == 6


def test_an_error_message_has_no_path(page, tmp_path):
    path = tmp_path / "notes <b>.txt"
    path.write_text("la la la")
    shown = page(str(path))
    assert "notes &lt;b&gt;.txt" in shown
    assert "Supported formats are WAV" in shown
    assert str(tmp_path) not in shown
    assert page(None) == ""


def test_long_and_incomplete_files_are_annotated_in_part(page, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSICFM_LONGEST_SECONDS", "2")
    shown = page(song(tmp_path / "long.flac", 5.0))
    assert "The song is longer than 0:02; only that much of it is annotated." in shown
    assert 'data-end="2.0"' in shown
    assert "longer" not in page(song(tmp_path / "fits.flac", 2.0))
    monkeypatch.setenv("MUSICFM_LONGEST_SECONDS", "60")
    whole = Path(song(tmp_path / "whole.wav", 5.0)).read_bytes()
    (tmp_path / "broken.wav").write_bytes(whole[: len(whole) // 2])
    assert "The file is incomplete" in page(str(tmp_path / "broken.wav"))


@pytest.mark.parametrize("seconds", [0.01, 0.3])
def test_short_and_silent_files(page, tmp_path, seconds):
    assert 'class="song"' in page(song(tmp_path / "short.wav", seconds))
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    assert events(page(str(tmp_path / "silence.wav")))["beats"] == []


def test_bars_go_from_line_to_line():
    beats = Beats(np.array([1.0, 2, 3, 4, 5, 6, 7, 16, 17]), np.array([2, 1, 2, 3, 1, 2, 3, 1, 2]))
    found = timeline.bars(SongAnnotation(19.5, beats=beats))
    # Downbeats at 2, 5 and 16, bars of 3 s by the first one and 11 s by the second: the usual bar is 7 s.
    assert [(bar.start, bar.end, bar.name) for bar in found] == [
        (0, 2, ""), (2, 5, "1"), (5, 10.5, "2"), (10.5, 16, ""), (16, 19.5, "3"),
    ]  # fmt: skip


def test_a_downbeat_at_the_very_end_begins_no_bar():
    found = SongAnnotation(8.0, beats=Beats(np.arange(9.0), np.arange(9) % 4 + 1), chords=[Segment(0, 8, "C:maj")])
    assert [(bar.start, bar.end, bar.name) for bar in timeline.bars(found)] == [(0, 4, "1"), (4, 8, "2")]
    assert "4 beats in a bar" in draw(found)


def test_a_change_of_meter_is_named_and_long_bars_stay_whole():
    positions = np.r_[np.tile([1, 2], 8), np.tile(np.arange(1, 7), 2), 1]  # bars of 1 s, then of 3 s
    found = SongAnnotation(14.5, beats=Beats(np.arange(len(positions)) / 2, positions))
    lengths = [bar.end - bar.start for bar in timeline.bars(found)]
    assert lengths == [1.0] * 8 + [3.0] * 2 + [0.5]
    html = draw(found)
    assert [html.count(f">in {meter}<") for meter in (2, 6)] == [1, 1]
    assert "2 and 6 beats in a bar" in html
    constant = SongAnnotation(8.0, beats=Beats(np.arange(16) / 2, np.tile([1, 2, 3, 4], 4)))
    assert ">in 4<" not in draw(constant)


def test_without_beats_cells_have_two_seconds():
    found = timeline.bars(SongAnnotation(5.0, chords=[Segment(0, 5, "C:maj")]))
    assert [(bar.start, bar.end, bar.name) for bar in found] == [(0, 2, "0:00"), (2, 4, "0:02"), (4, 5, "0:04")]


def test_short_pieces_are_given_to_their_neighbors():
    chords = [Segment(0, 2, "C:maj"), Segment(2, 2.1, "D:min"), Segment(2.1, 6, "G:maj")]
    assert timeline.pieces(chords, 0, 4, 0.1) == [Segment(0, 2.1, "C:maj"), Segment(2.1, 4, "G:maj")]
    assert timeline.pieces(chords, 2, 2.1, 0.1) == [Segment(2, 2.1, "D:min")]
    assert timeline.pieces(chords, 7, 9, 0.1) == []
    chords = [Segment(0, 2, "C:maj"), Segment(2, 2.1, "D:min"), Segment(2.1, 6, "C:maj")]
    assert timeline.pieces(chords, 0, 4, 0.1) == [Segment(0, 4, "C:maj")]


def test_a_change_of_key_is_drawn_in_its_bar():
    keys = [Segment(0, 5, "C:maj"), Segment(5, 8, "A:min")]
    shown = draw(SongAnnotation(8.0, keys=keys, key="C:maj"))
    assert shown.count('class="lane keys"') == 1 + 4
    assert '<span class="key">C major</span>' in shown
    # The third of four cells of two seconds: C major to its middle, then A minor.
    third = shown.split('class="lane keys"')[4]
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%", third)[:2] == [("0.0", "50.0"), ("50.0", "50.0")]


def test_uncertain_events_are_marked():
    """A chord that begins in the bar before is marked in both bars; a legend explains the marks."""
    beats = Beats(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1, 2, 1, 2]))
    chords = [Segment(0.0, 1.0, "C:maj"), Segment(1.0, 3.0, "A:min"), Segment(3.0, 4.0, "F:maj")]
    annotation = SongAnnotation(4.0)
    annotation.set("beats", beats)
    annotation.set("chords", chords)
    assert "uncertain" not in draw(annotation)
    annotation.set("beats", beats, np.full(4, 0.5), np.array([False, True, False, False]))
    annotation.set("chords", chords, np.full(3, 0.5), np.array([False, True, False]))
    shown = draw(annotation)
    assert re.findall(r'title="([^"]+)"', shown) == ["C", "Am (uncertain)", "Am (uncertain)", "F"]
    assert len(re.findall(r'<span class="[a-z]* uncertain" style', shown)) == 2
    assert len(re.findall(r'<i class=" uncertain" style', shown)) == 1
    assert '<p class="legend"><span class="uncertain"></span> uncertain</p>' in shown


def test_the_size_of_a_name_follows_its_length():
    shown = draw(SongAnnotation(4.0, chords=[Segment(0, 3, "C:maj"), Segment(3, 4, "E:maj7/7")]))
    assert re.findall(r'--letters:(\d+)" title="(.*?)"><b>(.*?)</b>', shown) == [
        ("1", "C", "C"),
        ("1", "C", "C"),
        ("8", "Emaj7/D♯", "Emaj7/D♯"),
    ]


def test_names_are_escaped():
    shown = draw(SongAnnotation(3.0, sections=[Segment(0, 3, "<script>")], tags={"<i>": 0.9}), title="<b>&")
    assert "<h2>&lt;b&gt;&amp;</h2>" in shown
    assert "<script>" not in shown
    assert "<i>" not in shown.replace('<i class="cursor"></i>', "")


def test_models_are_by_default_the_small_one(monkeypatch):
    monkeypatch.delenv("MUSICFM_MODELS", raising=False)
    assert app.model_names() == [SMALL_MODEL]
    monkeypatch.setenv("MUSICFM_MODELS", " a/b, c ,")
    assert app.model_names() == ["a/b", "c"]


def test_the_space_pins_the_tested_gradio():
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert metadata_load(SPACE / "README.md")["sdk_version"] == pinned


def test_examples_are_songs(tmp_path):
    (path,) = app.write_examples(tmp_path, seeds=(1001,))
    assert Path(path).name == "composed song in G minor in 3.flac"
    assert soundfile.info(path).samplerate == RATE


# The tests below need Chromium: `make test-space`.


@pytest.fixture(scope="module")
def served(folders, tmp_path_factory):
    """The address and the process of the running application."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path_factory.mktemp("served")
    variables = {"MUSICFM_MODELS": ",".join(folders), "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(place)}
    with (place / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(SPACE / "app.py")], env=os.environ | variables, stdout=log, stderr=log
        )
    end = time.monotonic() + 300
    while time.monotonic() < end and "Running on" not in (place / "log.txt").read_text():
        assert process.poll() is None, (place / "log.txt").read_text()
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/", process
    process.terminate()
    process.wait()


@pytest.fixture
def browsers(tmp_path):
    """A function that opens a Chromium window of a given width."""
    from selenium import webdriver

    opened = []

    def open_window(address: str, width: int = 1280):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        flags += " disable-component-update disable-sync mute-audio autoplay-policy=no-user-gesture-required"
        for flag in flags.split():
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={tmp_path / f'profile{len(opened)}'}")
        window = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        opened.append(window)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        window.get(address)
        until(window, "document.querySelector('#song input[type=file]')")
        return window

    yield open_window
    for window in opened:
        window.quit()


def until(window, condition: str, seconds: float = 120):
    """Wait until a JavaScript expression is true, and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := window.execute_script(f"return {condition}"):
            return value
        time.sleep(0.2)
    raise TimeoutError(f"{condition}: {window.find_element('tag name', 'body').text}")


def upload(window, path: str) -> None:
    """Replace the file on the page."""
    window.execute_script(
        "document.querySelector('#song button[aria-label=Clear], #song button[title=Clear]')?.click()"
    )
    until(window, "document.querySelector('#song input[type=file]') && !document.querySelector('.song')")
    window.find_element("css selector", "#song input[type=file]").send_keys(path)


def resident_bytes(process) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs chromium, chromedriver, gradio and selenium: `make test-space`")
class TestInChromium:
    @pytest.mark.parametrize("width", [1280, 400])
    def test_a_song(self, served, browsers, folders, tmp_path, width):
        window = browsers(served[0], width)
        upload(window, song(tmp_path / "song.wav", 20.0))
        assert until(window, "document.querySelector('.song h2')?.textContent") == "song"
        shown = window.execute_script("return JSON.parse(document.querySelector('.song').dataset.events)")
        audio, _ = soundfile.read(tmp_path / "song.wav", dtype="float32")
        expected = annotate(load_annotators(folders), audio, RATE)
        assert [start for start, *_ in shown["chords"]] == [round(chord.start, 3) for chord in expected.chords]
        # The player stands in one place, the cursors and the chord follow.
        until(window, "document.querySelector('#song audio')?.readyState > 0")
        window.execute_script("document.querySelector('#song audio').currentTime = 10")
        until(window, "document.querySelector('.song .now .clock').textContent == '0:10'")
        assert window.execute_script("return document.querySelector('.overview .cursor').style.left") == "50%"
        assert until(window, "document.querySelector('.song .bar.current')")
        # Nothing is wider than the window, and a click on the overview goes there.
        assert window.execute_script("return document.documentElement.scrollWidth") <= width
        window.execute_script(
            "const box = document.querySelector('.overview').getBoundingClientRect();"
            "document.querySelector('.overview').dispatchEvent(new MouseEvent('click', "
            "{bubbles: true, clientX: box.left + box.width / 4, clientY: box.top + 5}))"
        )
        assert until(window, "document.querySelector('#song audio').currentTime") == pytest.approx(5.0, abs=0.2)
        picture = window.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        Path(os.environ.get("MUSICFM_PICTURES", tmp_path), f"space{width}.png").write_bytes(
            base64.b64decode(picture["data"])
        )

    def test_examples_one_after_the_other(self, served, browsers):
        window = browsers(served[0])
        shown = []
        for title in ("composed song in G minor in 3", "composed song in E minor in 4"):
            window.find_element("xpath", f"//button[contains(., '{title}')]").click()
            until(window, f"document.querySelector('.song h2')?.textContent == '{title}'")
            until(window, "document.querySelector('#song audio')?.readyState > 0")
            window.execute_script("document.querySelector('#song audio').currentTime = 1")
            until(window, "document.querySelector('.song .now .clock').textContent == '0:01'")
            chords = window.execute_script("return JSON.parse(document.querySelector('.song').dataset.events).chords")
            first = [name for start, name, _ in chords if start <= 1][-1]
            assert window.execute_script("return document.querySelector('.song .now .chord').textContent") == first
            shown.append(chords)
        assert shown[0] != shown[1]
        # What sounds now stays in sight.
        window.execute_script("scrollTo(0, document.body.scrollHeight)")
        assert window.execute_script("return document.querySelector('.now').getBoundingClientRect().top") >= 0

    def test_long_names_of_chords_fit_in_a_beat(self, browsers, served):
        labels = ["C:maj", "E:maj7/7", "Ab:min7/5", "F#:hdim7/b3", "C:maj", "Bb:sus4", "C#:minmaj7", "Eb:dim7/b3"]
        beats = Beats(np.arange(16.0) / 2, np.arange(16) % 4 + 1)
        chords = [Segment(k / 2, (k + 1) / 2, label) for k, label in enumerate(labels * 2)]
        window = browsers(served[0])
        styled = f"<style>{(SPACE / 'timeline.css').read_text()}</style>"
        content = styled + draw(SongAnnotation(8.0, beats=beats, chords=chords))
        window.execute_script("document.body.innerHTML = arguments[0]", content)
        wide = "[...document.querySelectorAll('.chords b')].filter(b => b.offsetWidth > b.parentNode.clientWidth)"
        assert window.execute_script("return document.querySelectorAll('.chords b').length") == 16
        assert window.execute_script(f"return {wide}.map(b => b.textContent)") == []

    def test_a_text_file_says_what_is_wrong(self, served, browsers, tmp_path):
        window = browsers(served[0])
        (tmp_path / "words.wav").write_text("la la la")
        upload(window, str(tmp_path / "words.wav"))
        assert "words.wav" in until(window, "document.querySelector('.song.problem')?.textContent")
        upload(window, song(tmp_path / "song.wav", 3.0))  # and goes on
        assert until(window, "document.querySelector('.song h2')?.textContent") == "song"

    def test_two_at_once_see_their_own_songs(self, served, browsers, tmp_path):
        windows = [browsers(served[0]), browsers(served[0])]
        for number, window in enumerate(windows):
            upload(window, song(tmp_path / f"song {number}.wav", 10.0 + number))
        for number, window in enumerate(windows):
            assert until(window, "document.querySelector('.song h2')?.textContent") == f"song {number}"
            assert (
                window.execute_script("return document.querySelector('.overview').dataset.end") == f"{10.0 + number}"
            )

    def test_ten_uploads_leave_memory_flat(self, served, browsers, tmp_path):
        window = browsers(served[0])
        path = song(tmp_path / "song.wav", 240.0)  # 23 MB, as samples
        sizes = []
        for _ in range(10):
            upload(window, path)
            until(window, "document.querySelector('.song h2')")
            sizes.append(resident_bytes(served[1]))
        print([round(size / 2**20) for size in sizes])
        assert max(sizes[5:]) - max(sizes[:5]) < 20 * 2**20
