"""
Measure building and searching an index of synthetic vectors: time, memory, and recall against an exact search.

    python benchmarks/search.py --rows 100000 1000000 10000000
    python benchmarks/search.py --rows 1000000 --data noise

Vectors have 512 values. `music` imitates embeddings of songs: the variance of the principal components falls as 1/k,
as in embeddings of real data, so about 28 of 512 dimensions count (participation ratio); songs belong to 1000 styles,
and the 10 passages of a song resemble each other. Style, song and passage have 40, 40 and 20 % of the variance, and
all vectors share a mean that is as long as their deviation from it. Queries are passages of songs that are not in the
index. `noise` is isotropic: no structure that an index could use, and no neighbors that mean anything.

Every index is built and searched in processes of its own, by the functions of `musicfm index` and `musicfm search`,
with the settings of `--index_type ivfpq`. Queries run one after the other; their processor time does not depend on
what else runs on the machine. Memory is the peak of the process, with the pages of mapped files that it has touched;
the system keeps further pages of files in its cache as long as memory is free. `cold` queries run after the vectors
were dropped from that cache, so each one reads the disk.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from machine import describe, peak_mb, start_peak
from processes import measure_separately
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf.search.build import ROWS_OF_SHARD, BuildSettings, build_index
from musicfm_hf.search.search_index import SearchIndex
from musicfm_hf.search.shards import Shard, SongPassages, SongRecord, shard_files, write_shard

SIZE = 512
SONG_ROWS = 10
STYLES = 1000
SHARES = (0.4, 0.4, 0.2)  # of the variance: style, song, passage
NEIGHBORS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--data", choices=["music", "noise"], default="music")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--exact_queries", type=int, default=20, help="queries for the time of an exact search")
    parser.add_argument("--probes", nargs="*", type=int, default=[], help="further numbers of inverted lists")
    parser.add_argument("--folder", type=Path, help="for the vectors, 1 KB each; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="do not remove the vectors")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "search.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        case = json.loads(arguments.measure)
        print(json.dumps({"write": write_vectors, "build": build, "search": search}[case.pop("step")](**case)))
        return
    results = json.loads(arguments.output_file.read_text()) if arguments.output_file.is_file() else {"cases": []}
    results["machine"] = describe("cpu")
    for rows in arguments.rows:
        folder = (arguments.folder or Path(tempfile.gettempdir())) / f"search-{arguments.data}-{rows}"
        case = measure_case(folder, rows, arguments)
        others = [
            other for other in results["cases"] if (other["data"], other["rows"]) != (case["data"], case["rows"])
        ]
        results["cases"] = sorted([*others, case], key=lambda other: (other["data"], other["rows"]))
        write_report(arguments.output_file, results, report(results))
        if not arguments.keep:
            shutil.rmtree(folder)


def measure_case(folder: Path, rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write vectors, build the index and search it, each in a process of its own."""

    def step(name: str, **values: Any) -> dict[str, Any]:
        case = json.dumps({"step": name, "folder": str(folder), **values})
        return measure_separately(__file__, ["--measure", case])

    if not (folder / "queries.npy").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        step("write", rows=rows, data=arguments.data, queries=arguments.queries)
    built = step("build")
    searched = step("search", exact_queries=arguments.exact_queries, probes=arguments.probes)
    return {"data": arguments.data, "rows": rows, "build": built, "search": searched}


