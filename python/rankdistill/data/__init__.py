"""Interactions in, data sets out: readers, id mapping, splits, a generator and pinned downloads.

Public names load on first use, so the table of downloads can be read without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from rankdistill.data.csr import CSR as CSR
    from rankdistill.data.dataset import Dataset as Dataset
    from rankdistill.data.download import (
        DATASETS as DATASETS,
        RemoteFile as RemoteFile,
        Source as Source,
        fetch as fetch,
    )
    from rankdistill.data.generator import generate as generate
    from rankdistill.data.interactions import Interactions as Interactions, RawInteractions as RawInteractions
    from rankdistill.data.loading import load as load
    from rankdistill.data.popularity import (
        PopularityGroups as PopularityGroups,
        popularity_groups as popularity_groups,
    )
    from rankdistill.data.readers import FORMATS as FORMATS, read_interactions as read_interactions
    from rankdistill.data.splits import (
        SPLITS as SPLITS,
        leave_one_out as leave_one_out,
        random_split as random_split,
        split_interactions as split_interactions,
        temporal_split as temporal_split,
    )
    from rankdistill.data.vocabulary import Vocabulary as Vocabulary
else:

    def __getattr__(name: str):
        if name in _HOME:
            return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
