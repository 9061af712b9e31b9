"""
Convert a published MusicFM, MuQ or MERT checkpoint to a folder that `AutoModel.from_pretrained` loads.

    python recipes/convert.py --source pretrained_msd.pt --stats msd_stats.json --output musicfm-msd
    python recipes/convert.py --source minzwon/MusicFM --variant fma --output musicfm-fma
    python recipes/convert.py --source OpenMuQ/MuQ-large-msd-iter --output muq
    python recipes/convert.py --source m-a-p/MERT-v1-330M --output mert
"""

import argparse

from musicfm_hf import convert_checkpoint
from musicfm_hf.cli.flags import add_hub_flags, share_result
from musicfm_hf.hub.push import hub_target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a .pt file, a folder with the files, or a Hub repository")
    parser.add_argument(
        "--stats", help="of MusicFM: JSON with the mel statistics; by default the one beside the weights"
    )
    parser.add_argument("--variant", choices=["msd", "fma"], help="of MusicFM: which, where the source has both")
    parser.add_argument("--output", required=True, help="the folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    add_hub_flags(parser)
    arguments = parser.parse_args()
    try:
        target = hub_target(arguments, arguments.output)
        result = convert_checkpoint(
            arguments.source, arguments.output, arguments.stats, arguments.variant, arguments.overwrite
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not converted: {error}") from error
    known = f"the published {result.variant} checkpoint" if result.variant else "not one of the published files"
    print(f"SHA-256     {result.sha256} ({known})")
    print(f"family      {result.family}")
    print(f"parameters  {result.num_parameters:,} in the encoder")
    for reason in sorted(set(result.unused.values())):
        print(f"left out    {sum(why == reason for why in result.unused.values())} tensors: {reason}")
    print(f"written to  {result.output_dir}")
    if target is not None:
        share_result(result.output_dir, target)


if __name__ == "__main__":
    main()
