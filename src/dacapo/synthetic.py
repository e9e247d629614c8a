"""EM-like volumes with ground truth, made from a seed: what the demo and the tests learn from.

    paths        cells are bundles of points along self-avoiding random walks            nm
    labels       warped power diagram of those points, one label per visible cell        voxels
    signal       cytoplasm, organelles, membranes                                        reflectance 0..1
    raw          blur, uneven light, shot and read-out noise                             uint8

All lengths are nanometres, so anisotropic voxels see the same tissue. Imports numpy; scipy, edt
and cc3d where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dacapo.errors import GeometryError

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]

COARSE_NM = 11.0  # the power diagram is searched on a lattice of at most this spacing
CORE_NM = 13.0  # two parts of a cell are one object where a link at least twice this wide joins them
MEMBRANE_NM = 6.0  # half thickness of the two apposed membranes
CLEFT_NM = 13.0  # organelles keep this far from the middle of the membrane


@dataclass(frozen=True)
class SyntheticVolume:
    """An image of cells and the truth about it."""

    raw: NDArray[np.uint8]
    """(Z, Y, X), dark membranes on bright cytoplasm."""
    labels: NDArray[np.uint64]
    """(Z, Y, X), 1..n, no background: labels meet in the middle of the membrane."""
    voxel_size: Triple
    """Nanometres, z y x."""


def synthetic_em(shape: Sequence[int], voxel_size: Sequence[float], *, num_cells: int, seed: int) -> SyntheticVolume:
    """Make tissue as a focused-ion-beam microscope would see it: the same for the same arguments.

    Every voxel belongs to a cell; two labels meet in the middle of the dark membrane between them.
    So the affinity of two voxels is 0 exactly across a membrane, a segmentation that follows the
    middle of the membranes is perfect, and nothing needs to be ignored. Each label is one
    6-connected object. Mitochondria, vesicles and endosomes have membranes as dark as the cells'
    but never touch them, so darkness alone does not tell where a cell ends.

    Parameters
    ----------
    shape : three ints
        Voxels, z y x; at least 4 along each axis.
    voxel_size : three floats
        Nanometres, z y x. Membranes are about 12 nm thick, or 1.5 voxels where voxels are large; those
        that lie in the plane of thick slices are hard to see, as in real sections.
    num_cells : int
        Number of labels. Fewer only where the volume has no room for that many visible cells.
    seed : int
        Decides everything else.

    Returns
    -------
    SyntheticVolume
        `raw` uint8 and `labels` uint64, both of `shape`.

    Raises
    ------
    GeometryError
        If shape or voxel size are not three positive numbers, or there is less than one cell.

    Examples
    --------
    >>> volume = synthetic_em((16, 32, 32), (5.24, 4, 4), num_cells=3, seed=0)
    >>> volume.raw.shape, str(volume.raw.dtype), volume.labels.min() > 0
    ((16, 32, 32), 'uint8', np.True_)
    """
    size, scale = _checked(shape, voxel_size, num_cells)
    # One stream per part: more organelles do not change the cells.
    cells_rng, tissue_rng, camera_rng = (np.random.default_rng([seed, part]) for part in range(3))
    labels = _cells(cells_rng, size, scale, num_cells)
    signal = _tissue(tissue_rng, labels, scale)
    raw = _photograph(camera_rng, signal, scale)
    return SyntheticVolume(raw, labels.astype(np.uint64), scale)


def _checked(shape: Sequence[int], voxel_size: Sequence[float], num_cells: int) -> tuple[tuple[int, int, int], Triple]:
    size, scale = tuple(int(n) for n in shape), tuple(float(v) for v in voxel_size)
    if len(size) != 3 or min(size) < 4:
        raise GeometryError(f"shape {tuple(shape)}: expected three numbers of voxels (z, y, x), each at least 4.")
    if len(scale) != 3 or not all(np.isfinite(v) and v > 0 for v in scale):
        raise GeometryError(f"voxel_size {tuple(voxel_size)}: expected three positive lengths in nm (z, y, x).")
    if num_cells < 1:
        raise GeometryError(f"num_cells {num_cells}: expected at least 1.")
    return (size[0], size[1], size[2]), (scale[0], scale[1], scale[2])


# ---------------------------------------------------------------------------------------- noise


def _smooth_noise(rng: np.random.Generator, shape: Sequence[int], voxel_size: Sequence[float], length: float) -> Floats:
    """Gaussian noise of unit variance with a correlation length in nm: white noise under cubic B-splines."""
    knots = [int(np.ceil(n * v / length)) + 4 for n, v in zip(shape, voxel_size, strict=True)]
    noise = rng.standard_normal(knots, dtype=np.float32)
    splines = []
    for n, v, k in zip(shape, voxel_size, knots, strict=True):
        t = np.abs(np.arange(n)[:, None] * v / length + rng.random() + 1 - np.arange(k))
        spline = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
        splines.append((spline / np.linalg.norm(spline, axis=1, keepdims=True)).astype(np.float32))
    planes: Floats = splines[1] @ (noise @ splines[2].T)
    volume: Floats = splines[0] @ planes.reshape(knots[0], -1)
    return volume.reshape(tuple(shape))


def _step(x: Floats, width: float) -> Floats:
    """0 for x well below 0, 1 well above, over about `width`, without overflow."""
    y: Floats = np.clip(x * np.float32(0.5 / width) + np.float32(0.5), 0, 1)
    y *= y * (3 - 2 * y)
    return y


# ---------------------------------------------------------------------------------------- cells


def _cells(
    rng: np.random.Generator, shape: tuple[int, int, int], voxel_size: Triple, num_cells: int
) -> NDArray[np.uint32]:
    """Labels 1..n of touching, elongated, irregular cells, each 6-connected."""
    import cc3d

    extent = np.array(shape) * voxel_size
    cell_size = float(np.prod(extent) / num_cells) ** (1 / 3)
    # More than asked: some get no room, and the smallest are absorbed by their neighbours.
    points, radii, paths = _grow_paths(rng, extent, num_cells + 1 + num_cells // 4, cell_size)
    where = _warped_positions(rng, shape, voxel_size, cell_size)

    strides = [max(1, int(COARSE_NM / v)) for v in voxel_size]
    coarse = _nearest_point(where[:, :: strides[0], :: strides[1], :: strides[2]], points, radii)
    objects = _visible_objects(coarse, paths, [s * v for s, v in zip(strides, voxel_size, strict=True)])
    kept = _absorb_smallest(objects[coarse], num_cells)[objects]
    labels = kept[_refine(coarse, strides, where, points, radii)]
    parts = np.asarray(cc3d.connected_components(labels, connectivity=6), np.uint32)
    return _absorb_smallest(parts, int(np.unique(labels).size))[parts]


def _grow_paths(
    rng: np.random.Generator, extent: NDArray[np.float64], num_paths: int, cell_size: float
) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Random walks that keep their distance: points (P, 3) in nm, their radii (P,) and paths (P,)."""
    radius = 0.17 * cell_size * np.exp(0.5 * rng.standard_normal(num_paths).clip(-1.6, 2.2))
    steps = rng.integers(4, 20, num_paths)
    margin, most = 0.5 * cell_size, num_paths * 41
    points, owner = np.full((most, 3), 1e9), np.zeros(most, np.int32)
    count = 0

    def clearance(candidates: NDArray[np.float64], path: int) -> NDArray[np.float64]:
        others = owner[:count] != path
        there = points[:count][others]
        gap = np.sqrt(sum(np.subtract.outer(candidates[:, d], there[:, d]) ** 2 for d in range(3)))
        gap -= 0.9 * (radius[owner[:count][others]] + radius[path])
        return np.asarray(gap.min(axis=1, initial=1e9))

    def add(point: NDArray[np.float64], path: int) -> None:
        nonlocal count
        points[count], owner[count] = point, path
        count += 1

    heading = rng.standard_normal((num_paths, 3))
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    for path in range(num_paths):
        starts = rng.random((16, 3)) * extent
        add(starts[clearance(starts, path).argmax()], path)
    ends = [[(points[path].copy(), sign * heading[path]) for sign in (-1, 1)] for path in range(num_paths)]
    for turn in range(int(steps.max())):
        for path in np.flatnonzero(steps > turn).tolist():
            alive = []
            for end, direction in ends[path]:
                turns = direction + 0.45 * rng.standard_normal((8, 3))
                turns /= np.linalg.norm(turns, axis=1, keepdims=True)
                candidates = end + 1.1 * radius[path] * turns
                room = clearance(candidates, path)
                best = int(room.argmax())
                new = candidates[best]
                if room[best] > 0 and np.all(new > -margin) and np.all(new < extent + margin):
                    add(new, path)
                    alive.append((new, turns[best]))
            ends[path] = alive
    return points[:count].astype(np.float32), radius[owner[:count]].astype(np.float32), owner[:count]


