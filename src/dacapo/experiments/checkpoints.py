"""Checkpoint files, and loading what they hold into a model. Imports torch; nothing a file says is executed.

A checkpoint has `model`, the tensors by name, and `optimizer` where training can go on. Upstream's files are read
too: their networks have the same layers under more than one name.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dacapo.errors import ConfigError

logger = logging.getLogger(__name__)

SHOWN = 5
"""Names that a message lists."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds, ours or upstream's: `model` and `optimizer` (or None); on the CPU.

    Raises
    ------
    ConfigError
        If there is no such file, or it is no checkpoint.
    """
    # Upstream's files name a class of its own; this one, without any code, stands in for it.
    shim = type("Weights", (), {"__module__": "dacapo.store.weights_store", "__qualname__": "Weights"})
    try:
        with torch.serialization.safe_globals([shim]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, AttributeError, TypeError, OSError) as error:
        raise ConfigError(f"cannot read {path} as weights: {(str(error).splitlines() or ['?'])[0]}") from error
    fields = content if isinstance(content, Mapping) else vars(content) if isinstance(content, shim) else {}
    model = fields.get("model")
    if not isinstance(model, Mapping) or not all(isinstance(t, Tensor) for t in model.values()):
        raise ConfigError(f"{path} is no checkpoint of a run: it has no entry 'model'")
    return {"model": dict(model), "optimizer": fields.get("optimizer")}


def known_as(name: str) -> list[str]:
    """The names that a tensor of ours may have in a checkpoint.

    In upstream's, names are doubled, `chain.1` is `prediction_head`, and release 0.3.5 has the network in
    `architecture`, or one level deeper as `unet`.
    """
    rest = name.split(".", 2)[-1]
    if name.startswith("chain.0."):
        return [name, *(f"{p}.{rest}" for p in ("chain.0.unet", "architecture", "architecture.unet"))]
    if name.startswith("chain.1."):
        return [name, f"prediction_head.{rest}"]
    if name.startswith("prediction_head."):
        return [name, f"chain.1.{name.removeprefix('prediction_head.')}"]
    return [name]


def fitting_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Upstream's tensors by the names of our network; ConfigError if one is missing or has another shape."""
    found = {}
    for name, tensor in own.items():
        theirs = next((state[c] for c in known_as(name) if c in state), None)
        if theirs is None or tuple(theirs.shape) != tuple(tensor.shape):
            got = "nothing" if theirs is None else f"shape {tuple(theirs.shape)}"
            raise ConfigError(f"{source}: for {name} of shape {tuple(tensor.shape)} it has {got}: another network")
        found[name] = theirs
    return found


def load_fitting(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load what `state` has for a model; what it lacks stays as it was drawn, and is logged with what is left over.

    Raises
    ------
    ConfigError
        If something of the same name has another shape, or no name is known; `source` leads the message.
    """
    own = model.state_dict()
    known = {name: tensor for name, tensor in state.items() if name in own}
    wrong = [
        f"{name} is {tuple(tensor.shape)}, the network has {tuple(own[name].shape)}"
        for name, tensor in known.items()
        if tensor.shape != own[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ConfigError(f"{source}: these weights are of another network: {wrong[0]}{more}")
    if not known:
        raise ConfigError(f"{source}: these weights are of another network: none of their names is in it")
    model.load_state_dict(known, strict=False)
    for what, names in (("not in the file, drawn at random", own.keys() - known), ("not used", state.keys() - known)):
        if names:
            logger.warning("%s: %s: %s", source, what, ", ".join(sorted(names)))


def start_from(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    old_channels: Sequence[str] | None = None,
    new_channels: Sequence[str] | None = None,
) -> list[str]:
    """Load what fits by name and shape; rows of the head go to the channels of the same name.

    Parameters
    ----------
    old_channels, new_channels : sequence of str, optional
        Of the head in `state` and of the model's. Without them the head is loaded if its shape fits.

    Returns
    -------
    said : list of str
        What stays as it was drawn, and what is not used, as phrases; they are logged as a warning too.

    Raises
    ------
    ConfigError
        If nothing of the network fits.
    """
    own, used = model.state_dict(), set()
    loaded: dict[str, Tensor] = {}
    fresh: list[str] = []
    rows = _rows(old_channels, new_channels)
    for name, tensor in own.items():
        theirs = next((c for c in known_as(name) if c in state), None)
        used |= {c for c in known_as(name) if c in state}
        value = None if theirs is None else state[theirs]
        if value is not None and rows is not None and name.startswith(("chain.1.", "prediction_head.")):
            value = _by_channel(tensor, value, rows, len(old_channels or ()))
        if value is None or value.shape != tensor.shape:
            fresh.append(name if value is None else f"{name} ({tuple(tensor.shape)}, not {tuple(value.shape)})")
        else:
            loaded[name] = value
    if not any(name.startswith("chain.0.") for name in loaded) and any(name.startswith("chain.0.") for name in own):
        raise ConfigError(f"{source}: nothing of it fits the network: expected, for instance, {_some(fresh)}")
    model.load_state_dict(loaded, strict=False)
    said = []
    if rows is not None:
        new = [c for c in new_channels or () if c not in (old_channels or ())]
        said += [f"channels that are new and begin at random: {_some(new)}"] if new else []
    said += [f"{len(fresh)} of {len(own)} tensors begin at random: {_some(fresh)}"] if fresh else []
    left = sorted(state.keys() - used)
    said += [f"{len(left)} tensors are not used: {_some(left)}"] if left else []
    for phrase in said:
        logger.warning("%s: %s", source, phrase)
    return said


def _rows(old: Sequence[str] | None, new: Sequence[str] | None) -> dict[int, int] | None:
    """New channel -> old channel of that name; None where names are not known or all the same."""
    if old is None or new is None or list(old) == list(new):
        return None
    return {i: list(old).index(name) for i, name in enumerate(new) if name in old}


def _by_channel(own: Tensor, theirs: Tensor, rows: Mapping[int, int], channels: int) -> Tensor:
    """The tensor of a head with the rows of the channels that both have; as it is where it has no row a channel."""
    if theirs.dim() == 0 or theirs.shape[0] != channels or theirs.shape[1:] != own.shape[1:]:
        return theirs
    value = own.clone()
    for to, origin in rows.items():
        value[to] = theirs[origin]
    return value


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
