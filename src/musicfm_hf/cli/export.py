"""
Export a saved model, so that other programs can run it: to ONNX (ONNX Runtime, also in a browser), OpenVINO
(processors and graphics of Intel), or AOTInductor (servers with libtorch).

    musicfm export musicfm-msd --output_dir exported --layer 7
    musicfm export musicfm-msd --output_dir exported-int8 --format openvino --quantize int8
    musicfm export runs/beat runs/chord --output_dir annotator
    musicfm export musicfm-small --output_dir annotator

The graph takes waveforms (the mel spectrogram is part of it), in batches of any size and length, with a mask. Models
with a head that have the same encoder share one pass through it; so do those that were trained jointly, of which
--layer or --part encoder exports the encoder alone. The written model is compared with PyTorch; if it deviates, no
folder is left. `musicfm embed --model` and `musicfm annotate --models` take the folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..export.export import export_model
from ..export.formats import DTYPES
from ..export.subjects import PARTS
from .flags import command_parser, rename_flags, user_errors


def main(argv: Sequence[str]) -> None:
    """Export the models that the arguments name."""
    arguments = parse(argv)
    with user_errors("Not exported"):
        result = export_model(
            arguments.models,
            arguments.output_dir,
            arguments.format,
            arguments.part,
            arguments.layer,
            arguments.dtype,
            arguments.quantize,
            arguments.device,
            arguments.revision,
            arguments.overwrite,
        )
    for name, axes in result.outputs.items():
        print(f"output      {name} ({', '.join(map(str, axes))})")
    check = result.check
    lengths = ", ".join(map(str, check["samples"]))
    if "tokens_that_differ" in check:
        print(
            f"checked     {check['tokens_that_differ']:.2%} of the tokens differ from PyTorch, for {lengths} samples"
        )
    else:
        print(
            f"checked     deviates from PyTorch by {check['largest_deviation']:.2g} (values reach "
            f"{check['largest_value']:.2g}), cosine at least {check['smallest_cosine']:.5f}, for {lengths} samples"
        )
    print(f"written to  {result.output_dir}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("export", __doc__)
    parser.add_argument(
        "models", nargs="+", help="folder or repository; or several models with a head and one encoder"
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="folder to create")
    parser.add_argument("--format", choices=list(DTYPES), default="onnx", help="onnx by default")
    parser.add_argument("--layer", type=int, help="for an encoder, the layer to stop after; the last by default")
    parser.add_argument(
        "--part", choices=PARTS, default="model", help="the encoder of a model with a head alone, or the quantizer"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="bfloat16 is for aoti only"
    )
    parser.add_argument("--quantize", choices=["int8"], help="weights of the linear layers in int8")
    parser.add_argument("--device", default="cpu", help="device that aoti compiles for; cpu by default")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it holds an exported model")
    return parser.parse_args(rename_flags(argv))