def _warped_positions(rng: np.random.Generator, shape: Sequence[int], voxel_size: Triple, cell_size: float) -> Floats:
    """(3, Z, Y, X) positions in nm, bent on the scale of a cell and crumpled on a smaller one."""
    where = np.empty((3, *shape), np.float32)
    for axis in range(3):
        line = (np.arange(shape[axis], dtype=np.float32) + 0.5) * np.float32(voxel_size[axis])
        where[axis] = np.expand_dims(line, tuple(d for d in range(3) if d != axis))
        for length, amplitude in ((1.2, 0.16), (0.35, 0.045)):
            noise = _smooth_noise(rng, shape, voxel_size, length * cell_size)
            where[axis] += np.float32(amplitude * cell_size) * noise
    return where


def _nearest_point(where: Floats, points: Floats, radii: Floats) -> NDArray[np.int32]:
    """Power diagram: the point with the least |x - p|^2 - r^2, as an ordinary search in four dimensions."""
    from scipy.spatial import cKDTree

    lift = np.sqrt(np.square(radii.max()) - np.square(radii))
    queries = np.zeros((where[0].size, 4), np.float32)
    queries[:, :3] = where.reshape(3, -1).T
    nearest = cKDTree(np.column_stack([points, lift])).query(queries)[1]
    return np.asarray(nearest, np.int32).reshape(where.shape[1:])


