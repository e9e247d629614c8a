"""What can go wrong because of what a user gave, as one tree. Imports nothing.

    DacapoError
    ├── ConfigError (ValueError)            a configuration says something impossible
    │   └── DuplicateNameError              a stored thing of that name has other content
    ├── GeometryError (ValueError)          grids, voxel sizes or regions that do not fit
    ├── ArrayError (ValueError)             a volume that cannot be used as asked
    │   ├── ArrayNotFoundError (FileNotFoundError)
    │   └── ArrayExistsError (FileExistsError)
    ├── DataError (ValueError)              voxels that cannot be learned from (NaN, no label, ...)
    ├── OutOfOrderError (AssertionError, ValueError)  stats that go back in time; in experiments.stats
    ├── RunNotFoundError (KeyError)         no run of that name in the store
    ├── WeightsNotFoundError (FileNotFoundError)
    ├── StoreError (OSError)                the store could not be read or written
    └── BlockwiseError (RuntimeError)       blocks that failed for good

Each also inherits the builtin that a caller would catch. The command line prints the message in
one line and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable


class DacapoError(Exception):
    """Base of all errors that a user can mend."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""


class ConfigError(DacapoError, ValueError):
    """A configuration says something impossible."""


class DuplicateNameError(ConfigError):
    """The store holds something else under that name."""


class GeometryError(DacapoError, ValueError):
    """Grids, voxel sizes or regions that do not fit each other."""


class ArrayError(DacapoError, ValueError):
    """A volume that cannot be used as asked."""


class ArrayNotFoundError(ArrayError, FileNotFoundError):
    """Nothing, or no array, is at that path."""


class ArrayExistsError(ArrayError, FileExistsError):
    """Something else is at the path that was to be written."""


class DataError(DacapoError, ValueError):
    """Voxels that nothing can be learned from, or scored against."""


class RunNotFoundError(DacapoError, KeyError):
    """No run of that name is in the store."""


class WeightsNotFoundError(DacapoError, FileNotFoundError):
    """The store has no weights of that run and iteration."""


class StoreError(DacapoError, OSError):
    """The store could not be read or written."""


class BlockwiseError(DacapoError, RuntimeError):
    """Blocks failed for good."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest of `known` as a sentence with a leading space, or the whole list if none is near."""
    from difflib import get_close_matches

    names = sorted(set(known))
    by_folded = {name.lower(): name for name in names}
    near = [by_folded[match] for match in get_close_matches(word.lower(), by_folded, n=3, cutoff=0.6)]
    if near:
        return f" Did you mean {' or '.join(repr(name) for name in near)}?"
    return f" Known are: {', '.join(names)}." if names else " None is known."
