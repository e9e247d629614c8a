"""One self-contained HTML page about a run: numbers, curves, pictures, and how to repeat it.

    write_report            assembles the page and puts it in place in one step
    _loss / _scores         curves, as inline SVG that follows the reader's light or dark theme
    _picture                slices as PNG, labels in colours that compare across panels
    _table / _repeat        the rest, escaped

The page asks the network for nothing. Imports numpy and errors; matplotlib where it is used.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dacapo.errors import DataError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[tuple[str, object]] | Sequence[Mapping[str, object]]
Image = NDArray[np.uint8]

LONGEST_SIDE = 768  # pixels of a picture; larger slices are thinned
CURVE_POINTS = 800
PLOTS_IN_SIGHT = 8  # more of them fold away
DRAWN = {"#010101": "var(--ink)", "#020202": "var(--line)", "#030303": "var(--accent)", "#040404": "var(--mark)"}
INK, LINE, ACCENT, MARK = DRAWN


class Best(NamedTuple):
    """The score that the page opens with."""

    dataset: str
    criterion: str
    iteration: int
    parameters: str
    value: float


class Picture(TypedDict, total=False):
    """A volume to show slices of; `name`, `raw` and `voxel_size` are needed, the rest may be missing or None."""

    name: str
    raw: ArrayLike
    """(Z, Y, X), any real dtype."""
    gt: ArrayLike | None
    """(Z, Y, X) integers, 0 is drawn black."""
    prediction: ArrayLike | None
    """(C, Z, Y, X) in [0, 1], in [-1, 1], or uint8 for [0, 1]."""
    segmentation: ArrayLike | None
    """(Z, Y, X) integers."""
    voxel_size: Sequence[float]
    """z y x, in nanometres."""


def write_report(
    path: str | Path,
    *,
    title: str,
    table: Rows | Mapping[str, Rows] = (),
    training: tuple[ArrayLike, ArrayLike] | None = None,
    scores: xr.DataArray | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    best: tuple[str, str, int, str, float] | None = None,
    pictures: Sequence[Picture] = (),
    config_yaml: str = "",
    commands: Sequence[str] = (),
) -> Path:
    """Write the page; what is missing or empty is left out of it.

    Parameters
    ----------
    path : path
        Where the page goes. Folders are made; a page that is there is replaced in one step.
    title : str
        Heading and window title.
    table : rows, or caption -> rows
        Rows are (label, value) pairs, or mappings with the same keys, which become columns.
    training : (iterations, losses), optional
        Two equally long sequences, iterations from 0; long ones are thinned, keeping every spike.
    scores : xarray.DataArray, optional
        Dimensions iterations, datasets, parameters, criteria, in any order; NaN is "no score".
    higher_is_better : mapping of criterion to bool, optional
        A criterion that is not in it gets curves, but no best point.
    best : (dataset, criterion, iteration, parameters, value), optional
        The choice that the page opens with.
    pictures : sequence of Picture
        Volumes of one field of view each.
    config_yaml : str
        Shown as it is.
    commands : sequence of str
        What to type to get the same again.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    DataError
        If iterations and losses, or the arrays of one picture, do not fit each other.
    """
    chosen = Best(*best) if best is not None else None
    sections = [
        _section("Result", _tables(table)),
        _section("What it sees", "".join(_picture(picture) for picture in pictures)),
        _section("Training", _loss(*training) if training is not None else ""),
        _section("Scores", _scores(scores, higher_is_better or {}, chosen) if scores is not None else ""),
        _section("How to repeat this", _repeat(commands, config_yaml)),
    ]
    page = PAGE.format(
        title=escape(title), style=STYLE, tiles=_tiles(chosen, training, scores), sections="".join(sections)
    )
    return _write_atomically(Path(path), page)


def _write_atomically(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# ----------------------------------------------------------------------------------------- text


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>\n" if body else ""


def _text(value: object) -> str:
    """A value as a reader wants it: four digits, thousands apart, a dash for no number."""
    if isinstance(value, (float, np.floating)):
        value = float(value)
        return "–" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value)


def _cell(value: object) -> str:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{escape(_text(value))}</td>"


def _tables(table: Rows | Mapping[str, Rows]) -> str:
    if isinstance(table, Mapping):
        return "".join(_table(rows, caption) for caption, rows in table.items())
    return _table(table)


def _table(rows: Rows, caption: str = "") -> str:
    if not rows:
        return ""
    head, body = "", []
    columns: list[str] = []
    for row in rows:
        if isinstance(row, Mapping):
            columns += [key for key in row if key not in columns]
    if columns:
        head = "<thead><tr>" + "".join(f"<th scope=col>{escape(str(key))}</th>" for key in columns) + "</tr></thead>"
    for row in rows:
        cells = [row.get(key) for key in columns] if isinstance(row, Mapping) else list(row)
        first = f"<th scope=row>{escape(_text(cells[0]))}</th>"
        body.append(f"<tr>{first}{''.join(_cell(value) for value in cells[1:])}</tr>")
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<div class=scroll><table>{named}{head}<tbody>{''.join(body)}</tbody></table></div>\n"


def _tiles(best: Best | None, training: tuple[ArrayLike, ArrayLike] | None, scores: xr.DataArray | None) -> str:
    tiles = []
    if best is not None:
        where = f"on {best.dataset}: iteration {_text(best.iteration)}, {best.parameters}"
        tiles.append((f"best {best.criterion}", _text(float(best.value)), where))
    if training is not None and np.size(training[0]):
        losses = _finite(*training)[1]
        if losses.size:
            last = max(1, losses.size // 50)
            tiles.append(("loss", _text(float(losses[-last:].mean())), f"mean of the last {_text(last)}"))
        tiles.append(("trained", _text(int(np.max(np.asarray(training[0]))) + 1), "iterations"))
    if scores is not None and scores.size:
        combinations = scores.sizes["parameters"] * scores.sizes["iterations"]
        tiles.append(("compared", _text(combinations), "iterations × post-processing parameters"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b> <span>{escape(note)}</span></dd></div>"
        for name, value, note in tiles
    )
    return f"<dl class=tiles>{cells}</dl>" if tiles else ""


def _repeat(commands: Sequence[str], config_yaml: str) -> str:
    parts = []
    if commands:
        lines = "\n".join(escape(command) for command in commands)
        parts.append(f"<pre><code>{lines}</code></pre>")
    if config_yaml.strip():
        parts.append(
            "<details><summary>The whole configuration</summary>"
            f"<pre><code>{escape(config_yaml.strip())}</code></pre></details>"
        )
    return "\n".join(parts)


# --------------------------------------------------------------------------------------- curves


def _finite(iterations: ArrayLike, losses: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(iterations, float).ravel(), np.asarray(losses, float).ravel()
    if x.size != y.size:
        raise DataError(f"training: {x.size} iterations and {y.size} losses; expected one loss per iteration.")
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest value of every stretch, in their order: spikes survive."""
    if x.size <= CURVE_POINTS:
        return x, y
    edges = np.linspace(0, x.size, CURVE_POINTS // 2 + 1).astype(int)
    kept = []
    for low, high in pairwise(edges):
        kept += sorted({low + int(y[low:high].argmin()), low + int(y[low:high].argmax())})
    return x[kept], y[kept]


def _smoothed(y: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred running mean over what of the window lies inside the curve."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    low = np.maximum(np.arange(y.size) - window // 2, 0)
    high = np.minimum(np.arange(y.size) + window // 2 + 1, y.size)
    return np.asarray((total[high] - total[low]) / (high - low))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, label: str, titles: Mapping[str, str] | None = None) -> str:
    """The figure as inline SVG whose colours are the page's variables; groups named in `titles` get a tooltip."""
    import matplotlib

    out = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, title in (titles or {}).items():
        svg = svg.replace(f'<g id="{name}">', f"<g><title>{escape(title)}</title>")
    # Several drawings share one page, and so one space of ids.
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', svg))
    salt = base64.b32encode(label.encode()).decode().rstrip("=").lower()
    svg = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{salt}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'((?:href="|url\()#)([\w-]+)', rf"\g<1>{salt}\g<2>", svg)
    svg = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?)px[^;\"]*", r"font-size: \1px", svg)
    for drawn, variable in DRAWN.items():
        svg = svg.replace(drawn, variable)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    if size:
        svg = svg.replace(size[0], "", 1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _loss(iterations: ArrayLike, losses: ArrayLike) -> str:
    x, y = _finite(iterations, losses)
    if not x.size:
        return ""
    window = max(1, x.size // 40)
    smooth = _smoothed(y, window)
    figure, axes = _figure(5.0, 2.2)
    axes.plot(*_thinned(x, y), color=ACCENT, alpha=0.3, linewidth=0.7)
    axes.plot(*_thinned(x, smooth), color=ACCENT, linewidth=1.9)
    if y.min() > 0 and smooth.max() > 10 * smooth.min():
        axes.set_yscale("log")
    elif y.size > 50:
        low, high = np.percentile(y, [0, 99.5])
        axes.set_ylim(low - 0.05 * (high - low), max(high, smooth.max()) + 0.05 * (high - low) + 1e-12)
    axes.set_xlabel("iteration", color=INK, fontsize=9)
    axes.margins(x=0.01)
    drawing = _svg(figure, f"Loss over {x.size} iterations, from {_text(smooth[0])} to {_text(smooth[-1])}")
    lost = np.size(losses) - x.size
    note = f" {_text(lost)} values that are no finite numbers are left out." if lost else ""
    caption = f"Loss, and its running mean over {_text(window)} iterations.{note}"
    return f"<figure class=wide>{drawing}<figcaption>{caption}</figcaption></figure>"


def _scores(scores: xr.DataArray, higher_is_better: Mapping[str, bool], best: Best | None) -> str:
    if not scores.size:
        return ""
    scores = scores.transpose("iterations", "datasets", "parameters", "criteria")
    datasets, criteria = ([str(v) for v in scores.coords[d].values] for d in ("datasets", "criteria"))
    parameters = [str(v) for v in scores.coords["parameters"].values]
    iterations = np.asarray(scores.coords["iterations"].values, float)
    values = np.asarray(scores.values, float)
    figures: list[str] = []
    for d, dataset in enumerate(datasets):
        for c, criterion in enumerate(criteria):
            first = best is not None and (best.dataset, best.criterion) == (dataset, criterion)
            plot = _score_plot(
                f"{criterion} on {dataset}", iterations, values[:, d, :, c], parameters, higher_is_better.get(criterion)
            )
            figures.insert(0 if first else len(figures), plot)
    shown = f"<div class=plots>{''.join(figures[:PLOTS_IN_SIGHT])}</div>"
    rest = figures[PLOTS_IN_SIGHT:]
    if rest:
        shown += f"<details><summary>{len(rest)} more</summary><div class=plots>{''.join(rest)}</div></details>"
    how = "One line per set of post-processing parameters" if len(iterations) > 1 else "One point per set of parameters"
    return f"<p>{how}; the best is in colour. Point at one to see its name.</p>{shown}"


def _score_plot(
    name: str,
    iterations: NDArray[np.float64],
    values: NDArray[np.float64],
    parameters: Sequence[str],
    higher_is_better: bool | None,
) -> str:
    """`values` is (iterations, parameters)."""
    from matplotlib.ticker import MaxNLocator

    known = np.isfinite(values)
    winner: tuple[int, int] | None = None
    if higher_is_better is not None and known.any():
        ranked = np.where(known, values if higher_is_better else -values, -np.inf)
        winner = divmod(int(ranked.argmax()), len(parameters))
    figure, axes = _figure(4.3, 2.3)
    alone = len(iterations) == 1
    for p in range(len(parameters)):
        chosen = winner is not None and winner[1] == p
        x, y = (np.full(1, p) if alone else iterations)[known[:, p]], values[known[:, p], p]
        style: dict[str, Any] = (
            {"color": ACCENT, "linewidth": 2, "zorder": 3} if chosen else {"color": INK, "alpha": 0.32}
        )
        dots: dict[str, Any] = {"marker": "o" if y.size < 30 else "", "markersize": 4 if alone else 2.5}
        axes.plot(x, y, **{"linewidth": 0.9, **style, **dots}, gid=f"parameter-{p}")
    if winner is not None:
        best_x = winner[1] if alone else iterations[winner[0]]
        ring: dict[str, Any] = {"markersize": 8, "markerfacecolor": "none", "markeredgewidth": 2}
        axes.plot(best_x, values[winner], "o", color=MARK, zorder=4, clip_on=False, **ring)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("parameter set" if alone else "iteration", color=INK, fontsize=9)
    if alone and len(parameters) <= 12 and max(map(len, parameters)) <= 16:
        axes.set_xticks(range(len(parameters)), parameters, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_xlabel("")
    direction = {None: "", True: "higher is better", False: "lower is better"}[higher_is_better]
    result = "no score" if not known.any() else ""
    if winner is not None:
        place = f"iteration {_text(int(iterations[winner[0]]))}, {parameters[winner[1]]}"
        result = f"best <b>{escape(_text(float(values[winner])))}</b> at {escape(place)}"
    drawing = _svg(figure, name, {f"parameter-{p}": parameter for p, parameter in enumerate(parameters)})
    return (
        f"<figure><h3>{escape(name)} <small>{direction}</small></h3>{drawing}<figcaption>{result}</figcaption></figure>"
    )


# ------------------------------------------------------------------------------------- pictures


def _label_colours(ids: NDArray[np.integer[Any]], salt: int = 0) -> Image:
    """(N, 3) colours that depend on the id alone: bright, of any hue; 0 is black."""
    mixed = ids.astype(np.uint64) + np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    parts = ((mixed[:, None] >> np.array([0, 21, 42], np.uint64)) & np.uint64(0x1FFFFF)) / 2.0**21
    hue, saturation, value = parts[:, 0], 0.4 + 0.5 * parts[:, 1], 0.65 + 0.35 * parts[:, 2]
    corner = (hue[:, None] * 6 + np.array([5, 3, 1])) % 6
    rgb = value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(corner, 4 - corner), 0, 1))
    rgb[ids == 0] = 0
    return np.asarray(np.rint(rgb * 255), np.uint8)


def _partners(segmentation: NDArray[Any], gt: NDArray[Any]) -> dict[int, int]:
    """Segment -> object, for every pair of which each is the other's largest overlap."""
    step = max(1, int(np.ceil((gt.size / 2**21) ** (1 / 3))))  # 2 million voxels decide
    pair = np.stack([np.ravel(a[::step, ::step, ::step]) for a in (segmentation, gt)]).astype(np.uint64)
    pair = pair[:, (pair > 0).all(axis=0)]
    segments, s = np.unique(pair[0], return_inverse=True)
    objects, o = np.unique(pair[1], return_inverse=True)
    cells, counts = np.unique(s * max(1, objects.size) + o, return_counts=True)
    order = np.argsort(counts, kind="stable")  # the largest comes last and stays
    s, o = np.divmod(cells[order], max(1, objects.size))
    of_segment, of_object = dict(zip(s, o, strict=True)), dict(zip(o, s, strict=True))
    return {int(segments[a]): int(objects[b]) for a, b in of_segment.items() if of_object[b] == a}


def _label_image(labels: NDArray[Any], partners: Mapping[int, int] | None = None) -> Image:
    ids, inverse = np.unique(labels, return_inverse=True)
    colours = _label_colours(ids)
    if partners is not None:
        colours = _label_colours(ids, salt=0x5EED)
        known = [n for n, label in enumerate(ids.tolist()) if label in partners]
        colours[known] = _label_colours(np.array([partners[int(ids[n])] for n in known], np.uint64))
    return colours[inverse.reshape(labels.shape)]


def _grey_image(values: NDArray[Any]) -> Image:
    known = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(known, [0.3, 99.7])
    grey = np.clip((known - low) / max(float(high - low), 1e-12), 0, 1)
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _prediction_image(values: NDArray[Any], signed: bool) -> Image:
    """(C, H, W): distances as blue below and red above zero, up to three affinities as red, green, blue."""
    values = np.nan_to_num(values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1))
    if signed:
        from matplotlib import colormaps

        most = max(float(np.abs(values[0]).max()), 1e-12)
        return np.asarray(colormaps["RdBu_r"](0.5 + values[0] / (2 * most), bytes=True)[..., :3], np.uint8)
    channels = np.clip(values[:3], 0, 1)
    if len(channels) == 1:
        channels = np.repeat(channels, 3, axis=0)
    rgb = np.zeros((*channels.shape[1:], 3), np.uint8)
    rgb[..., : len(channels)] = np.rint(np.moveaxis(channels, 0, -1) * 255)
    return rgb


