"""Upstream's way to the stores of the options in force."""

from __future__ import annotations

from dacapo.store.stores import FileConfigStore, FileStatsStore, LocalArrayStore, LocalWeightsStore, Stores


def create_config_store() -> FileConfigStore:
    return Stores.from_options().configs


def create_stats_store() -> FileStatsStore:
    return Stores.from_options().stats


def create_weights_store() -> LocalWeightsStore:
    return Stores.from_options().weights


def create_array_store() -> LocalArrayStore:
    return Stores.from_options().arrays
