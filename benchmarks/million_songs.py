"""
Compute the time and the price of embedding a million songs from measured rates. Nothing is measured here.

    python benchmarks/million_songs.py --processor_price 0.10 --price_date 2026-11
    python benchmarks/million_songs.py --processor_price 0.10 --gpu_price 2.50 --price_date 2026-11

Prices are examples per hour, without currency: of a machine like those of `catalog.json` and `catalog_*.json`, and of
a GPU like that of `gpu.json`, which is left out until that file exists. The rate of a processor is that of decoding
and model together; that of the GPU is the best of its layer, and holds if enough processes decode at the rate of
`catalog.json`.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from reporting import RESULTS, markdown_table, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=1_000_000)
    parser.add_argument("--song_seconds", type=float, default=240.0, help="mean length of a song")
    parser.add_argument("--machines", type=int, default=64, help="machines without a GPU, each with one job")
    parser.add_argument("--processor_price", type=float, required=True, help="example price per hour of a machine")
    parser.add_argument("--gpu_price", type=float, help="example price per hour of a GPU; needed if gpu.json exists")
    parser.add_argument("--price_date", required=True, help="date of the prices")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of catalog.json, catalog_*.json and gpu.json"
    )
    parser.add_argument("--output_file", type=Path, default=RESULTS / "million_songs.json")
    arguments = parser.parse_args()
    catalog = read(arguments.results / "catalog.json")
    if catalog is None:
        parser.error(f"{arguments.results} has no catalog.json: run `python benchmarks/catalog.py` first")
    gpu = read(arguments.results / "gpu.json")
    if gpu is not None and arguments.gpu_price is None:
        parser.error("gpu.json exists: pass --gpu_price")
    values = {name: getattr(arguments, name) for name in ("songs", "song_seconds", "price_date")}
    audio_seconds = arguments.songs * arguments.song_seconds
    catalogs = [catalog, *map(read, sorted(arguments.results.glob("catalog_*.json")))]
    values["rows"] = [
        processor_row(one, audio_seconds, arguments.machines, arguments.processor_price) for one in catalogs
    ]
    if gpu is not None and (row := gpu_row(gpu, catalog, audio_seconds, arguments.gpu_price)) is not None:
        values["rows"].append(row)
    write_report(arguments.output_file, values, report(values))


def read(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, or `None` if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def processor_row(catalog: dict[str, Any], audio_seconds: float, machines: int, price: float) -> dict[str, Any]:
    """Return the estimate for machines that embed at the best measured rate of `musicfm embed`."""
    best = max(catalog["rows"], key=lambda row: row["audio_seconds_per_second"])
    rate = best["audio_seconds_per_second"]
    about = f"{machines} machines, each with {catalog['machine']['device']}"
    settings = {"layer": catalog["layer"], "dtype": catalog["dtype"], "weights": catalog["weights"]}
    return estimate(about, rate, audio_seconds, machines, price) | settings | {"decoding_processes": None}


def gpu_row(gpu: dict[str, Any], catalog: dict[str, Any], audio_seconds: float, price: float) -> dict[str, Any] | None:
    """Return the estimate for one GPU, or `None` if it was not measured at full size with the layer of the catalog."""
    rows = [row for row in gpu["embedding"] if row["layer"] == catalog["layer"]]
    if not rows or gpu["size"] != "full":
        return None
    best = max(rows, key=lambda row: row["audio_seconds_per_second"])
    rate = best["audio_seconds_per_second"]
    of_process = max(row["decoded_seconds_per_second"] / max(1, row["num_workers"]) for row in catalog["rows"])
    settings = {"layer": best["layer"], "dtype": best["dtype"], "weights": catalog["weights"]}
    row = estimate(f"one {gpu['machine']['device']}", rate, audio_seconds, 1, price)
    return row | settings | {"decoding_processes": math.ceil(rate / of_process)}


def estimate(about: str, rate: float, audio_seconds: float, machines: int, price: float) -> dict[str, Any]:
    """Return hours and price for machines that embed `rate` seconds of audio per second each."""
    hours = audio_seconds / rate / machines / 3600
    return {
        "about": about,
        "machines": machines,
        "audio_seconds_per_second": rate * machines,
        "hours": hours,
        "price_per_hour": price,
        "price": hours * machines * price,
    }


def report(values: dict[str, Any]) -> str:
    """Return the assumptions, and a row for each kind of machine."""
    head = f"{values['songs']:,} songs of {values['song_seconds']:.0f} s; example prices of {values['price_date']}.\n"
    rows = [
        [
            f"{row['about']}; {row['weights'] / 1e6:.0f} million weights, `layer={row['layer']}`, {row['dtype']}",
            f"{row['audio_seconds_per_second']:,.0f}",
            f"{row['hours']:,.0f}",
            "" if row["decoding_processes"] is None else f"{row['decoding_processes']}",
            f"{row['price_per_hour']:.2f}",
            f"{row['price']:,.0f}",
        ]
        for row in values["rows"]
    ]
    header = ["", "audio s per s", "hours", "processes that decode for the GPU"]
    return head + "\n" + markdown_table([*header, "example price per machine and hour", "price"], rows)


if __name__ == "__main__":
    main()
