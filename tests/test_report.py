"""What the report promises: one page that stands alone, shows the truth, and survives missing parts."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

from dacapo import report
from dacapo.errors import DataError
from dacapo.report import write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


class Bias:
    """Parameters as tasks have them: an object with a str()."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


def some_scores(values: np.ndarray, criteria: list[str]) -> xr.DataArray:
    """`values` is (iterations, parameters, criteria), on one dataset."""
    parameters = np.empty(values.shape[1], object)
    parameters[:] = [Bias(f"bias 0.{p}") for p in range(values.shape[1])]
    return xr.DataArray(
        values[:, None],
        dims=("iterations", "datasets", "parameters", "criteria"),
        coords={
            "iterations": np.arange(1, len(values) + 1) * 100,
            "datasets": ["slab"],
            "parameters": parameters,
            "criteria": criteria,
        },
    )


def some_picture() -> dict:
    rng = np.random.default_rng(0)
    gt = np.ones((12, 20, 24), np.uint64)
    gt[:, 10:] = 2**40
    prediction = rng.random((3, *gt.shape), dtype=np.float32)
    raw = rng.integers(0, 255, gt.shape).astype(np.uint8)
    return {
        "name": "crop", "raw": raw, "gt": gt, "prediction": prediction, "segmentation": gt + 1, "voxel_size": (8, 4, 4),
    }  # fmt: skip


def read(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def pixels(image: dict[str, str | None]) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(base64.b64decode(str(image["src"]).split(",")[1])), format="png")[..., :3]


def test_a_title_is_enough(tmp_path):
    """Without scores, pictures or training the page has a heading and no empty section."""
    page = read(write_report(tmp_path / "new" / "report.html", title="just started"))
    assert "just started" in page.text
    assert page.all("h1")
    assert not page.all("h2")


def test_the_page_stands_alone(tmp_path):
    """Nothing is fetched: no script, no link, every image is in the page and has an alternative text."""
    path = write_report(
        tmp_path / "r.html",
        title="run",
        training=(np.arange(50), np.linspace(1, 0.1, 50)),
        scores=some_scores(np.random.default_rng(0).random((3, 2, 2)), ["voi", "f1"]),
        higher_is_better={"voi": False, "f1": True},
        pictures=[some_picture()],
    )
    page = read(path)
    assert not [tag for tag, _ in page.tags if tag in {"script", "link", "iframe", "object"}]
    assert len(page.all("img")) == 8  # four panels, of a z and of a y slice
    for image in page.all("img"):
        assert str(image["src"]).startswith("data:image/png;base64,")
        assert image["alt"]
    assert all(svg["aria-label"] for svg in page.all("svg"))
    addresses = set(re.findall(r'https?://[^"\s<]+', path.read_text()))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not places


def test_ids_are_unique_and_lead_somewhere(tmp_path):
    """Drawings on one page do not take each other's clip paths and markers."""
    values = np.random.default_rng(0).random((3, 2, 4))
    path = write_report(tmp_path / "r.html", title="run", scores=some_scores(values, list("abcd")))
    text = path.read_text()
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) <= set(ids)


def test_everything_is_escaped(tmp_path):
    """Names, parameters, configuration and commands cannot become markup."""
    evil = "<script>alert('&')</script>"
    scores = some_scores(np.ones((1, 1, 1)), [evil]).assign_coords(parameters=np.array([Bias(evil)], object))
    page = read(
        write_report(
            tmp_path / "r.html",
            title=evil,
            table={evil: [(evil, evil)], "columns": [{evil: evil, "b": 1}]},
            scores=scores,
            higher_is_better={evil: True},
            best=(evil, evil, 1, evil, 0.5),
            pictures=[{**some_picture(), "name": evil}],
            config_yaml=evil,
            commands=[evil],
        )
    )
    assert not page.all("script")
    assert page.text.count(evil) >= 10


@pytest.mark.parametrize(
    ("higher", "best"), [(True, "0.9 at iteration 200, bias 0.1"), (False, "0.2 at iteration 100")]
)
def test_best_point_follows_the_criterion(tmp_path, higher, best):
    """Each criterion is judged by its own direction, and NaN is never the best."""
    values = np.array([[0.2, 0.4, np.nan], [0.5, 0.9, np.nan]])[..., None]
    path = write_report(
        tmp_path / "r.html", title="r", scores=some_scores(values, ["s"]), higher_is_better={"s": higher}
    )
    assert f"best {best}" in read(path).text


