"""Configurations: registry, YAML in and out, and what a user's mistake is answered with."""

from __future__ import annotations

from typing import ClassVar

import pytest

from dacapo.config import Config, Voxels, load_yaml, short_name
from dacapo.errors import ConfigError
from dacapo.experiments.datasplits import DataSplitConfig
from dacapo.experiments.run_config import RunConfig
from dacapo.experiments.tasks import AffinitiesTaskConfig, TaskConfig
from dacapo.geometry import Coordinate


class AnimalConfig(Config):
    kind: ClassVar[str] = "animal"
    name: str = ""


class BigCatAnimalConfig(AnimalConfig):
    legs: int = 4
    den: Voxels = Coordinate((1, 2, 3))


class ZooConfig(Config):
    tagged: ClassVar[bool] = False
    animal_config: AnimalConfig
    other_configs: tuple[AnimalConfig, ...] = ()


@pytest.mark.parametrize("tag", ["big_cat", "BigCatAnimalConfig", "bigcat", "BigCat"])
def test_a_type_is_known_by_class_name_and_in_short(tag: str) -> None:
    """All spellings of a type name the same class."""
    zoo = ZooConfig.from_dict({"animal": {"type": tag, "legs": 3}})
    assert zoo.animal_config == BigCatAnimalConfig(legs=3)


def test_yaml_comes_back_equal() -> None:
    """What is written is read back to an equal config, types and voxels included."""
    zoo = ZooConfig.from_dict({"animal": {"type": "big_cat", "den": [4, 5, 6]}, "other": [{"type": "big_cat"}]})
    again = ZooConfig.from_yaml(zoo.to_yaml())
    assert again == zoo
    assert isinstance(again.animal_config.den, Coordinate)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"animal": {"type": "bigcot"}}, "zoo.yaml: animal: no animal is called 'bigcot'. Did you mean 'big_cat'?"),
        ({"animal": {"type": "big_cat", "leg": 1}}, "animal: unknown field 'leg'. Did you mean 'legs'?"),
        ({"animal": {"type": "big_cat", "legs": "x"}}, "animal.legs:"),
        ({"animal": {"type": "big_cat", "den": [1.5, 2, 3]}}, "animal.den: expected whole numbers, one per axis"),
        ({"animl": 1}, "unknown field 'animl'. Did you mean 'animal'?"),
        ({}, "field 'animal' is missing"),
        ({"animal": {"legs": 3}}, "animal: no type is given. Known are: big_cat"),
        (
            {"animal": {"type": "big_cat"}, "other": [{"type": "big_cat"}, {"type": "big_cat", "den": 3}]},
            "other[1].den:",
        ),
    ],
)
def test_mistakes_name_the_field_in_the_users_words(fields: dict[str, object], said: str) -> None:
    """The message has the path as the user wrote it and the nearest known name."""
    with pytest.raises(ConfigError) as error:
        ZooConfig.from_dict(fields, "zoo.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_python_construction_takes_positions_and_raises_config_errors() -> None:
    """Fields may be given by position; a mistake is a ConfigError there too."""
    assert BigCatAnimalConfig("tom", 3).legs == 3
    with pytest.raises(ConfigError, match="legs"):
        BigCatAnimalConfig("tom", legs="many")


def test_two_classes_of_one_name_are_refused() -> None:
    """A name in a file must mean one class."""
    with pytest.raises(TypeError, match="again"):
        type("BigCatAnimalConfig", (AnimalConfig,), {"__module__": "elsewhere"})


def test_yaml_is_never_executed() -> None:
    """Python objects in YAML are refused with the line; tuples that upstream wrote are lists."""
    with pytest.raises(ConfigError, match="line 1"):
        load_yaml("a: !!python/object/apply:os.getcwd []", "evil.yaml")
    assert load_yaml("a: !!python/tuple [1, 2]") == {"a": [1, 2]}


def test_a_key_that_stands_twice_is_an_error() -> None:
    """The second of two equal keys does not win silently."""
    with pytest.raises(ConfigError, match=r"x.yaml, line 2: the key 'a' stands twice"):
        load_yaml("a: 1\na: 2", "x.yaml")


def test_run_config_survives_yaml(small_run: RunConfig) -> None:
    """A whole experiment comes back equal, and equal configs hash equal."""
    again = RunConfig.from_yaml(small_run.to_yaml())
    assert again == small_run
    assert hash(again.task_config) == hash(small_run.task_config)


def test_upstream_fields_are_read() -> None:
    """`__type__` and leading underscores are understood."""
    task = TaskConfig.from_yaml("__type__: AffinitiesTaskConfig\nname: a\n_neighborhood: [!!python/tuple [1, 0, 0]]")
    assert task == AffinitiesTaskConfig(name="a", neighborhood=[[1, 0, 0]])


@pytest.mark.parametrize(
    ("neighborhood", "said"),
    [
        ([[0, 0, 0]], "compares a voxel with itself"),
        ([[1, 0, 0], [1, 0, 0]], "stands twice"),
        ([[1, 0], [1, 0, 0]], "all offsets need"),
        ([], "at least one offset"),
    ],
)
def test_impossible_neighborhoods_are_refused(neighborhood: list[list[int]], said: str) -> None:
    """A task that cannot be learned is not made."""
    with pytest.raises(ConfigError, match=said):
        AffinitiesTaskConfig(name="a", neighborhood=neighborhood)


def test_arrays_in_short() -> None:
    """A string is the config of what lies there; an unknown suffix lists the known."""
    split = DataSplitConfig.from_dict({"train": [{"raw": "x/y.h5:volumes/raw", "gt": "z.zarr/a/b", "mask": "m.tif"}]})
    raw, gt, mask = (getattr(split.train_configs[0], f"{p}_config") for p in ("raw", "gt", "mask"))  # type: ignore[attr-defined]
    assert [short_name(type(c)) for c in (raw, gt, mask)] == ["hdf5", "zarr", "tiff"]
    assert (str(gt.file_name), gt.dataset, raw.dataset) == ("z.zarr", "a/b", "volumes/raw")
    with pytest.raises(ConfigError, match=r"train\[0\].raw: x/y.foo: no reader"):
        DataSplitConfig.from_dict({"train": [{"raw": "x/y.foo"}]})


def test_unknown_type_lists_what_there_is() -> None:
    """A tag nothing is near to is answered with all known ones."""
    with pytest.raises(ConfigError, match="affinities, distance"):
        TaskConfig.from_dict({"type": "zzzzz"})