def _img(pixels: Image, size_nm: tuple[float, float], alt: str) -> str:
    """An <img> of physical proportions; `size_nm` is (height, width)."""
    from matplotlib.image import imsave

    step = -(-max(pixels.shape[:2]) // LONGEST_SIDE)
    out = io.BytesIO()
    imsave(out, np.ascontiguousarray(pixels[::step, ::step]), format="png")
    data = base64.b64encode(out.getvalue()).decode()
    sharp = " class=sharp" if max(pixels.shape[:2]) < 160 else ""
    proportion = f"{size_nm[1]:.6g} / {size_nm[0]:.6g}"
    return f'<img{sharp} style="aspect-ratio:{proportion}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _scale_bar(width_nm: float) -> str:
    lengths = [step * 10.0**power for power in range(-1, 7) for step in (1, 2, 5)]
    length = max([v for v in lengths if v <= width_nm / 3], default=lengths[0])
    text = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    return f'<span class=bar style="width:{100 * length / width_nm:.2f}%">{text}</span>'


def _picture(picture: Picture) -> str:
    """The middle z slice, and where there is depth the middle y slice, of everything there is, side by side."""
    name = picture["name"]
    volumes: dict[str, NDArray[Any]] = {"raw": np.asarray(picture["raw"])}
    given = {
        "ground truth": picture.get("gt"),
        "prediction": picture.get("prediction"),
        "segmentation": picture.get("segmentation"),
    }
    volumes |= {key: np.asarray(value) for key, value in given.items() if value is not None}
    scale = tuple(float(v) for v in picture["voxel_size"])
    if volumes["raw"].ndim == 2:
        volumes = {key: np.expand_dims(v, -3) for key, v in volumes.items()}
        scale = (1.0, *scale)
    shape = volumes["raw"].shape
    for key, volume in volumes.items():
        if len(shape) != 3 or volume.shape[-3:] != shape or volume.ndim != (4 if key == "prediction" else 3):
            raise DataError(f"picture {name!r}: {key} is {volume.shape}, raw is {shape}; expected the same z, y, x.")
    partners = None
    if "ground truth" in volumes and "segmentation" in volumes:
        partners = _partners(volumes["segmentation"], volumes["ground truth"])
    signed = "prediction" in volumes and bool(volumes["prediction"].min() < 0)
    rows = []
    for axis, letter in [(0, "z"), (1, "y")] if shape[0] >= 8 else [(0, "z")]:
        index = shape[axis] // 2
        size = tuple(shape[d] * scale[d] for d in range(3) if d != axis)
        panels = []
        for key, volume in volumes.items():
            image = _panel(key, volume.take(index, axis=volume.ndim - 3 + axis), partners, signed)
            img = _img(image, (size[0], size[1]), f"{key} of {name}, {letter} = {index}")
            bar = _scale_bar(size[1]) if key == "raw" else ""
            panels.append(f"<figure><div class=frame>{img}{bar}</div><figcaption>{key}</figcaption></figure>")
        rows.append(f"<p>slice {letter} = {index} of {shape[axis]}</p><div class=panels>{''.join(panels)}</div>")
    voxels, nm = " × ".join(f"{n}" for n in shape), " × ".join(f"{v:g}" for v in scale)
    legend = _legend(volumes, partners, signed)
    return f"<h3>{escape(name)} <small>{voxels} voxels of {nm} nm</small></h3>{''.join(rows)}<p class=note>{legend}</p>"


def _panel(key: str, values: NDArray[Any], partners: Mapping[int, int] | None, signed: bool) -> Image:
    if key == "raw":
        return _grey_image(values)
    if key == "prediction":
        return _prediction_image(values, signed)
    return _label_image(values, partners if key == "segmentation" else None)


def _legend(volumes: Mapping[str, NDArray[Any]], partners: Mapping[int, int] | None, signed: bool) -> str:
    notes = []
    if partners is not None:
        notes.append(
            f"A segment has the colour of its object where each is the other's largest overlap ({_text(len(partners))}"
            " pairs); a split-off or merged part has another colour. Black is 0."
        )
    if signed:
        notes.append("Prediction: red inside, blue outside, white on the boundary.")
    elif "prediction" in volumes and len(volumes["prediction"]) > 1:
        notes.append("Prediction: channels 0, 1, 2 as red, green, blue; white where all say the same object.")
    return " ".join(notes)


# ----------------------------------------------------------------------------------------- page

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --card: #f2f2ef; --ink: #20262e; --soft: #5b6470;
  --line: #d4d6d8; --accent: #1f5fbf; --mark: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1e2329; --ink: #e4e7ea; --soft: #a0a8b2;
  --line: #3a414a; --accent: #79aef7; --mark: #fb9a5b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem clamp(1rem, 3vw, 3rem) 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; overflow-wrap: anywhere; }
small, figcaption, .note, .tiles span, section > p { color: var(--soft); font-size: .875rem; font-weight: normal; }
p { margin: .4rem 0; } .note { max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0; }
.tiles div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.tiles dt { font-size: .875rem; color: var(--soft); } .tiles dd { margin: 0; }
.tiles b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.scroll, pre { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .3rem clamp(.6rem, 2vw, 1.5rem) .3rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th[scope=row] { font-weight: normal; } thead th { color: var(--soft); font-size: .875rem; }
.number, thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 0; min-width: 0; } figcaption { overflow-wrap: anywhere; margin-top: .2rem; }
figure svg { display: block; width: 100%; height: auto; } svg text { font-family: inherit; }
.wide { max-width: 38rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(45%, 11rem), 1fr)); gap: .6rem;
  margin-bottom: 1rem; }
.frame { position: relative; } .frame img { display: block; width: 100%; border-radius: .2rem; }
.sharp { image-rendering: pixelated; }
.bar { position: absolute; left: .5rem; bottom: .5rem; border-top: 3px solid #fff; color: #fff; font-size: .75rem;
  line-height: 1.3; white-space: nowrap; text-shadow: 0 0 3px #000, 0 0 3px #000; filter: drop-shadow(0 0 1px #000); }
pre { background: var(--card); padding: .8rem 1rem; border-radius: .5rem; font-size: .875rem; line-height: 1.45; }
summary { cursor: pointer; padding: .4rem 0; }
@media (max-width: 44rem) { h1 { font-size: 1.4rem; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{tiles}
</header>
<main>
{sections}</main>
</body>
</html>
"""
