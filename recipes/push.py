"""
Push a folder of a recipe or of the conversion to the Hub: a model, an adapter, a quantizer, with its card. Or push the
web page that annotates songs with models that are there.

    python recipes/push.py runs/small you/musicfm-small
    python recipes/push.py runs/chord-lora you/musicfm-chord-lora --base_model you/musicfm-small --public
    python recipes/push.py runs/chord you/musicfm-chord --evaluations results/beatles.json --license mit
    python recipes/push.py hub_cards/space you/annotate --space you/musicfm-beat you/musicfm-chord

Repositories are private unless `--public` is given. Pushing again sends what changed. An adapter that was trained on a
folder needs `--base_model`, the repository of that folder; it is pinned to what is there now. `--evaluations` takes
files of recipes/evaluate.py, whose scores go into the card. A Space needs a secret HF_TOKEN if its models are private.
"""

import argparse
from pathlib import Path

from musicfm_hf.hub.commits import HubTarget
from musicfm_hf.hub.push import push
from musicfm_hf.hub.space import push_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("repo", metavar="REPO", help="its id on the Hub, such as you/musicfm-small")
    parser.add_argument("--revision", help="a branch, made if it is not there; main by default")
    parser.add_argument("--public", action="store_true", help="let everybody see a repository that is made now")
    parser.add_argument("--base_model", help="of an adapter: the repository of its base model")
    parser.add_argument("--license", help="of the weights, as the Hub names it, such as cc-by-4.0")
    parser.add_argument("--evaluations", type=Path, nargs="+", default=[], help="JSON files of recipes/evaluate.py")
    parser.add_argument("--space", nargs="+", metavar="MODEL", help="FOLDER is a Space, with these models of the Hub")
    arguments = parser.parse_args()
    target = HubTarget(arguments.repo, arguments.revision, not arguments.public)
    try:
        if arguments.space:
            if arguments.base_model or arguments.license or arguments.evaluations:
                parser.error("--base_model, --license and --evaluations are for models, not for a Space")
            print(push_space(target, arguments.space, arguments.folder))
            return
        address = push(
            arguments.folder,
            arguments.repo,
            revision=arguments.revision,
            private=not arguments.public,
            base_model=arguments.base_model,
            license=arguments.license,
            evaluations=arguments.evaluations,
        )
        print(address)
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not pushed: {error}") from error


if __name__ == "__main__":
    main()
