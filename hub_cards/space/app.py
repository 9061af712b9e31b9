"""
Web page that annotates songs with beats, chords, sections, keys and tags, depending on the models in use.

    MUSICFM_MODELS=you/chord,runs/beat python app.py

Models are folders or repositories, one for each task. They are listed in the environment variable MUSICFM_MODELS or,
if it is not set, under `models` in README.md; by default, the small model of the package is used.
MUSICFM_LONGEST_SECONDS limits the annotated part of a song (default: 900 seconds).
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

from musicfm_hf import SMALL_MODEL, SongAnnotation, load_audio
from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.inference.annotation import annotate
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.drawing import clock, key_name

HERE = Path(__file__).parent
UPLOAD_LIFETIME = 3600  # seconds until an upload is deleted
MAX_FILE_SIZE = "500mb"
MAX_QUEUE_SIZE = 20
EXAMPLE_SEEDS = (1001, 1002, 1007)  # of composed songs
WORKER = ThreadPoolExecutor(1)


def model_names() -> list[str]:
    """Return the folders or repositories of the models."""
    words = [word.strip() for word in os.environ.get("MUSICFM_MODELS", "").split(",")]
    return [word for word in words if word] or metadata_load(HERE / "README.md").get("models") or [SMALL_MODEL]


@cache
def models() -> dict:
    """Load the models once for all songs."""
    loaded = load_annotators(model_names())
    for model in loaded.values():
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    return loaded


def longest_seconds() -> float:
    """Return the maximum duration, from the start of a song, that is annotated."""
    return float(os.environ.get("MUSICFM_LONGEST_SECONDS", "900"))


def annotate_file(path: str | None) -> str:
    """Return HTML for a file: its annotation, or an error message. Without a file, return an empty string."""
    if path is None:
        return ""
    rate = next(iter(models().values())).config.sampling_rate
    try:
        audio, notes = read(path, rate)
        annotation = annotate(models(), audio, rate)
    except (ValueError, OSError) as error:
        reason = str(error).replace(path, Path(path).name).rstrip(".")
        formats = "Supported formats are WAV, FLAC, MP3, Ogg, Opus and AIFF. AAC (m4a) and video are not supported."
        return f'<p class="song problem">{escape(reason)}. {formats}</p>'
    title = Path(path).stem
    return timeline(annotation, audio, title, zipped(annotation, title), notes)


async def annotate_in_turn(path: str | None) -> str:
    """Call [`annotate_file`] in a single thread, because each new thread would keep its own memory."""
    return await asyncio.get_running_loop().run_in_executor(WORKER, annotate_file, path)


def read(path: str, sampling_rate: int) -> tuple[np.ndarray, list[str]]:
    """Return the audio to annotate, and notes for the listener if it is only a part of the song."""
    longest = longest_seconds()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        audio = load_audio(path, sampling_rate, duration=longest + 1)
    truncated = any(issubclass(warning.category, UserWarning) for warning in caught)  # of a file that ends early
    notes = ["The file is incomplete; the part that could be read is annotated."] if truncated else []
    if len(audio) > longest * sampling_rate:
        audio = audio[: int(longest * sampling_rate)]
        notes.append(f"The song is longer than {clock(longest)}; only that much of it is annotated.")
    return audio, notes


def zipped(annotation: SongAnnotation, name: str) -> bytes:
    """Return a zip archive of the annotation as JSON, .lab, .beats and .tags files."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in annotation.save(folder, name):
            archive.write(path, path.name)
    return content.getvalue()


def write_examples(folder: str | Path, seeds: tuple[int, ...] = EXAMPLE_SEEDS) -> list[str]:
    """Compose songs and write them to files named after their key and meter."""
    paths = []
    for seed in seeds:
        song = compose(seed)
        path = Path(folder) / f"composed song in {key_name(song.key)} in {song.beats_per_bar}.flac"
        soundfile.write(path, synthesize(song, 24000), 24000)
        paths.append(str(path))
    return paths


def build(examples: list[str]):
    """Build the interface. Needs Gradio."""
    import gradio as gr

    title, lifetime = "MusicFM: annotate a song", (60, UPLOAD_LIFETIME)  # checked every minute
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=lifetime) as app:
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
        gr.Markdown("Uploads are deleted after an hour and are not used for anything else.")
    return app.queue(max_size=MAX_QUEUE_SIZE)


def main() -> None:
    """Load the models and serve the page."""
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
            max_file_size=MAX_FILE_SIZE,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            pwa=False,
            ssr_mode=False,
        )


if __name__ == "__main__":
    main()