def _refine(
    coarse: NDArray[np.int32], strides: Sequence[int], where: Floats, points: Floats, radii: Floats
) -> NDArray[np.int32]:
    """The power diagram on all voxels, choosing among the points of the up to 8 lattice sites around each."""
    fine = np.empty(where.shape[1:], np.int32)
    padded = np.pad(coarse, (0, 1), mode="edge")
    for offset in np.ndindex(*strides):  # all voxels at one offset from their lattice site at a time
        every = tuple(slice(o, None, s) for o, s in zip(offset, strides, strict=True))
        chosen, position = fine[every], where[:, *every]
        sides = [(0, 1) if o else (0,) for o in offset]
        around = [
            padded[z : z + chosen.shape[0], y : y + chosen.shape[1], x : x + chosen.shape[2]]
            for z in sides[0]
            for y in sides[1]
            for x in sides[2]
        ]
        chosen[:] = around[0]
        mixed = np.zeros(chosen.shape, bool)
        for site in around[1:]:
            mixed |= site != chosen
        voxels = np.nonzero(mixed)
        candidates = np.stack([site[voxels] for site in around])
        power = -np.square(radii)[candidates]
        for axis in range(3):
            power += np.square(position[axis][voxels] - points[candidates, axis])
        chosen[voxels] = np.take_along_axis(candidates, power.argmin(axis=0)[None], axis=0)[0]
    return fine


