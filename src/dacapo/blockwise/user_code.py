"""Code that a user names for blocks: a file, an import path, or one of the functions here. Imports errors and process.

A file is run because the user named it in the call or on the command line, never because a config or a volume says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dacapo.arrays.paths import LocalArrayIdentifier, located
from dacapo.blockwise.process import find_function
from dacapo.errors import BlockwiseError, did_you_mean

if TYPE_CHECKING:
    from dacapo.blockwise.blocks import Block

BUILT_IN = {False: ("argmax", "threshold"), True: ("argmax", "threshold", "watershed")}
"""Workers, and segmentation functions, that can be given by name."""


@dataclass(frozen=True)
class Source:
    """Where code is: `file` with the digest of its content, or `function` as an import path."""

    name: str
    file: str | None = None
    digest: str | None = None
    function: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "file": self.file, "digest": self.digest, "function": self.function}


@dataclass(frozen=True)
class Worker:
    """What a worker file offers."""

    spawn_worker: Callable[..., Callable[[Block], Any]]
    check_function: Callable[[Block], bool] | None = None
    init_callback_fn: Callable[[Any], Any] | None = None
    read_write_conflict: bool = False


def source_of(named: str | Path, segments: bool = False) -> Source:
    """The code that a user named; BlockwiseError if there is none."""
    path = Path(named)
    if path.is_file() and path.suffix == ".py":
        return Source(path.stem, str(path.absolute()), hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    stem = path.name.removesuffix(".py").removesuffix("_worker").removesuffix("_function")
    if stem in BUILT_IN[segments] and ":" not in str(named):
        return Source(stem, function=f"{__name__}:{'segment' if segments else 'spawn'}_{stem}")
    if ":" in str(named) and not path.suffix:
        find_function(str(named))
        return Source(str(named).replace(":", "."), function=str(named))
    if path.suffix == ".py":
        raise BlockwiseError(f"{named}: no such file")
    raise BlockwiseError(
        f"{named!r}: expected a file that ends in .py, module:function, or one of these.{did_you_mean(stem, BUILT_IN[segments])}"
    )


@cache
def _module(file: str, digest: str) -> ModuleType:
    name = f"dacapo_user_code_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    spec.loader.exec_module(module)
    return module


def load_worker(source: Source) -> Worker:
    """The worker of a source; BlockwiseError if it is none."""
    if source.function is not None:
        return Worker(find_function(source.function))
    module = _module(str(source.file), str(source.digest))
    spawn = getattr(module, "spawn_worker", None)
    if not callable(spawn):
        raise BlockwiseError(f"{source.file} has no function spawn_worker(...) that returns a function of one block")
    optional = (getattr(module, name, None) for name in ("check_function", "init_callback_fn"))
    return Worker(spawn, *optional, read_write_conflict=bool(getattr(module, "read_write_conflict", False)))


def worker(
    source: dict[str, Any], args: list[Any], kwargs: dict[str, Any], colours: list[int], colour: int, blocks: list[int]
) -> Callable[[Block], None]:
    """What a worker process does: spawn the user's worker when the first block of this colour comes."""
    found = load_worker(Source(**source))
    process = found.spawn_worker(*decoded(args), **decoded(kwargs))
    if not callable(process):
        raise BlockwiseError(f"spawn_worker of {source['name']} returned {type(process).__name__}, expected a function")

    def work(block: Block) -> None:
        if _colour(block.block_id, blocks, colours) == colour and not (
            found.check_function is not None and found.check_function(block)
        ):
            process(block)

    return work


def _colour(block_id: int, blocks: Sequence[int], colours: Sequence[int]) -> int:
    """Of a block on a board with `colours` per axis: blocks of one colour are that many apart."""
    number = 0
    for axis in range(len(blocks)):
        place = block_id // math.prod(blocks[axis + 1 :]) % blocks[axis]
        number = number * colours[axis] + place % colours[axis]
    return number


def segment(input_array: Any, block: Block, source: dict[str, Any], parameters: dict[str, Any]) -> Any:
    """Labels over `block.read_roi`, by the user's function."""
    found = Source(**source)
    if found.function is not None:
        function, defaults = find_function(found.function), {}
    else:
        module = _module(str(found.file), str(found.digest))
        function, defaults = getattr(module, "segment_function", None), dict(getattr(module, "default_parameters", {}))
        if not callable(function):
            raise BlockwiseError(f"{found.file} has no function segment_function(input_array, block, **parameters)")
    return function(input_array, block, **defaults | decoded(parameters))


