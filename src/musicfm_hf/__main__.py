"""Run the `musicfm` command as `python -m musicfm_hf`."""

from .cli.main import main

if __name__ == "__main__":
    main()
