"""Where runs are kept. `Stores.from_options()` opens all four stores of the folder in force.

A backend is a small class over plain data, held to its contract by the suites of `dacapo.testing`.
"""

from dacapo.store.array_store import ArrayStore
from dacapo.store.config_store import ConfigStore
from dacapo.store.stats_store import StatsStore
from dacapo.store.stores import Stores
from dacapo.store.weights_store import WeightsStore

__all__ = ["ArrayStore", "ConfigStore", "StatsStore", "Stores", "WeightsStore"]
