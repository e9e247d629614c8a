"""Writing a run's network as a bioimage.io package (format 0.5). Imports torch; what is read back is in `model_zoo`."""

from __future__ import annotations

import copy
import hashlib
import importlib
import io
import logging
import math
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dacapo.config import dump_yaml
from dacapo.errors import ConfigError
from dacapo.geometry import Coordinate

if TYPE_CHECKING:
    from dacapo.experiments.architectures import ArchitectureConfig
    from dacapo.experiments.model import Model
    from dacapo.experiments.run_config import RunConfig, Weights

logger = logging.getLogger(__name__)

FORMAT = "0.5.4"
"""Old enough for the programs in use, new enough for all that is written here."""
TOLERANCE = 1e-4
"""What test outputs may differ by, absolutely and relatively."""
PERSON = ("name", "affiliation", "email", "github_user", "orcid")
LONGEST_NAME = 64
SCALE_BITS = 32
"""Precision of scales: 5.24 nm becomes 5.240000000 and something."""


def save_package(
    run: RunConfig,
    path: Path,
    authors: Sequence[Any],
    cite: Sequence[Any] | None,
    license: str,
    images: Sequence[str | Path | None],
    voxel_size: Sequence[float] | None,
    weights: Weights | None,
    test: bool,
) -> None:
    """See `RunConfig.save_bioimage_io_model`."""
    head = {"authors": _authors(authors), "cite": _citations(cite), "license": _license(license)}
    architecture = run.architecture_config
    if voxel_size is not None and (len(voxel_size) != architecture.dims or not all(v > 0 for v in voxel_size)):
        raise ConfigError(f"in_voxel_size: expected {architecture.dims} numbers above 0, got {list(voxel_size)}")
    model = _finished(run, weights)
    steps = _steps(architecture)
    taken, made = _test_images(model, steps, *images)
    files = {"test_input.npy": _npy(taken), "test_output.npy": _npy(made)}
    files["README.md"] = _readme(run, head).encode()
    entries, more = _weights(run, model, taken, made, steps)
    files |= more
    tensors = _tensors(run, model, steps, voxel_size, files)
    description = {
        "format_version": FORMAT,
        "type": "model",
        "name": _name(run.name),
        "description": f"The network of the dacapo run {run.name or 'without a name'}"[:1024],
        **head,
        "documentation": "README.md",
        **tensors,
        "weights": {name: {**entry, "sha256": _sha256(files[entry["source"]])} for name, entry in entries.items()},
    }
    _write(path, {"rdf.yaml": dump_yaml(description).encode(), **files})
    if test:
        check_package(path, taken, made)


def check_package(path: Path, taken: np.ndarray, made: np.ndarray) -> None:
    """ConfigError unless what is read back gives the test output; bioimageio.spec is asked too if it is there."""
    from dacapo.experiments.architectures import ModelZooConfig

    network = ModelZooConfig("test", model_id=path).module().eval()
    with torch.inference_mode():
        found = network(torch.from_numpy(taken)).numpy()
    if found.shape != made.shape or not np.allclose(found, made, rtol=TOLERANCE, atol=TOLERANCE):
        raise ConfigError(f"{path}: the saved model does not give the test output")
    try:
        spec: Any = importlib.import_module("bioimageio.spec")
    except ImportError:
        logger.info("%s: bioimageio.spec is not installed, so the description was not checked by it", path)
        return
    with warnings.catch_warnings(), zipfile.ZipFile(path) as package:  # of a path it leaves the file open
        warnings.simplefilter("ignore")
        read = spec.load_description(package)
    if isinstance(read, spec.InvalidDescr):
        problem = next((e for d in read.validation_summary.details for e in d.errors), None)
        raise ConfigError(f"{path}: bioimageio.spec finds: {problem.msg if problem else 'an invalid description'}")


# The network.


