"""Upstream's module paths, served without a file each: `import dacapo.experiments.trainers.gp_augments` works.

`install` adds a finder behind Python's own, so it is asked only for modules that are no files of ours. What
it serves is a thin module that fetches a name from its new place when the name is asked for; nothing else
is loaded. What has no counterpart is answered with an ImportError that says what took its place.
docs/upstream.md lists all of it by name. Imports nothing.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

_E = "dacapo.experiments"
_TASKS, _ARCHITECTURES, _TRAINERS = f"{_E}.tasks", f"{_E}.architectures", f"{_E}.trainers"
_SPLITS, _DATASETS, _ARRAYS = f"{_E}.datasplits", f"{_E}.datasplits.datasets", f"{_E}.datasplits.datasets.arrays"

MOVED: dict[str, str | dict[str, str]] = {
    "dacapo.utils": {},
    "dacapo.ext": {"NoSuchModule": "dacapo.upstream_functions:NoSuchModule"},
    "dacapo.utils.affinities": {
        "seg_to_affgraph": "dacapo.upstream_functions:seg_to_affgraph",
        "padding": "dacapo.upstream_functions:padding",
    },
    "dacapo.utils.balance_weights": {"balance_weights": "dacapo.upstream_functions:balance_weights"},
    "dacapo.utils.voi": {"voi": "dacapo.upstream_functions:voi"},
    "dacapo.utils.array_utils": "dacapo.tmp",
    "dacapo.store.local_array_store": "dacapo.store.stores",
    "dacapo.store.local_weights_store": "dacapo.store.file_stores",
    "dacapo.store.file_config_store": "dacapo.store.file_stores",
    "dacapo.store.file_stats_store": "dacapo.store.file_stores",
    "dacapo.store.mongo_config_store": "dacapo.store.mongo_stores",
    "dacapo.store.mongo_stats_store": "dacapo.store.mongo_stores",
    "dacapo.blockwise.blockwise_task": "dacapo.blockwise.scheduler",
}
"""Old module -> the module that has its names now, or where each name is. Filled up below."""

GONE = {
    "dacapo.gp": "dacapo.gp held gunpowder nodes, and there is no gunpowder here: augmentations are the configs of "
    "dacapo.experiments.trainers, samples come from dacapo.experiments.trainers.sampling",
    "dacapo.utils.view": "dacapo.utils.view (neuroglancer) is not here yet: look at the report that `dacapo run` writes, "
    "or open the OME-Zarr outputs in neuroglancer or napari",
    "dacapo.utils.pipeline": "dacapo.utils.pipeline made test data with gunpowder: use dacapo.synthetic.synthetic_em, "
    "or `dacapo demo`",
    "dacapo.blockwise.empanada_function": "the empanada worker is not here: give `module:function` or a file with "
    "segment_function(input_array, block, **parameters) that calls it",
    "dacapo.store.converter": "configs write themselves: Config.to_yaml, Config.from_yaml (dacapo.config)",
    "dacapo.store.conversion_hooks": "configs write themselves: Config.to_yaml, Config.from_yaml (dacapo.config)",
}
"""Old module -> what took its place."""

_SAME_NAMES = {
    _ARCHITECTURES: "cnnectome_unet cnnectome_unet_config dummy_architecture dummy_architecture_config "
    "architecture_config wrapped_architecture model_zoo_config",
    _TRAINERS: "gp_augments trainer_config gunpowder_trainer gunpowder_trainer_config dummy_trainer dummy_trainer_config",
    f"{_TRAINERS}.gp_augments": "augment_config simple_augment_config elastic_augment_config intensity_augment_config "
    "intensity_scale_shift_augment_config gamma_augment_config noise_augment_config",
    _SPLITS: "datasplit datasplit_config dummy_datasplit dummy_datasplit_config simple_config datasplit_generator "
    "train_validate_datasplit train_validate_datasplit_config",
    _DATASETS: "dataset dataset_config dummy_dataset dummy_dataset_config raw_gt_dataset raw_gt_dataset_config "
    "simple_dataset simple",
    _ARRAYS: "zarr_array_config tiff_array_config binarize_array_config concat_array_config "
    "constant_array_config ones_array_config crop_array_config dummy_array_config dvid_array_config "
    "intensities_array_config logical_or_array_config merge_instances_array_config sum_array_config "
    "missing_annotations_mask_config resampled_array_config",
    _TASKS: "task task_config distance_task distance_task_config inner_distance_task inner_distance_task_config "
    "hot_distance_task hot_distance_task_config one_hot_task one_hot_task_config affinities_task "
    "affinities_task_config dummy_task dummy_task_config pretrained_task pretrained_task_config",
}
"""Upstream had a module for each class; the package has the same names here."""

_HOMES = {f"{_TRAINERS}.gp_augments": f"{_TRAINERS}.augments"}
for _package, _modules in _SAME_NAMES.items():
    for _module in _modules.split():
        MOVED.setdefault(f"{_package}.{_module}", _HOMES.get(_package, _package))
MOVED[f"{_TRAINERS}.gp_augments"] = f"{_TRAINERS}.augments"


class _Finder(importlib.abc.MetaPathFinder):
    """Answers for the modules of `MOVED` and `GONE`, and for names that a served module does not have."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("dacapo."):
            return None
        for name in _with_parents(fullname):
            if name in GONE:
                raise ImportError(GONE[name], name=fullname)
        if fullname in MOVED:
            return importlib.machinery.ModuleSpec(fullname, _Loader(), origin="dacapo.upstream_paths", is_package=True)
        parent, _, name = fullname.rpartition(".")
        if parent in MOVED and not name.startswith("__"):  # `from served import name`, which it does not have
            raise ImportError(_unknown(parent, name), name=fullname)
        return None


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Served(spec.name, f"Upstream's {spec.name}; the names are in {', '.join(_homes(spec.name)) or 'it'}.")

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run: names are fetched when they are asked for."""


class _Served(ModuleType):
    """A module of upstream's name whose names are elsewhere."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return _names(self.__name__)
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        where = MOVED[self.__name__]
        if isinstance(where, dict):
            if name in where:
                module, _, there = where[name].partition(":")
                return getattr(importlib.import_module(module), there)
        else:
            found = getattr(importlib.import_module(where), name, None)
            if found is not None:
                return found
        raise AttributeError(_unknown(self.__name__, name))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_names(self.__name__)})


def _with_parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def _homes(served: str) -> list[str]:
    where = MOVED[served]
    return [where] if isinstance(where, str) else sorted({place.partition(":")[0] for place in where.values()})


def _names(served: str) -> list[str]:
    where = MOVED[served]
    if isinstance(where, dict):
        return list(where)
    module = importlib.import_module(where)
    return [name for name in getattr(module, "__all__", vars(module)) if not name.startswith("_")]


def _unknown(served: str, name: str) -> str:
    from dacapo.errors import did_you_mean

    hint = did_you_mean(name, _names(served)) if _names(served) else ""
    homes = " and ".join(_homes(served)) or "its submodules"
    return f"{served} has no {name!r}: upstream's module, its names are now in {homes}.{hint} See docs/upstream.md"


def install() -> None:
    """Serve upstream's module paths, behind everything else that finds modules."""
    if not any(type(finder).__name__ == "_Finder" and finder.__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
