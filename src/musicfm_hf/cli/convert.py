"""
Convert a published checkpoint of MusicFM, MuQ, MERT, MERT-v2 or MuQ-MuLan to a folder that `AutoModel.from_pretrained`
loads.

    musicfm convert pretrained_msd.pt --stats msd_stats.json --output_dir musicfm-msd
    musicfm convert minzwon/MusicFM --variant fma --output_dir musicfm-fma
    musicfm convert OpenMuQ/MuQ-large-msd-iter --output_dir muq
    musicfm convert m-a-p/MERT-v1-330M --output_dir mert
    musicfm convert OpenMuQ/MuQ-MuLan-large --output_dir muq-mulan
"""

import argparse
from collections.abc import Sequence

from ..conversion.convert import convert_checkpoint
from ..hub.push import hub_target
from .flags import add_hub_flags, command_parser, rename_flags, share_result, user_errors


def main(argv: Sequence[str]) -> None:
    """Convert the checkpoint, and push it if `--push_to_hub` is given."""
    arguments = parse(argv)
    with user_errors("Not converted"):
        target = hub_target(arguments, arguments.output_dir)
        result = convert_checkpoint(
            arguments.source, arguments.output_dir, arguments.stats, arguments.variant, arguments.overwrite
        )
    known = f"the published {result.variant} checkpoint" if result.variant else "not one of the published files"
    print(f"SHA-256     {result.sha256} ({known})")
    print(f"family      {result.family}")
    where = "both towers" if result.family == "mulan" else "the encoder"
    print(f"parameters  {result.num_parameters:,} in {where}")
    reasons = list(result.unused.values())
    for reason in sorted(set(reasons)):
        print(f"left out    {reasons.count(reason)} tensors: {reason}")
    print(f"written to  {result.output_dir}")
    if target is not None:
        share_result(result.output_dir, target)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("convert", __doc__)
    parser.add_argument("source", nargs="?", help="a .pt file, a folder with the files, or a Hub repository")
    parser.add_argument("--source", dest="source_flag", help=argparse.SUPPRESS)  # its spelling in 0.1
    parser.add_argument("--output_dir", required=True, help="folder to create")
    parser.add_argument("--stats", help="MusicFM only: JSON file of mel statistics; by default beside the weights")
    parser.add_argument("--variant", choices=["msd", "fma"], help="MusicFM only: variant, if the source has both")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    add_hub_flags(parser)
    arguments = parser.parse_args(rename_flags(argv, {"--output": "--output_dir"}))
    arguments.source = arguments.source or arguments.source_flag
    if arguments.source is None:
        parser.error("the following arguments are required: source")
    return arguments
