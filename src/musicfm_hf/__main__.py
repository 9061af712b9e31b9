"""`python -m musicfm_hf`: the `musicfm` command."""

from .cli.main import main

if __name__ == "__main__":
    main()