segment.takes_array = True  # type: ignore[attr-defined]


# Arguments of a worker as JSON, and back.


def encoded(value: Any) -> Any:
    """JSON for what a worker may be given; BlockwiseError names what cannot be."""
    if hasattr(value, "container") and hasattr(value, "dataset"):
        return {"identifier": [str(value.container), value.dataset]}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, Mapping):
        return {"mapping": {str(k): encoded(v) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return [encoded(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy's numbers
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BlockwiseError(
        f"{value!r} cannot be handed to workers: give numbers, text, paths, lists or array identifiers"
    )


def decoded(value: Any) -> Any:
    """What `encoded` was given; tuples are lists. An identifier is `dacapo.tmp`'s."""
    if isinstance(value, list):
        return [decoded(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "identifier" in value:
        return LocalArrayIdentifier(Path(value["identifier"][0]), value["identifier"][1])
    if "path" in value:
        return Path(value["path"])
    inner = value.get("mapping", value)
    return {k: decoded(v) for k, v in inner.items()}


def identifiers_in(values: Sequence[Any]) -> list[str]:
    """Paths of the array identifiers among values."""
    return [located(v) for v in values if hasattr(v, "container") and hasattr(v, "dataset")]


# Workers and segmentation functions that can be given by name.


def spawn_threshold(
    input_array_identifier: Any, output_array_identifier: Any, threshold: float = 0.0
) -> Callable[[Block], None]:
    """1 where a prediction (in its real range) is above a threshold, channel by channel."""
    return _voxelwise(input_array_identifier, output_array_identifier, lambda data, spatial: data > threshold)


def spawn_argmax(input_array_identifier: Any, output_array_identifier: Any) -> Callable[[Block], None]:
    """The channel with the highest value."""
    return _voxelwise(input_array_identifier, output_array_identifier, lambda data, spatial: data.argmax(0))


def _voxelwise(source: Any, output: Any, function: Callable[[Any, int], Any]) -> Callable[[Block], None]:
    from dacapo.arrays import dequantised, open_array

    prediction, target = dequantised(open_array(located(source))), open_array(located(output), mode="r+")

    def process(block: Block) -> None:
        data = function(prediction.read(block.write_roi), prediction.spatial_dims)
        if target.channel_dims == 0 and data.ndim > target.spatial_dims:
            data = data.reshape(-1, *data.shape[-target.spatial_dims :]).max(0)
        elif target.channel_dims and data.ndim == target.spatial_dims:
            data = data[None]
        target.write(block.write_roi, data.astype(target.dtype))

    return process


def segment_threshold(input_array: Any, block: Block, threshold: float = 0.5) -> Any:
    """Connected components of what is above a threshold in any channel."""
    from dacapo.ops.labels import connected_components

    data = input_array.read(block.read_roi)
    return connected_components(data.reshape(-1, *data.shape[-input_array.spatial_dims :]).max(0) > threshold)


def segment_argmax(input_array: Any, block: Block, background: int = 0) -> Any:
    """Connected components of each class; the channel `background` is no object."""
    import numpy as np

    from dacapo.ops.labels import connected_components

    classes = input_array.read(block.read_roi).argmax(0)
    return connected_components(np.where(classes == background, 0, classes + 1))


def segment_watershed(
    input_array: Any, block: Block, offsets: Sequence[Sequence[int]], bias: float | Sequence[float] = 0.5
) -> Any:
    """Mutex watershed of affinities; fragments whose mean affinity is not above the (mean) bias are dropped."""
    import numpy as np

    from dacapo.ops.watershed import mutex_watershed

    affinities = input_array.read(block.read_roi).astype(np.float32)[: len(offsets)]
    labels = mutex_watershed(affinities, offsets, bias=bias)
    flat = labels.ravel()
    sums = np.bincount(flat, affinities.mean(0).ravel())
    means = sums / np.maximum(np.bincount(flat), 1)
    return np.where(means[labels] < np.mean(bias), np.uint64(0), labels)
