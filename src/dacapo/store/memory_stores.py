"""Stores in memory, for tests and notebooks: what is kept is copied, and gone with the process.

Configs and stats only: weights and arrays are files that worker processes read, so `Stores.in_memory()` keeps
those in a temporary folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from dacapo.store.config_store import ConfigStore, checked_name
from dacapo.store.stats_store import Record, StatsStore


class MemoryConfigStore(ConfigStore):
    """Configs in a dict."""

    def __init__(self) -> None:
        self._configs: dict[tuple[str, str], dict[str, Any]] = {}

    def names(self, collection: str) -> list[str]:
        return sorted(name for where, name in self._configs if where == collection)

    def delete(self, collection: str, name: str) -> None:
        self._configs.pop((collection, checked_name(name)), None)

    def where(self, collection: str) -> str:
        return f"memory: {collection}"

    def _create(self, collection: str, name: str, fields: dict[str, Any]) -> bool:
        given = deepcopy(fields)
        return self._configs.setdefault((collection, name), given) is given

    def _read(self, collection: str, name: str) -> Mapping[str, Any] | None:
        return deepcopy(self._configs.get((collection, name)))


class MemoryStatsStore(StatsStore):
    """Stats and scores in lists."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], list[Record]] = {}

    def _records(self, series: str, run: str) -> list[Record]:
        return deepcopy(self._series.get((series, run), []))

    def _append(self, series: str, run: str, records: Sequence[Record]) -> None:
        self._series.setdefault((series, checked_name(run)), []).extend(deepcopy(list(records)))

    def _replace(self, series: str, run: str, records: Sequence[Record]) -> None:
        self._series[series, checked_name(run)] = deepcopy(list(records))

    def _delete(self, series: str, run: str) -> None:
        self._series.pop((series, run), None)
