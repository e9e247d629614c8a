"""Configurations: frozen, checked when they are made, open for new types, readable as YAML.

A class that inherits from `Config` is registered under its class name. Where a field expects a kind
of config (a task, an array), the mapping's `type` picks the class: by class name or in short,
`affinities` for `AffinitiesTaskConfig`. Nothing a file says is ever executed.
Imports `errors` and `geometry` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dacapo.errors import ConfigError, did_you_mean
from dacapo.geometry import Coordinate

_registry: dict[str, type[Config]] = {}


def _to_coordinate(value: Any) -> Any:
    """Integers only: a float that is none would be truncated silently."""
    if isinstance(value, Coordinate):
        return value
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ValueError(f"expected whole numbers, one per axis, got {value!r}")
    if any(isinstance(v, bool) or not isinstance(v, int | float) or int(v) != v for v in value):
        raise ValueError(f"expected whole numbers, one per axis, got {list(value)}")
    return Coordinate(int(v) for v in value)  # type: ignore[no-untyped-call]


Voxels = Annotated[
    Coordinate,
    BeforeValidator(_to_coordinate),
    WithJsonSchema({"type": "array", "items": {"type": "integer"}}),
]
"""A field that holds one whole number of voxels per spatial axis."""


class Config(BaseModel):
    """Base of every configuration. Fields may be given by position, in the order they stand."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    kind: ClassVar[str] = "config"
    """What a user calls this family: task, array, augment, ..."""
    default_type: ClassVar[str | None] = None
    """The class that a mapping without `type` means, where the field names the family."""
    tagged: ClassVar[bool] = True
    """Whether the class name is written as `type`."""
    positional: ClassVar[tuple[str, ...]] = ()
    """Order of the fields given by position, where it is not the order in which they stand."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        names = list(self.positional or type(self).model_fields)
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} has {len(names)} fields, got {len(args)} values")
        for name, value in zip(names, args, strict=False):
            if name in fields:
                raise TypeError(f"{type(self).__name__}: field {name!r} was given twice")
            fields[name] = value
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(_message(error, type(self).__name__, fields)) from None

    # Without this mark pydantic would validate nested configs through __init__ and lose their path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = _registry.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{cls.__name__} is defined in {known.__module__} and again in {cls.__module__}")
        _registry[cls.__name__] = cls

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """Turn a short form (a string where an array is expected) into a mapping; else return `value`."""
        return value

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Around the whole schema, not a "before" model validator: that one may not answer with another class.
        return core_schema.no_info_before_validator_function(cls._dispatch, handler(source))

    @classmethod
    def _dispatch(cls, value: Any) -> Any:
        value = cls.shorthand(value)
        if not isinstance(value, Mapping):
            return value
        fields = dict(value)
        tag = fields.pop("type", None) if "type" not in cls.model_fields else None
        tag = fields.pop("__type__", tag)
        if tag is None and is_family(cls):
            tag = cls.default_type
        if tag is None and is_family(cls):
            raise PydanticCustomError(
                "missing_type", "no type is given.{hint}", {"hint": did_you_mean("", short_names(cls))}
            )
        found = cls if tag is None else find_type(cls, tag)
        if found is not cls:
            return found.model_validate(fields)
        return cls._with_full_names(fields)

    @classmethod
    def _with_full_names(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Accept `task` for `task_config`, `train` for `train_configs` and upstream's `_axes` for `axes`."""
        fields: dict[str, Any] = {}
        for key, value in given.items():
            name = next(
                (n for n in (key, f"{key}_config", f"{key}_configs", str(key).lstrip("_")) if n in cls.model_fields),
                None,
            )
            if name is None:
                short = {re.sub("_configs?$", "", n) for n in cls.model_fields}
                raise PydanticCustomError(
                    "unknown_field",
                    "unknown field '{key}'.{hint}",
                    {"key": str(key), "hint": did_you_mean(str(key), short)},
                )
            if name in fields:
                raise PydanticCustomError("twice", "field '{key}' is given twice", {"key": name})
            field = cls.model_fields[name]
            optional = field.default is None or type(None) in get_args(field.annotation)
            if value is None and not optional and not field.is_required():
                continue  # left empty, or upstream's None: the default
            fields[name] = value
        return fields

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal config."""
        tag = {"type": type(self).__name__} if self.tagged else {}
        return tag | {name: _plain(getattr(self, name)) for name in type(self).model_fields}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "") -> Self:
        """Check `data` and build the config; `where` (a file's name) leads the error message."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_message(error, where or cls.__name__, data)) from None

    def to_yaml(self) -> str:
        return dump_yaml(self.to_dict())

    @classmethod
    def from_yaml(cls, text: str, where: str = "") -> Self:
        return cls.from_dict(load_yaml(text, where), where)

    def verify(self) -> tuple[bool, str]:
        """Whether this config can be used: it was checked when it was made."""
        return True, ""


def is_family(cls: type[Config]) -> bool:
    """Whether `cls` stands for its family (TaskConfig) and is never built itself."""
    return "kind" in cls.__dict__


def family(cls: type[Config]) -> list[type[Config]]:
    """All registered classes below `cls` that can be built, by name."""
    return [c for _, c in sorted(_registry.items()) if issubclass(c, cls) and not is_family(c)]


def short_name(cls: type[Config]) -> str:
    """`affinities` for AffinitiesTaskConfig."""
    base = next((c.__name__ for c in cls.__mro__ if issubclass(c, Config) and is_family(c)), "Config")
    stem = cls.__name__.removesuffix(base).removesuffix("Config") or cls.__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()


def short_names(cls: type[Config]) -> list[str]:
    return [short_name(c) for c in family(cls)]


def find_type(cls: type[Config], tag: Any) -> type[Config]:
    """The class below `cls` that `tag` names; ConfigError with the nearest names if there is none."""

    def fold(name: str) -> str:
        return name.lower().replace("_", "").replace("-", "")

    for candidate in family(cls):
        if fold(str(tag)) in (
            fold(candidate.__name__),
            fold(short_name(candidate)),
            fold(candidate.__name__.removesuffix("Config")),
        ):
            return candidate
    kind = next((c.kind for c in cls.__mro__ if issubclass(c, Config) and is_family(c)), cls.kind)
    raise ConfigError(f"no {kind} is called {str(tag)!r}.{did_you_mean(str(tag), short_names(cls))}")


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Coordinate | tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Path):
        return str(value)
    return value


