"""Where runs are kept. `Stores.from_options()` opens all four stores of the folder in force."""

from dacapo.store.stores import Stores

__all__ = ["Stores"]