def _finished(run: RunConfig, weights: Weights | None) -> Model:
    """A copy of the model, on the CPU, as it predicts."""
    from dacapo.experiments.checkpoints import fitting_state

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying a script looks at gradients
        model = copy.deepcopy(run.model)
        model = model.to(device="cpu", memory_format=torch.contiguous_format).float().eval()
    if weights is not None:
        model.load_state_dict(fitting_state(weights.model, model.state_dict(), f"{run}: weights"))
    return model


def _steps(architecture: ArchitectureConfig) -> Coordinate | None:
    """By how much inputs may grow; None where only the one size is known to be taken."""
    try:
        stride = architecture.stride
        if architecture.next_input_shape(architecture.input_shape + stride) != architecture.input_shape + stride:
            return None
    except ConfigError:
        return None
    return stride


def _weights(
    run: RunConfig, model: Model, taken: np.ndarray, made: np.ndarray, steps: Coordinate | None
) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
    """Entries of the description, without the hashes, and the files they name."""
    from dacapo.experiments.run_config import RunConfig

    entries: dict[str, dict[str, Any]] = {}
    files = {}
    version = torch.__version__.split("+")[0]
    # What is in another file cannot be made again from the config alone.
    if not hasattr(run.architecture_config, "relative_to"):
        config = RunConfig(name=run.name, task_config=run.task_config, architecture_config=run.architecture_config)
        state = io.BytesIO()
        torch.save(dict(model.state_dict()), state)
        files["weights.pt"] = state.getvalue()
        entries["pytorch_state_dict"] = {
            "source": "weights.pt",
            "pytorch_version": version,
            "architecture": {
                "import_from": "dacapo.experiments.run_config",
                "callable": "from_yaml",
                "kwargs": {"config_yaml": config.to_yaml()},
            },
        }
    script = _traced(model, taken, made, steps)
    if script is not None:
        files["torchscript.pt"] = script
        parent = {"parent": "pytorch_state_dict"} if entries else {}
        entries["torchscript"] = {"source": "torchscript.pt", "pytorch_version": version, **parent}
    if not entries:
        raise ConfigError(f"{run}: the network can be written neither as a config nor as TorchScript")
    return entries, files


def _traced(model: Model, taken: np.ndarray, made: np.ndarray, steps: Coordinate | None) -> bytes | None:
    """TorchScript that gives the same at every size, or None if torch cannot make it."""
    x = torch.from_numpy(taken)
    others = [] if steps is None else [_noise((*x.shape[:2], *(Coordinate(x.shape[2:]) + steps)))]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what may depend on the size: that is tried below
        try:
            script = torch.jit.trace(Predicting(model).eval(), x, check_trace=False)
            pairs = [(script(x), torch.from_numpy(made)), *((script(o), model(o)) for o in others)]
            file = io.BytesIO()
            torch.jit.save(script, file)
        except (RuntimeError, ConfigError, TypeError) as error:
            logger.warning("no TorchScript weights: %s", (str(error).splitlines() or ["?"])[0][:200])
            return None
    if not all(a.shape == b.shape and torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in pairs):
        logger.warning("no TorchScript weights: torch cannot trace this network so that it takes every size")
        return None
    return file.getvalue()


class Predicting(nn.Module):
    """A model without its config, which predicts in every mode: what is trained on top sees what it will see later."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.chain = model.chain
        self.eval_activation = model.eval_activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.eval_activation(self.chain(x))  # type: ignore[no-any-return]


def _noise(shape: Sequence[int]) -> Tensor:
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))


# Test images.


def _test_images(
    model: Model, steps: Coordinate | None, given: str | Path | None, expected: str | Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Input and output, float32 (1, C, *spatial); the output is what the network gives."""
    dims, channels = len(model.input_shape), model.num_in_channels
    if expected is not None and given is None:
        raise ConfigError("output_test_image_path: give the input_test_image_path it belongs to")
    taken = _noise((1, channels, *model.input_shape)).numpy() if given is None else _load(given, dims, channels)
    grown = [n - m for n, m in zip(taken.shape[2:], model.input_shape, strict=True)]
    if any(g < 0 or (g and (steps is None or g % steps[axis])) for axis, g in enumerate(grown)):
        more = "" if steps is None else f" plus multiples of {tuple(steps)}"
        raise ConfigError(
            f"input_test_image_path: {given}: expected the shape {tuple(model.input_shape)}{more}, got {taken.shape[2:]}"
        )
    with torch.inference_mode():
        made = model(torch.from_numpy(taken)).numpy()
    if expected is not None:
        wanted = _load(expected, dims, made.shape[1], "output_test_image_path")
        if wanted.shape != made.shape or not np.allclose(wanted, made, rtol=TOLERANCE, atol=TOLERANCE):
            raise ConfigError(f"output_test_image_path: {expected}: the network does not give this for the input")
    return taken, made