def _message(error: ValidationError, where: str, data: Any) -> str:
    """The first thing that is wrong, with its path in the words that the user wrote, and how many more."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = _shown_path(first["loc"], data)
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        path, text = _shown_path(first["loc"][:-1], data), f"field '{_short(str(first['loc'][-1]))}' is missing"
    elif "got" not in text and not isinstance(first["input"], Mapping) and first["type"] != "value_error":
        text = f"{text[0].lower()}{text[1:]}, got {first['input']!r}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ": ".join(part for part in (where, path, text) if part) + more


def _short(name: str) -> str:
    return re.sub("_configs?$", "", name)


def _shown_path(loc: Sequence[int | str], data: Any) -> str:
    shown = ""
    for key in loc:
        if isinstance(key, int):
            shown += f"[{key}]"
            data = data[key] if isinstance(data, Sequence) and key < len(data) else None
            continue
        name = key if isinstance(data, Mapping) and key in data else _short(key)
        shown += f".{name}" if shown else name
        data = data.get(name) if isinstance(data, Mapping) else None
    return shown


# The parser in C, where PyYAML was built with it, is ten times as fast.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1, safe; a key that stands twice is an error; tuples that another program wrote are lists."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in result:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, bit for bit the same each time."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def load_yaml(text: str, where: str = "") -> dict[str, Any]:
    """A mapping from YAML text, safely; ConfigError names the line."""
    try:
        # Only what the safe loader knows is built: this loader adds lists for tuples, nothing else.
        loader = _Loader(text)
        try:
            data = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where or 'YAML'}{line}: {problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{where or 'YAML'}: expected fields (name: value), got {type(data).__name__}")
    return data
