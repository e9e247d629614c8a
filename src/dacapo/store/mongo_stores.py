"""Configs and stats in MongoDB, an extra: `pip install 'dacapo[mongo]'`, then `type: mongo` in dacapo.yaml.

Tested with mongomock only, never against a server. Weights and arrays stay files in `runs_base_dir`.
Collections are upstream's: one of configs per family (`runs`, `tasks`, ...) with unique names, and
`training_stats` and `validation_scores` with a document per run and iteration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dacapo.errors import ConfigError, StoreError
from dacapo.store.config_store import ConfigStore, checked_name
from dacapo.store.stats_store import TRAINING, VALIDATION, Record, StatsStore

if TYPE_CHECKING:
    from pymongo.database import Database

TIMEOUT_MS = 10_000
"""A server that does not answer for this long is an error."""


def connect(host: str, name: str) -> Database[Any]:
    """The database `name` of the server at `host`, such as `localhost:27017` or `mongodb://user@host`."""
    try:
        from pymongo import MongoClient
    except ImportError:
        raise ConfigError("type: mongo needs pymongo: pip install 'dacapo[mongo]'") from None
    return _client(MongoClient, host)[name]


@lru_cache
def _client(make: Any, host: str) -> Any:
    """One a host: a client is a pool of connections, and serves all stores."""
    with _as_store_error():
        return make(host, serverSelectionTimeoutMS=TIMEOUT_MS, tz_aware=False)


@contextmanager
def _as_store_error() -> Iterator[None]:
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError as error:
        raise StoreError(f"MongoDB: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


class MongoConfigStore(ConfigStore):
    """Configs as documents, a collection per family. Tested with mongomock only."""

    def __init__(self, database: Database[Any]) -> None:
        self.database = database
        with _as_store_error():
            for collection in self.collections:
                database[collection].create_index("name", unique=True)

    def names(self, collection: str) -> list[str]:
        with _as_store_error():
            return sorted(document["name"] for document in self.database[collection].find({}, {"name": 1, "_id": 0}))

    def delete(self, collection: str, name: str) -> None:
        with _as_store_error():
            self.database[collection].delete_one({"name": checked_name(name)})

    def where(self, collection: str) -> str:
        return f"MongoDB {self.database.name}.{collection}"

    def _create(self, collection: str, name: str, fields: dict[str, Any]) -> bool:
        from pymongo.errors import DuplicateKeyError

        with _as_store_error():
            try:
                self.database[collection].insert_one({**fields, "name": name})
            except DuplicateKeyError:
                return False
        return True

    def _read(self, collection: str, name: str) -> Mapping[str, Any] | None:
        with _as_store_error():
            found: Mapping[str, Any] | None = self.database[collection].find_one({"name": name}, {"_id": 0})
        return found


class MongoStatsStore(StatsStore):
    """Stats and scores as documents, one per run and iteration. Tested with mongomock only."""

    def __init__(self, database: Database[Any]) -> None:
        self.database = database
        with _as_store_error():
            for series in (TRAINING, VALIDATION):
                database[series].create_index([("run_name", 1), ("iteration", 1)], unique=True)

    def _records(self, series: str, run: str) -> list[Record]:
        with _as_store_error():
            return list(self.database[series].find({"run_name": run}, {"_id": 0, "run_name": 0}).sort("iteration", 1))

    def _append(self, series: str, run: str, records: Sequence[Record]) -> None:
        from pymongo.errors import BulkWriteError

        if not records:
            return
        documents = [{**record, "run_name": checked_name(run)} for record in records]
        collection = self.database[series]
        with _as_store_error():
            try:
                collection.insert_many([dict(document) for document in documents])
            except BulkWriteError:  # an iteration that was there: trained again after a kill
                for document in documents:
                    key = {"run_name": run, "iteration": document["iteration"]}
                    collection.replace_one(key, document, upsert=True)

    def _replace(self, series: str, run: str, records: Sequence[Record]) -> None:
        self._append(series, run, records)  # first, so that a kill in between loses nothing
        kept = {r["iteration"] for r in records}
        with _as_store_error():
            there = self.database[series].find({"run_name": run}, {"iteration": 1, "_id": 0})
            gone = [r["iteration"] for r in there if r["iteration"] not in kept]
            for start in range(0, len(gone), 10_000):
                part = gone[start : start + 10_000]
                self.database[series].delete_many({"run_name": run, "iteration": {"$in": part}})

    def _delete(self, series: str, run: str) -> None:
        with _as_store_error():
            self.database[series].delete_many({"run_name": run})
