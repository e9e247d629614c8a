"""Upstream's way to call the verbs, beside ours: `predict(run_name, iteration, container, dataset, path)`.

A call that has more positional arguments than ours takes, or one of upstream's keywords, is translated. Imports
errors, and geometry inside functions: `import dacapo` imports this file.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from dacapo.errors import ConfigError

Verb = TypeVar("Verb", bound=Callable[..., Any])


def also_called_as(upstream: Callable[..., dict[str, Any]]) -> Callable[[Verb], Verb]:
    """Let a verb be called as `upstream` is: a function of upstream's signature that returns our keywords."""

    def decorate(verb: Verb) -> Verb:
        ours = inspect.signature(verb).parameters
        most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in ours.values())
        theirs = set(inspect.signature(upstream).parameters) - set(ours)

        @wraps(verb)
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(args) > most or theirs & set(kwargs):
                kept = {k: kwargs.pop(k) for k in ("stores", "progress") if k in kwargs}
                return verb(**upstream(*args, **kwargs), **kept)
            return verb(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def train(run_name: Any, validate: bool = True) -> dict[str, Any]:
    return {"run": run_name, "validate": validate}


def validate(run_name: Any, iteration: int = 0, datasets_config: Any = None) -> dict[str, Any]:
    return {"run": run_name, "iteration": iteration, "datasets_config": datasets_config}


def predict(
    run_name: Any, iteration: int | None, input_container: Any, input_dataset: str, output_path: Any,
    output_roi: Any = None, num_workers: int = 1, output_dtype: Any = "uint8", overwrite: bool = True,
) -> dict[str, Any]:  # fmt: skip
    output = output_array(run_name, iteration, input_container, output_path)
    return {
        "run": run_name, "raw": volume(input_container, input_dataset), "output": output, "iteration": iteration,
        "roi": region(output_roi), "workers": num_workers, "dtype": dtype_name(output_dtype), "overwrite": overwrite,
    }  # fmt: skip


def apply(
    run_name: Any, input_container: Any, input_dataset: str, output_path: Any, validation_dataset: Any = None,
    criterion: str | None = None, iteration: int | None = None, parameters: Any = None, roi: Any = None,
    num_workers: int = 12, output_dtype: Any = "uint8", overwrite: bool = True, file_format: str = "zarr",
) -> dict[str, Any]:  # fmt: skip
    if file_format != "zarr":
        raise ConfigError(f"file_format is {file_format!r}: outputs are OME-Zarr, convert them afterwards")
    dataset = getattr(validation_dataset, "name", validation_dataset)
    return {
        "run": run_name, "raw": volume(input_container, input_dataset),
        "output": output_container(input_container, output_path), "dataset": dataset, "criterion": criterion,
        "iteration": iteration, "parameters": parameters, "roi": region(roi), "workers": num_workers,
        "dtype": dtype_name(output_dtype), "overwrite": overwrite,
    }  # fmt: skip


def volume(container: Any, dataset: str) -> str:
    """The path of an array as ours has it."""
    colon = Path(container).suffix.lower() in (".h5", ".hdf", ".hdf5")
    return f"{container}{':' if colon else '/'}{dataset.strip('/')}" if dataset else str(container)


def output_container(input_container: Any, output_path: Any) -> str:
    """Where upstream puts outputs: the path if it is a container, else one of the input's name inside it."""
    path = Path(output_path)
    return str(path if path.suffix == ".zarr" else path / f"{Path(input_container).stem}.zarr")


def output_array(run: Any, iteration: int | None, input_container: Any, output_path: Any) -> str:
    """Where upstream puts a prediction; an array identifier is that array."""
    if hasattr(output_path, "dataset"):
        from dacapo.arrays.paths import located

        return located(output_path)
    return f"{output_container(input_container, output_path)}/prediction_{run}_{iteration}"


def region(roi: Any) -> Any:
    """A Roi (voxels), or `[0:10,0:20,5:30]` as one."""
    from dacapo.geometry import parse_roi

    return parse_roi(roi) if isinstance(roi, str) else roi


def dtype_name(dtype: Any) -> str:
    """`uint8` for numpy's type of that name."""
    import numpy as np

    return np.dtype(dtype).name


def parameters_of(task: Any, given: Any) -> Any:
    """Post-processing parameters from `bias=0.3,link=0.7`, `Name(bias=0.3)` or a mapping; objects stay what they are.

    What is left out is as in the first of the task's parameter sets. Values are literals; nothing is evaluated.
    """
    if given is None or not isinstance(given, (str, Mapping)):
        return given
    first = next(iter(task.parameters))
    if isinstance(given, Mapping):
        values = dict(given)
    else:
        inside = given.strip().partition("(")[2].rpartition(")")[0] if given.strip().endswith(")") else given
        try:
            call = ast.parse(f"f({inside})", mode="eval").body
            assert isinstance(call, ast.Call)
            if call.args:
                raise ValueError
            values = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        except (SyntaxError, ValueError, AssertionError):
            raise ConfigError(f"parameters {given!r}: expected name=value, separated by commas") from None
    unknown = set(values) - set(first.parameter_names) - {"context"}
    if unknown:
        raise ConfigError(f"parameters: no {', '.join(sorted(unknown))}; there are {', '.join(first.parameter_names)}")
    fields = {name: getattr(first, name) for name in type(first).model_fields}
    return type(first)(**{**fields, **{k: v for k, v in values.items() if k in fields}})
