"""The contract of config stores: configs by collection and name. May import `experiments`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dacapo.config import Config, family
from dacapo.errors import ConfigError, DuplicateNameError, RunNotFoundError, did_you_mean

if TYPE_CHECKING:
    from dacapo.experiments.run_config import RunConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=,@()-]*")


def checked_name(name: str) -> str:
    """A name that is safe as a file name everywhere; ConfigError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise ConfigError(f"{name!r} cannot name a stored thing: use letters, digits and . _ - + = , @ ( )")
    return name


class ConfigStore(ABC):
    """Configs by collection and name; a name means one content.

    A backend gives five methods over plain data. The named methods that follow from them,
    `store_X_config`, `retrieve_X_config`, `retrieve_X_config_names` and `delete_X_config`, are there for
    run, task, architecture, trainer, datasplit, dataset and array.
    """

    collections = ("runs", "tasks", "datasplits", "datasets", "arrays", "architectures", "trainers")

    @abstractmethod
    def names(self, collection: str) -> list[str]:
        """All names of a collection, sorted."""

    @abstractmethod
    def delete(self, collection: str, name: str) -> None:
        """Forget a config; one that is not there is no error."""

    @abstractmethod
    def where(self, collection: str) -> str:
        """The collection, in messages."""

    @abstractmethod
    def _create(self, collection: str, name: str, fields: dict[str, Any]) -> bool:
        """Keep `fields` under a name in one step, unless the name is taken: False then."""

    @abstractmethod
    def _read(self, collection: str, name: str) -> Mapping[str, Any] | None:
        """What is kept under a name, None if nothing is."""

    def mark(self, collection: str, name: str) -> list[int] | None:
        """What changes when a config does, empty without one; None where it cannot be told."""
        return None

    def store(self, collection: str, config: Config, ignore: Iterable[str] | None = None) -> None:
        """Keep a config under its name.

        Parameters
        ----------
        ignore : iterable of str, optional
            Fields in which what is stored under the name may differ; it stays as it is.

        Raises
        ------
        DuplicateNameError
            If other content has the name. Equal content is no news.
        """
        name = checked_name(config.name)  # type: ignore[attr-defined]
        if self._create(collection, name, config.to_dict()):
            return
        there = self.retrieve(collection, name, type(config))
        difference = _difference(there, config, frozenset(ignore or ()))
        if difference:
            raise DuplicateNameError(
                f"{name!r} is in {self.where(collection)} with other content ({difference}): "
                f"give the new one another name, or delete the old one"
            )

    def retrieve(self, collection: str, name: str, cls: type[Config]) -> Any:
        """The config of a name; RunNotFoundError names the nearest."""
        fields = self._read(collection, checked_name(name))
        if fields is None:
            kind = collection.removesuffix("s")
            raise RunNotFoundError(
                f"no {kind} named {name!r} in {self.where(collection)}.{did_you_mean(name, self.names(collection))}"
            )
        return cls.from_dict(fields, f"{self.where(collection)}: {name}")

    def store_run_config(self, config: RunConfig, ignore: Iterable[str] | None = None) -> None:
        self.store("runs", config, ignore)

    def retrieve_run_config(self, name: str) -> RunConfig:
        from dacapo.experiments.run_config import RunConfig

        found: RunConfig = self.retrieve("runs", name, RunConfig)
        return found

    def retrieve_run_config_names(
        self,
        task_names: Collection[str] | None = None,
        datasplit_names: Collection[str] | None = None,
        architecture_names: Collection[str] | None = None,
        trainer_names: Collection[str] | None = None,
    ) -> list[str]:
        """Names of all runs, or of those whose parts have one of the given names."""
        wanted = {
            kind: names
            for kind, names in (
                ("task", task_names),
                ("datasplit", datasplit_names),
                ("architecture", architecture_names),
                ("trainer", trainer_names),
            )
            if names is not None
        }
        if not wanted:
            return self.names("runs")
        found = []
        for run in self.names("runs"):
            fields = self._read("runs", run) or {}
            if all(_part_name(fields, kind) in names for kind, names in wanted.items()):
                found.append(run)
        return found

    def delete_run_config(self, name: str) -> None:
        self.delete("runs", name)


def _part_name(fields: Mapping[str, Any], kind: str) -> str | None:
    part = fields.get(f"{kind}_config", fields.get(kind))
    return part.get("name", "") if isinstance(part, Mapping) else None


def _parts(kind: str, collection: str) -> dict[str, Any]:
    def store(self: ConfigStore, config: Config, ignore: Iterable[str] | None = None) -> None:
        self.store(collection, config, ignore)

    def retrieve(self: ConfigStore, name: str) -> Any:
        import dacapo.experiments.run_config  # noqa: F401  (registers every family)

        families = [c for c in Config.__subclasses__() if c.kind == kind and family(c)]
        return self.retrieve(collection, name, families[0])

    def names(self: ConfigStore) -> list[str]:
        return self.names(collection)

    def delete(self: ConfigStore, name: str) -> None:
        self.delete(collection, name)

    return {
        f"store_{kind}_config": store,
        f"retrieve_{kind}_config": retrieve,
        f"retrieve_{kind}_config_names": names,
        f"delete_{kind}_config": delete,
    }


for _kind in ("task", "architecture", "trainer", "datasplit", "dataset", "array"):
    for _method_name, _method in _parts(_kind, f"{_kind}s").items():
        setattr(ConfigStore, _method_name, _method)


def _difference(a: Config, b: Config, ignore: frozenset[str] = frozenset()) -> str:
    """The first field in which two configs differ; empty if none does."""
    if type(a) is not type(b):
        return f"type: stored {type(a).__name__}, given {type(b).__name__}"
    for name in type(a).model_fields:
        x, y = getattr(a, name), getattr(b, name)
        if name in ignore or x == y:
            continue
        if isinstance(x, Config) and isinstance(y, Config):
            return f"{name}.{_difference(x, y)}"
        shown = [v.to_dict() if isinstance(v, Config) else v for v in (x, y)]
        return f"{name}: stored {_brief(shown[0])}, given {_brief(shown[1])}"
    return ""


def _brief(value: Any, width: int = 60) -> str:
    text = str(value)
    return text if len(text) <= width else text[: width - 1] + "…"