def write_vectors(folder: str, rows: int, data: str, queries: int) -> dict[str, Any]:
    """Write shards of vectors, and the vectors of the queries."""
    torch.manual_seed(0)
    Path(folder).mkdir(parents=True)
    draw = Music() if data == "music" else noise
    np.save(f"{folder}/queries.npy.part.npy", draw(queries * SONG_ROWS)[::SONG_ROWS])
    for first in range(0, rows, ROWS_OF_SHARD // SONG_ROWS * SONG_ROWS):
        vectors = draw(min(rows - first, ROWS_OF_SHARD // SONG_ROWS * SONG_ROWS))
        times = np.arange(SONG_ROWS, dtype=np.float32) * 30
        songs = [
            SongPassages(
                SongRecord(f"{(first + row) // SONG_ROWS:07d}.mp3", f"/music/{first + row}", "1", 300.0),
                times,
                times + 30,
                vectors[row : row + SONG_ROWS],
            )
            for row in range(0, len(vectors), SONG_ROWS)
        ]
        write_shard(f"{folder}/shard-{first:09d}.safetensors", songs, {"weights": "synthetic"})
    os.replace(f"{folder}/queries.npy.part.npy", f"{folder}/queries.npy")
    return {}


class Music:
    """Draws vectors that imitate embeddings of passages; see the docstring of this script."""

    def __init__(self) -> None:
        rotation, _ = torch.linalg.qr(torch.randn(SIZE, SIZE))
        deviations = (1 / torch.arange(1, SIZE + 1)).sqrt()
        self.map = rotation * deviations / deviations.norm()  # total variance 1
        self.mean = torch.nn.functional.normalize(torch.randn(SIZE), dim=0)
        self.styles = torch.randn(STYLES, SIZE)

    def __call__(self, rows: int) -> np.ndarray:
        """Return the passages of songs, `(rows, SIZE)` float32."""
        songs = -(-rows // SONG_ROWS)
        style, song, passage = (share**0.5 for share in SHARES)
        latent = style * self.styles[torch.randint(STYLES, (songs,))] + song * torch.randn(songs, SIZE)
        latent = latent.repeat_interleave(SONG_ROWS, 0)[:rows] + passage * torch.randn(rows, SIZE)
        return (latent @ self.map.T + self.mean).numpy()


def noise(rows: int) -> np.ndarray:
    """Return isotropic vectors, `(rows, SIZE)` float32."""
    return torch.randn(rows, SIZE).numpy()


def build(folder: str) -> dict[str, Any]:
    """Build the index; return the time in seconds, the peak memory of the process and the sizes of files in MB."""
    shards = [Shard(path) for path in shard_files(folder)]
    keys = [shard.record(song).key for shard in shards for song in range(shard.num_songs)]
    del shards
    settings = BuildSettings("synthetic", "", "synthetic", "ivfpq")
    start_peak("cpu")
    began = time.perf_counter()
    build_index(folder, SimpleNamespace(standardize=True), keys, settings)
    seconds = time.perf_counter() - began
    sizes = {
        name: sum(path.stat().st_size for path in Path(folder).glob(pattern)) / 1e6
        for name, pattern in (("vectors_mb", "shard-*"), ("faiss_mb", "*.faiss"))
    }
    return {"seconds": seconds, "peak_mb": peak_mb("cpu")} | sizes


def search(folder: str, exact_queries: int, probes: list[int]) -> dict[str, Any]:
    """Return recall, times and memory of searches in an index."""
    queries = np.load(f"{folder}/queries.npy")
    index = SearchIndex.load(folder)
    nearest = index.nearest
    start_peak("cpu")
    results: dict[str, Any] = {"lists": nearest.faiss.index.nlist, "code_bytes": nearest.faiss.index.code_size}
    settings = [(count, nearest.reranked) for count in (nearest.probes, *probes)]
    drop_from_cache(folder)
    results["cold_ms"] = statistics.median(time_queries(nearest, queries[-100:])[0])
    results["settings"] = []
    answers = []
    for nearest.probes, nearest.reranked in settings:
        time_queries(nearest, queries)  # warm-up: pages of the file, as after other queries
        processor = time.process_time()
        times, rows = time_queries(nearest, queries)
        processor = time.process_time() - processor
        answers.append(rows)
        results["settings"].append(
            {
                "probes": nearest.probes,
                "reranked": nearest.reranked,
                "ms": statistics.median(times),
                "ms_95": float(np.quantile(times, 0.95)),
                "processor_ms": 1000 * processor / len(queries),
            }
        )
    results["peak_mb"] = peak_mb("cpu")
    nearest.faiss = None
    _, truth = nearest.top(queries, NEIGHBORS)
    for setting, rows in zip(results["settings"], answers, strict=True):
        setting["recall"] = statistics.fmean(len({*a} & {*b}) / NEIGHBORS for a, b in zip(rows, truth, strict=True))
    results["exact_ms"] = statistics.median(time_queries(nearest, queries[:exact_queries])[0])
    return results


def time_queries(nearest: Any, queries: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Run queries one after the other; return the time of each in ms, and the rows that were found."""
    times, rows = [], []
    for query in queries:
        began = time.perf_counter()
        rows.append(nearest.top(query[None], NEIGHBORS)[1][0])
        times.append(1000 * (time.perf_counter() - began))
    return times, np.stack(rows)


def drop_from_cache(folder: str) -> None:
    """Ask the system to drop the vectors from its cache of files."""
    os.sync()
    for path in shard_files(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(results: dict[str, Any]) -> str:
    """Return the machine and a table."""
    cells = []
    for case in results["cases"]:
        built, searched = case["build"], case["search"]
        for number, setting in enumerate(searched["settings"]):
            first = [
                f"{case['rows']:,} ({case['data']})",
                f"{built['seconds'] / 60:.1f} min",
                f"{built['peak_mb'] / 1000:.1f} GB",
                f"{searched['peak_mb'] / 1000:.1f} GB",
            ]
            last = f"{searched['cold_ms']:.1f} ms" if number == 0 else ""
            exact = f"{searched['exact_ms']:.0f} ms" if number == 0 else ""
            cells.append(
                [
                    *(first if number == 0 else [""] * 4),
                    f"{setting['probes']} of {searched['lists']}",
                    f"{setting['recall']:.3f}",
                    f"{setting['ms']:.1f} ms",
                    f"{setting['ms_95']:.1f} ms",
                    f"{setting['processor_ms']:.1f} ms",
                    last,
                    exact,
                ]
            )
    header = ["vectors", "build", "memory, build", "memory, search", "lists", "recall@10", "a query", "95 %"]
    machine = results["machine"]
    return f"{machine['device']}; torch {machine['torch']}.\n\n" + markdown_table(
        [*header, "processor time", "cold", "exact"], cells
    )


if __name__ == "__main__":
    main()