def _load(path: str | Path, dims: int, channels: int, field: str = "input_test_image_path") -> np.ndarray:
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{field}: {path}: cannot be read as .npy ({error})") from None
    image = image[(None,) * max(0, dims + 2 - image.ndim)] if image.ndim >= dims else image
    if image.ndim != dims + 2 or image.shape[:2] != (1, channels):
        raise ConfigError(f"{field}: {path}: expected (1, {channels}, {dims} spatial axes), got {image.shape}")
    return np.ascontiguousarray(image, np.float32)


def _npy(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, image, allow_pickle=False)
    return file.getvalue()


# The description.


def _tensors(
    run: RunConfig,
    model: Model,
    steps: Coordinate | None,
    voxel_size: Sequence[float] | None,
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    """`inputs` and `outputs`: sizes of the output by those of the input, where it takes more than one."""
    unit = {} if voxel_size is None else {"unit": "nanometer"}
    scales = [1.0] * len(model.input_shape) if voxel_size is None else [float(v) for v in voxel_size]
    taken, made = [], []
    halos = _halos(model)
    for axis, name in enumerate("zyx"[-len(scales) :]):
        size, factor = model.input_shape[axis], model.scale_factor[axis]
        scale, finer = _exact_scales(scales[axis], factor)
        said: Any = size if steps is None else {"min": size, "step": steps[axis]}
        taken.append({"type": "space", "id": name, "size": said, **unit, "scale": scale})
        offset = model.output_shape[axis] - math.floor(size * factor)
        reference = {"tensor_id": "input", "axis_id": name, "offset": offset}
        halo = {"halo": halos[axis]} if halos[axis] > 0 else {}
        made.append({"type": "space", "id": name, "size": reference, **unit, "scale": finer, **halo})
    raw = ["raw"] if model.num_in_channels == 1 else [f"raw{i}" for i in range(model.num_in_channels)]
    channels = run.task.channels if run.task else [f"channel{i}" for i in range(model.num_out_channels)]
    tensors = {}
    for field, name, names, axes in (("inputs", "input", raw, taken), ("outputs", "output", channels, made)):
        batch, labels = {"type": "batch"}, {"type": "channel", "channel_names": list(names)}
        file = f"test_{name}.npy"
        tensors[field] = [
            {
                "id": name,
                "axes": [batch, labels, *axes],
                "test_tensor": {"source": file, "sha256": _sha256(files[file])},
                "data": {"type": "float32"},
            }
        ]
    return tensors


def _exact_scales(scale: float, factor: float) -> tuple[float, float]:
    """Of input and output, with so few digits that size * input / output is exact: readers round it down or compare."""
    mantissa, exponent = math.frexp(scale / factor)
    finer = math.ldexp(round(math.ldexp(mantissa, SCALE_BITS)), exponent - SCALE_BITS)
    return finer * factor, finer


def _halos(model: Model) -> list[int]:
    """Output voxels at the border that have not seen all they depend on, for programs that predict in tiles."""
    architecture = model.architecture
    try:
        offset = architecture.output_offset_of(model.input_shape)
        context = architecture.receptive_context()
    except ConfigError:
        return [0] * len(model.input_shape)
    halos = []
    for axis, factor in enumerate(model.scale_factor):
        wanted = context[axis] * factor - offset[axis]  # a head takes from the border what it looks at
        multiple = max(1, round(factor))
        halo = math.ceil(max(0, wanted) / multiple) * multiple
        # A smallest input that is all border says nothing to them.
        halos.append(halo if model.output_shape[axis] > 2 * halo else 0)
    return halos


def _name(name: str) -> str:
    """Letters, digits and a few signs, of 5 to 64 characters, as the format has it."""
    text = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", name)
    return (text if len(text) >= 5 else f"dacapo {text or 'network'}")[:LONGEST_NAME]


def _fields(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """Those of `names` that a mapping or an object has."""
    if isinstance(value, Mapping):
        unknown = [str(key) for key in value if key not in names]
        if unknown:
            raise ConfigError(f"unknown field {unknown[0]!r}: there are {', '.join(names)}")
        found = {name: value.get(name) for name in names}
    else:
        found = {name: getattr(value, name, None) for name in names}
    return {name: str(v) for name, v in found.items() if v is not None}


def _authors(authors: Sequence[Any]) -> list[dict[str, Any]]:
    found = []
    for author in [authors] if isinstance(authors, str | Mapping) else list(authors):
        try:
            fields = {"name": author} if isinstance(author, str) else _fields(author, PERSON)
        except ConfigError as error:
            raise ConfigError(f"authors: {error}") from None
        if not fields.get("name", "").strip() or set("/\\") & set(fields["name"]):
            raise ConfigError(f"authors: expected a name without slashes, got {author!r}")
        found.append(fields)
    if not found:
        raise ConfigError("authors: expected at least one")
    return found


def _citations(cite: Sequence[Any] | None) -> list[dict[str, Any]]:
    found = []
    for entry in [cite] if isinstance(cite, str | Mapping) else list(cite or ()):
        if isinstance(entry, str):
            doi = re.search(r"10\.\d{4,}\S*/\S+", entry)
            where = {"doi": doi.group()} if doi else {"url": entry} if entry.startswith("http") else {}
            fields = {"text": entry, **where}
        else:
            try:
                fields = _fields(entry, ("text", "doi", "url"))
            except ConfigError as error:
                raise ConfigError(f"cite: {error}") from None
        if "text" not in fields or not {"doi", "url"} & set(fields):
            raise ConfigError(f"cite: expected a DOI or URL, or fields text and doi or url, got {entry!r}")
        found.append(fields)
    return found


def _license(license: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", license):
        raise ConfigError(f"license: expected an SPDX identifier such as MIT or CC-BY-4.0, got {license!r}")
    return license


def _readme(run: RunConfig, head: Mapping[str, Any]) -> str:
    task = f"Task: {type(run.task_config).__name__}. " if run.task_config else "Features, without a head. "
    channels = f"Channels: {', '.join(run.task.channels)}." if run.task else ""
    cited = "".join(f"- {entry['text']}\n" for entry in head["cite"])
    return (
        f"# {run.name or 'A network of dacapo'}\n\n"
        f"By {', '.join(author['name'] for author in head['authors'])}. License: {head['license']}.\n\n"
        f"{task}{channels}\n\n"
        "The input is raw as the run's data gave it (intensities, float32); nothing is done to it here. In dacapo:\n"
        '`ModelZooConfig("mine", model_id="this.zip")`. The weights `pytorch_state_dict` need dacapo, `torchscript`'
        " only torch.\n\n"
        "## Validation\n\n"
        "Run the network on test_input.npy and compare with test_output.npy. To validate it on data that it has not"
        " seen, use `dacapo validate` with ground truth of your own.\n" + (f"\n## To cite\n\n{cited}" if cited else "")
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    """A zip, in one step, and the same bytes for the same files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
            for name, data in files.items():
                info = zipfile.ZipInfo(name)  # of 1980: no clock in it
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                package.writestr(info, data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
