"""Upstream's way to the stores of the options in force."""

from __future__ import annotations

from dacapo.store.array_store import ArrayStore
from dacapo.store.config_store import ConfigStore
from dacapo.store.stats_store import StatsStore
from dacapo.store.stores import Stores
from dacapo.store.weights_store import WeightsStore


def create_config_store() -> ConfigStore:
    return Stores.from_options().configs


def create_stats_store() -> StatsStore:
    return Stores.from_options().stats


def create_weights_store() -> WeightsStore:
    return Stores.from_options().weights


def create_array_store() -> ArrayStore:
    return Stores.from_options().arrays