def _visible_objects(
    nearest: NDArray[np.int32], paths: NDArray[np.int32], voxel_size: Sequence[float]
) -> NDArray[np.int64]:
    """Object of every point, 0 if it has no region: one for all on a path that cytoplasm links.

    A link thinner than its membranes would be one cell in the truth and two in the picture.
    """
    import edt
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    owner = paths[nearest]
    distance = edt.edt(owner.astype(np.uint32) + 1, anisotropy=voxel_size, black_border=False, parallel=1)
    core = distance > CORE_NM
    links = []
    for a, b in _neighbours(nearest):
        here, there = core[a], core[b]
        joined = here & there & (owner[a] == owner[b]) & (nearest[a] != nearest[b])
        links.append(np.stack([nearest[a][joined], nearest[b][joined]]))
    pairs = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(pairs.shape[1]), pairs), shape=(len(paths), len(paths)))
    objects = np.asarray(connected_components(graph, directed=False)[1], np.int64) + 1
    objects[np.bincount(nearest.ravel(), minlength=len(paths)) == 0] = 0
    return objects


def _neighbours(
    volume: NDArray[np.generic],
) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Slices of all voxels but the last and all but the first, along each axis."""
    whole = [slice(None)] * volume.ndim
    pairs = []
    for axis in range(volume.ndim):
        a, b = list(whole), list(whole)
        a[axis], b[axis] = slice(None, -1), slice(1, None)
        pairs.append((tuple(a), tuple(b)))
    return pairs


def _absorb_smallest(labels: NDArray[np.integer], keep: int) -> NDArray[np.uint32]:
    """New label, 1..keep, of every old one: all but the largest join the neighbour they touch most."""
    sizes = np.bincount(labels.ravel())
    num = len(sizes)
    order = np.argsort(sizes, kind="stable")
    small = order[: max(0, num - keep)]
    small = small[sizes[small] > 0]
    is_small = np.zeros(num, bool)
    is_small[small] = True
    contacts = []
    for a, b in _neighbours(labels):
        here, there = labels[a], labels[b]
        touching = (here != there) & (is_small[here] | is_small[there])
        here, there = here[touching].astype(np.int64), there[touching].astype(np.int64)
        contacts += [here * num + there, there * num + here]
    keys, areas = np.unique(np.concatenate(contacts), return_counts=True)
    parent = np.arange(num)
    for label in small:
        touched = slice(*np.searchsorted(keys, [label * num, (label + 1) * num]))
        roots = parent[keys[touched] % num]
        area = np.bincount(roots, areas[touched], minlength=num)
        area[parent[label]] = 0
        if area.any():
            parent[parent == parent[label]] = area.argmax()
    present = np.unique(parent[sizes > 0])
    new = np.zeros(num, np.uint32)
    new[present] = np.arange(1, len(present) + 1, dtype=np.uint32)
    return new[parent]


# --------------------------------------------------------------------------------------- tissue


@dataclass(frozen=True)
class _Organelle:
    """How one kind looks and where it is: lengths in nm, brightness as in the signal."""

    per_cubic_micrometre: float
    radius: tuple[float, float]
    aspect: tuple[float, float]  # half length of the axis over the radius
    lumen: float
    rim: float
    rim_width: float
    ridges: float = 0.0  # brightness of the cristae
    choosy: int = 24  # places looked at, for the one deepest in its cell
    crowd: tuple[int, int] = (1, 1)  # how many come together
    spread: float = 0.0  # of a crowd


MITOCHONDRION = _Organelle(500, (22, 60), (1.0, 5.0), 0.42, 0.25, 6.0, ridges=0.10, choosy=40)
ENDOSOME = _Organelle(200, (15, 38), (0.0, 1.6), 0.76, 0.30, 4.5)
RETICULUM = _Organelle(500, (8, 13), (3.0, 8.0), 0.68, 0.38, 4.0, choosy=3)
VESICLE = _Organelle(400, (13, 20), (0.0, 0.0), 0.66, 0.32, 4.0, choosy=8, crowd=(4, 24), spread=40.0)


@dataclass
class _Cytoplasm:
    """What organelles are painted on, and what keeps them apart."""

    signal: Floats
    labels: NDArray[np.uint32]
    border: Floats
    """Distance to the middle of the nearest membrane."""
    bumps: Floats
    taken: NDArray[np.bool_]
    voxel_size: NDArray[np.float64]


def _tissue(rng: np.random.Generator, labels: NDArray[np.uint32], voxel_size: Triple) -> Floats:
    """Brightness 0..1 of cytoplasm, organelles and membranes."""
    import edt

    shape = labels.shape
    # edt measures to the other label's voxel centre; the face is about half a voxel nearer.
    border = edt.edt(labels, anisotropy=voxel_size, black_border=False, parallel=1)
    border -= np.float32(0.5 * min(voxel_size))
    grain = _smooth_noise(rng, shape, voxel_size, 9.0)
    clumps = _smooth_noise(rng, shape, voxel_size, 34.0)

    shade = np.clip(0.64 + 0.055 * rng.standard_normal(int(labels.max()) + 1), 0.5, 0.78).astype(np.float32)
    signal = shade[labels]
    signal += np.float32(0.045) * clumps
    # Ribosomes and filaments: the dark tail of the grain, more of it in some places.
    signal -= np.float32(0.08) * np.clip(grain - np.float32(0.4) + np.float32(0.5) * clumps, 0, 2)
    cytoplasm = _Cytoplasm(signal, labels, border, clumps, np.zeros(shape, bool), np.array(voxel_size))
    for kind in (MITOCHONDRION, ENDOSOME, VESICLE, RETICULUM):
        _populate(rng, cytoplasm, kind)

    patches = _smooth_noise(rng, shape, voxel_size, 70.0)
    # Synaptic densities: here and there the membrane is thick and nearly black.
    half = np.float32(4.0) * np.clip(patches - np.float32(1.3), 0, 1.5)
    half += np.float32(max(MEMBRANE_NM, 0.75 * float(np.prod(voxel_size)) ** (1 / 3)))
    membrane = _step(half - border, 4.5)
    signal += membrane * (np.float32(0.27) + np.float32(0.03) * (grain - patches) - signal)
    return signal


def _populate(rng: np.random.Generator, cytoplasm: _Cytoplasm, kind: _Organelle) -> None:
    """Paint organelles of one kind where the cells are wide enough for them."""
    size, scale = np.array(cytoplasm.labels.shape), cytoplasm.voxel_size
    cubic_micrometres = float(np.prod(size * scale)) * 1e-9
    for _ in range(rng.poisson(kind.per_cubic_micrometre * cubic_micrometres)):
        places = rng.integers(0, size, (kind.choosy, 3))
        middle = places[cytoplasm.border[tuple(places.T)].argmax()]
        for _ in range(rng.integers(kind.crowd[0], kind.crowd[1], endpoint=True)):
            step = kind.spread * rng.standard_normal(3)
            centre = np.rint(middle + step / scale).astype(int)
            room, along = rng.uniform(*kind.radius), rng.standard_normal((8, 3))
            along *= room * rng.uniform(*kind.aspect) / np.linalg.norm(along, axis=1, keepdims=True)
            if np.any(centre < 0) or np.any(centre >= size):
                continue
            same_cell = cytoplasm.labels[tuple(centre)] == cytoplasm.labels[tuple(middle)]
            radius = min(room, float(cytoplasm.border[tuple(centre)]) - CLEFT_NM)
            if same_cell and radius >= kind.radius[0]:
                _paint(cytoplasm, kind, centre, radius, _deepest(cytoplasm, centre, along))


def _deepest(cytoplasm: _Cytoplasm, centre: NDArray[np.int_], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """The half axis, of several, whose two ends lie deepest in the cell: organelles follow neurites."""
    size = np.array(cytoplasm.labels.shape)
    nearest = np.rint(centre + np.stack([along, -along]) / cytoplasm.voxel_size).astype(int)
    ends = tuple(np.moveaxis(np.clip(nearest, 0, size - 1), -1, 0))
    inside = cytoplasm.labels[ends] == cytoplasm.labels[tuple(centre)]
    depth = np.where(inside, cytoplasm.border[ends], 0).min(axis=0)
    return np.asarray(along[depth.argmax()])


def _paint(
    cytoplasm: _Cytoplasm,
    kind: _Organelle,
    centre: NDArray[np.int_],
    radius: float,
    along: NDArray[np.float64],
) -> None:
    """Draw a bumpy capsule, cut off before the cell's membrane, unless it would overlap another organelle."""
    scale, size = cytoplasm.voxel_size, np.array(cytoplasm.labels.shape)
    reach = np.ceil((np.abs(along) + 1.3 * radius + 2 * kind.rim_width) / scale).astype(int)
    low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, size)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    lines = ((np.arange(a, b) - c) * v for a, b, c, v in zip(low, high, centre, scale, strict=True))
    z, y, x = np.ix_(*(line.astype(np.float32) for line in lines))

    length = max(float(np.linalg.norm(along)), 1e-3)
    u = (along / length).astype(np.float32)
    t = z * u[0] + y * u[1] + x * u[2]
    beyond = np.maximum(np.abs(t) - np.float32(length), 0)
    off_axis = np.sqrt(np.maximum(z * z + y * y + x * x - t * t, 0) + beyond * beyond)
    bumps = cytoplasm.bumps[box]
    depth = np.float32(radius) * (1 + np.float32(0.12) * bumps) - off_axis
    depth = np.minimum(depth, cytoplasm.border[box] - CLEFT_NM)
    depth[cytoplasm.labels[box] != cytoplasm.labels[tuple(centre)]] = -np.inf
    body = depth > -kind.rim_width
    if np.any(cytoplasm.taken[box] & body):
        return
    cytoplasm.taken[box] |= body

    value = kind.lumen + kind.ridges * np.sin(t * (2 * np.pi / 27) + 2.2 * bumps)
    rim = np.exp(-np.square((depth - 0.5 * kind.rim_width) / kind.rim_width) * 2)
    value += rim * (kind.rim - value)
    signal = cytoplasm.signal[box]
    signal += _step(depth + 0.5 * kind.rim_width, 4.0) * (value - signal)


