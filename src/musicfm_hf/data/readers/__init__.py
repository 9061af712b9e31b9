"""Readers of data sets. Every module in this folder that defines `READER` is a reader."""

import pkgutil
from importlib import import_module

from ..dataset_reader import DatasetReader, ListReader

# Name → reader, in alphabetical order.
READERS: dict[str, DatasetReader | ListReader] = {}
for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    if (_reader := getattr(import_module(f".{_module}", __package__), "READER", None)) is not None:
        READERS[_reader.name] = _reader


def get_reader(name: str) -> DatasetReader | ListReader:
    """
    Return the reader of a data set.

    Raises:
        ValueError: no data set has this name. The message lists all names.
    """
    if name not in READERS:
        raise ValueError(f"No data set is called {name!r}: it must be one of {', '.join(READERS)}.")
    return READERS[name]