def test_scores_without_direction_or_value(tmp_path):
    """An unknown criterion has curves but no best; one that is NaN throughout says so."""
    values = np.stack([np.ones((2, 2)), np.full((2, 2), np.nan)], axis=-1)
    scores = some_scores(values, ["known to nobody", "empty"])
    text = read(write_report(tmp_path / "r.html", title="r", scores=scores, higher_is_better={"empty": True})).text
    assert "no score" in text
    assert "best 1" not in text


def test_every_curve_has_a_name(tmp_path):
    """Each curve carries the name of its parameters as a tooltip."""
    path = write_report(tmp_path / "r.html", title="r", scores=some_scores(np.ones((3, 12, 1)), ["voi"]))
    assert set(re.findall(r"<title>(bias [^<]+)</title>", path.read_text())) == {f"bias 0.{p}" for p in range(12)}


def test_many_plots_fold_away(tmp_path):
    """Beyond the first few, score plots wait in a fold, and the chosen criterion comes first."""
    criteria = [f"c{n}" for n in range(report.PLOTS_IN_SIGHT + 2)]
    scores = some_scores(np.ones((1, 1, len(criteria))), criteria)
    path = write_report(tmp_path / "r.html", title="r", scores=scores, best=("slab", "c9", 100, "bias 0.0", 1.0))
    text = read(path).text
    assert "2 more" in text
    assert text.index("c9 on slab") < text.index("c0 on slab")


def test_no_scores_yet(tmp_path):
    """An empty history of scores and of losses leaves their sections out."""
    scores = some_scores(np.ones((0, 2, 1)), ["voi"])
    assert not read(write_report(tmp_path / "r.html", title="r", scores=scores, training=([], []))).all("h2")


def test_long_loss_curves_are_thinned_and_keep_spikes():
    """A hundred thousand losses become a few hundred points, the highest and lowest among them."""
    y = np.random.default_rng(0).random(100_003)
    y[[77, 50_001]] = 9.0, -9.0
    x, thin = report._thinned(np.arange(y.size, dtype=float), y)
    assert x.size <= report.CURVE_POINTS
    assert np.all(np.diff(x) >= 0)
    assert (thin.max(), thin.min()) == (9.0, -9.0)