# --------------------------------------------------------------------------------------- camera


def _photograph(rng: np.random.Generator, signal: Floats, voxel_size: Triple) -> NDArray[np.uint8]:
    """Blur, light that varies slowly and from slice to slice, curtains, shot and read-out noise."""
    from scipy.ndimage import gaussian_filter

    shape = signal.shape
    extent = float(np.max(np.array(shape) * voxel_size))
    signal = gaussian_filter(signal, [3.2 / v for v in voxel_size], truncate=2.5)
    light = _smooth_noise(rng, shape, voxel_size, max(0.45 * extent, 200.0))
    signal *= 1 + np.float32(0.07) * light
    light = _smooth_noise(rng, shape, voxel_size, max(0.3 * extent, 150.0))
    signal += np.float32(0.035) * light
    signal += np.float32(0.012) * rng.standard_normal((shape[0], 1, 1), dtype=np.float32)
    # The ion beam leaves faint stripes along y that persist for a few slices.
    signal += np.float32(0.008) * _smooth_noise(rng, (shape[0], 1, shape[2]), voxel_size, 12.0)

    noise = rng.standard_normal(shape, dtype=np.float32)
    noise *= np.sqrt(np.float32(0.0055) * np.clip(signal, 0.05, None) + np.float32(0.0012))
    # The scan smears a little: neighbouring voxels share some of their noise.
    signal += gaussian_filter(noise, 0.45, truncate=2.5)
    signal -= np.float32(0.08)
    signal *= 275
    return np.clip(signal, 0, 255, out=signal).astype(np.uint8)
