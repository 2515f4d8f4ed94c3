"""Interactions in, data sets out: readers, id mapping, splits, a generator and pinned downloads.

Public names load on first use, so the table of downloads can be read without importing torch.
"""

from __future__ import annotations

import importlib

_EXPORTS = {
    "csr": ["CSR"],
    "dataset": ["Dataset"],
    "download": ["DATASETS", "RemoteFile", "Source", "fetch"],
    "generator": ["generate"],
    "interactions": ["Interactions", "RawInteractions"],
    "loading": ["load"],
    "popularity": ["PopularityGroups", "popularity_groups"],
    "readers": ["FORMATS", "read_interactions"],
    "splits": ["SPLITS", "leave_one_out", "random_split", "split_interactions", "temporal_split"],
    "vocabulary": ["Vocabulary"],
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted([*_HOME])


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