@pytest.mark.parametrize("window", [1, 2, 7, 100])
def test_smoothing_is_a_running_mean(window):
    """The smoothed curve is the mean over a centred window, cut where the curve ends."""
    y = np.random.default_rng(0).random(23)
    expected = [y[max(0, i - window // 2) : i + window // 2 + 1].mean() for i in range(23)]
    np.testing.assert_allclose(report._smoothed(y, window), expected)


def test_losses_that_are_not_finite_are_counted(tmp_path):
    """NaN in the history is left out of the curve and said."""
    text = read(write_report(tmp_path / "r.html", title="r", training=([0, 1, 2], [1.0, np.nan, 0.5]))).text
    assert "1 values that are no finite numbers" in text


def test_right_segments_have_the_colour_of_their_object(tmp_path):
    """Same colour on both sides where right, another where split; background is black."""
    gt = np.zeros((4, 8, 12), np.uint64)
    gt[:, :, 2:8], gt[:, :, 8:] = 5, 2**63 + 1
    segmentation = np.zeros_like(gt)
    segmentation[:, :, 2:6], segmentation[:, :, 6:8], segmentation[:, :, 8:] = 2**63 + 1, 77, 5  # 5 in two, ids swapped
    picture = {"name": "n", "raw": gt * 0, "gt": gt, "segmentation": segmentation, "voxel_size": (1, 1, 1)}
    images = read(write_report(tmp_path / "r.html", title="r", pictures=[picture])).all("img")
    truth, ours = (pixels(images[n]) for n in (1, 2))
    assert np.array_equal(truth[:, 2:6], ours[:, 2:6])
    assert np.array_equal(truth[:, 8:], ours[:, 8:])
    assert not np.any(np.all(truth[:, 6:8] == ours[:, 6:8], axis=-1))
    assert truth[:, :2].max() == ours[:, :2].max() == 0


def test_label_colours_depend_on_the_id_alone():
    """An object keeps its colour from page to page, and a thousand objects hardly ever share one."""
    ids = np.arange(1, 1001)
    colours = report._label_colours(ids)
    assert np.array_equal(colours[::-1], report._label_colours(ids[::-1]))
    assert len(np.unique(colours, axis=0)) > 990
    assert colours.max(axis=1).min() > 150  # none is lost on black


def test_distances_are_red_inside_and_blue_outside():
    """A signed prediction is drawn by its sign, evenly on both sides of zero."""
    image = report._prediction_image(np.array([[[-1.0, 0.0, 0.5]]]), signed=True).astype(int)
    assert image[0, 0, 2] > image[0, 0, 0]
    assert image[0, 1].min() > 240
    assert image[0, 2, 0] > image[0, 2, 2]


def test_affinities_are_red_green_blue():
    """The first three channels become the three colours; uint8 stands for [0, 1]."""
    values = np.zeros((5, 1, 4), np.uint8)
    values[[0, 1, 2, 4], 0, [0, 1, 2, 3]] = 255
    assert report._prediction_image(values, signed=False)[0].tolist() == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [0, 0, 0],
    ]


def test_slices_have_physical_proportions(tmp_path):
    """A y slice of voxels twice as deep as wide is drawn twice as high."""
    images = read(write_report(tmp_path / "r.html", title="r", pictures=[some_picture()])).all("img")
    assert images[0]["style"] == "aspect-ratio:96 / 80"
    assert images[4]["style"] == "aspect-ratio:96 / 96"
    assert pixels(images[4]).shape[:2] == (12, 24)


def test_raw_alone_large_float_with_nan(tmp_path):
    """A picture of nothing but raw works: any dtype, NaN, larger than the page shows."""
    raw = np.random.default_rng(0).random((2, 900, 50))
    raw[1, :10] = np.nan
    picture = {"name": "n", "raw": raw, "gt": None, "voxel_size": (40, 4, 4)}
    (image,) = read(write_report(tmp_path / "r.html", title="r", pictures=[picture])).all("img")
    assert max(pixels(image).shape) <= report.LONGEST_SIDE


def test_two_dimensional_pictures(tmp_path):
    """A 2D volume is shown as one slice."""
    picture = {"name": "n", "raw": np.eye(20), "prediction": np.ones((2, 20, 20)), "voxel_size": (4, 4)}
    assert len(read(write_report(tmp_path / "r.html", title="r", pictures=[picture])).all("img")) == 2


def test_parts_that_do_not_fit_are_named(tmp_path):
    """Arrays of other shapes are refused before anything is written."""
    wrong = {**some_picture(), "segmentation": np.ones((3, 3, 3), int)}
    with pytest.raises(DataError, match=r"picture 'crop': segmentation is \(3, 3, 3\), raw is \(12, 20, 24\)"):
        write_report(tmp_path / "r.html", title="r", pictures=[wrong])
    with pytest.raises(DataError, match="2 iterations and 3 losses"):
        write_report(tmp_path / "r.html", title="r", training=([0, 1], [1, 2, 3]))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    """The page is replaced in one step or not at all, and no temporary file stays."""
    path = write_report(tmp_path / "r.html", title="old")

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(report.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(path, title="new")
    assert "old" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_same_input_same_page(tmp_path):
    """The page has no date and no random id in it: what changed is what differs."""
    scores = some_scores(np.ones((2, 2, 1)), ["voi"])
    pages = [write_report(tmp_path / f"{n}.html", title="r", scores=scores, pictures=[some_picture()]) for n in "ab"]
    assert pages[0].read_bytes() == pages[1].read_bytes()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (1204, "1,204"),
        (float("nan"), "–"),
        (None, "–"),
        (True, "True"),
        ("x", "x"),
    ],
)
def test_numbers_are_readable(value, shown):
    """Four digits, thousands apart, a dash for what is not there."""
    assert report._text(value) == shown


def test_importing_is_cheap():
    """matplotlib and xarray are imported when a page with curves is written, not before."""
    code = "import sys, dacapo.report; print({'matplotlib', 'xarray', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
