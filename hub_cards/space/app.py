"""
Annotates songs on a web page: beats, chords, sections, key and tags, as far as there are models for them.

    MUSICFM_MODELS=you/chord,runs/beat python app.py

Models are folders or repositories, one for each task: those of the environment variable MUSICFM_MODELS, or else those
that README.md names. MUSICFM_LONGEST_SECONDS is how much of a song is annotated, 900 by default.
"""

import asyncio
import io
import os
import tempfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
import soundfile
import torch
from huggingface_hub import metadata_load
from timeline import timeline

from musicfm_hf import load_audio
from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.inference.annotation import annotate
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.drawing import clock, key_name
from musicfm_hf.inference.song import SongAnnotation

HERE = Path(__file__).parent
KEPT_SECONDS = 3600  # after that, what was uploaded is deleted
LARGEST_FILE = "500mb"
LONGEST_QUEUE = 20
WORKER = ThreadPoolExecutor(1)
EXAMPLES = (1001, 1002, 1007)  # seeds of composed songs


def model_names() -> list[str]:
    """
    Folders or repositories of the models.

    Raises:
        ValueError: there are none.
    """
    named = [name.strip() for name in os.environ.get("MUSICFM_MODELS", "").split(",")]
    names = [name for name in named if name] or metadata_load(HERE / "README.md").get("models") or []
    if not names:
        raise ValueError("No models: name them in MUSICFM_MODELS, with commas, or under `models` in README.md.")
    return names


@cache
def models() -> dict:
    """The models, loaded once."""
    loaded = load_annotators(model_names())
    for model in loaded.values():
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    return loaded


def longest_seconds() -> float:
    """How much of a song is annotated."""
    return float(os.environ.get("MUSICFM_LONGEST_SECONDS", "900"))


def annotate_file(path: str | None) -> str:
    """The page for a file, as HTML: its annotation, or what is wrong with it. Nothing without a file."""
    if path is None:
        return ""
    rate = next(iter(models().values())).config.sampling_rate
    try:
        audio, notes = read(path, rate)
        annotation = annotate(models(), audio, rate)
    except (ValueError, OSError) as error:
        reason = str(error).replace(path, Path(path).name).rstrip(".")
        formats = "Formats are WAV, FLAC, MP3, Ogg, Opus and AIFF; not AAC (m4a), and no video."
        return f'<p class="song problem">{escape(reason)}. {formats}</p>'
    title = Path(path).stem
    return timeline(annotation, audio, title, zipped(annotation, title), notes)


async def annotate_in_turn(path: str | None) -> str:
    """[`annotate_file`], always in the same thread: each new one would keep memory of its own."""
    return await asyncio.get_running_loop().run_in_executor(WORKER, annotate_file, path)


def read(path: str, sampling_rate: int) -> tuple[np.ndarray, list[str]]:
    """The audio as far as it is annotated, and what the listener has to know of that."""
    longest = longest_seconds()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        audio = load_audio(path, sampling_rate, duration=longest + 1)
    broken = any("breaks off" in str(warning.message) for warning in caught)
    notes = ["The file breaks off; it is annotated as far as it goes."] if broken else []
    if len(audio) > longest * sampling_rate:
        audio = audio[: int(longest * sampling_rate)]
        notes.append(f"The song is longer than {clock(longest)}; the rest is not annotated.")
    return audio, notes


def zipped(annotation: SongAnnotation, name: str) -> bytes:
    """The annotation as files: JSON, .lab, .beats, .tags."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in annotation.save(folder, name):
            archive.write(path, path.name)
    return content.getvalue()


def write_examples(folder: str | Path, seeds: tuple[int, ...] = EXAMPLES) -> list[str]:
    """Songs that a program composes; files called by their key and metre."""
    paths = []
    for seed in seeds:
        song = compose(seed)
        path = Path(folder) / f"composed song in {key_name(song.key)} in {song.beats_per_bar}.flac"
        soundfile.write(path, synthesize(song, 24000), 24000)
        paths.append(str(path))
    return paths


def build(examples: list[str]):
    """The interface; needs Gradio."""
    import gradio as gr

    with gr.Blocks(title="MusicFM: annotate a song", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as app:
        gr.Markdown("# Annotate a song")
        song = gr.Audio(
            label="Song", type="filepath", elem_id="song", editable=False, buttons=[],
            waveform_options=gr.WaveformOptions(show_recording_waveform=False),
        )  # fmt: skip
        gr.Examples(examples, song, cache_examples=False)
        song.keep_in_cache |= song.temp_files  # examples are not deleted
        page = gr.HTML(apply_default_css=False, min_height=120)
        song.change(annotate_in_turn, song, page, concurrency_limit=1, api_visibility="private")
        song.clear(lambda: "", None, page, queue=False, show_progress="hidden", api_visibility="private")
        gr.Markdown("Songs are deleted after an hour, and are not kept for anything else.")
    return app.queue(max_size=LONGEST_QUEUE)


def main() -> None:
    import gradio as gr

    try:
        models(), longest_seconds()
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        build(write_examples(folder)).launch(
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=(HERE / "timeline.css").read_text(encoding="utf-8"),
            head=f"<script>{(HERE / 'timeline.js').read_text(encoding='utf-8')}</script>",
            max_file_size=LARGEST_FILE,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            pwa=False,
            ssr_mode=False,
        )


if __name__ == "__main__":
    main()
