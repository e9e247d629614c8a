"""Networks out to bioimage.io packages and in from them: the same network, nothing run that a package says."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from dacapo.arrays import from_numpy
from dacapo.errors import ConfigError, WeightsNotFoundError
from dacapo.experiments.architectures import (
    ArchitectureConfig,
    CNNectomeUNetConfig,
    ModelZooConfig,
    WrappedArchitectureConfig,
)
from dacapo.experiments.run_config import RunConfig, from_yaml
from dacapo.geometry import Coordinate
from dacapo.network import Network
from dacapo.store import Stores


def run_of(architecture: ArchitectureConfig, name: str = "a run/1") -> RunConfig:
    offsets = np.eye(architecture.dims, dtype=int).tolist()
    task = {"type": "affinities", "neighborhood": offsets}
    return RunConfig(name=name, precision="float32", task_config=task, architecture_config=architecture)


def unet(dims: int, padding: str = "same", **fields) -> CNNectomeUNetConfig:
    values = dict(fmaps_in=1, fmaps_out=3, num_fmaps=2, fmap_inc_factor=2, downsample_factors=[(2,) * dims])
    return CNNectomeUNetConfig("u", (12 if padding == "same" else 28,) * dims, padding=padding, **values | fields)


def described(path) -> dict:
    with zipfile.ZipFile(path) as file:
        return yaml.safe_load(file.read("rdf.yaml"))


def unpacked(path, folder, change=lambda said: None):
    """The package as a folder, with its description changed."""
    with zipfile.ZipFile(path) as file:
        file.extractall(folder)
    said = yaml.safe_load((folder / "rdf.yaml").read_text())
    change(said)
    (folder / "rdf.yaml").write_text(yaml.safe_dump(said))
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A run of two dimensions and its package."""
    run, path = run_of(unet(2)), tmp_path_factory.mktemp("package") / "m.zip"
    run.save_bioimage_io_model(path, ["Ada"])
    return run, path


CASES = [
    (2, "same", {}),
    (2, "valid", {"upsample_factors": [(2, 2)]}),
    (3, "same", {"batch_norm": True, "use_attention": True}),
    (3, "valid", {}),
]


@pytest.mark.parametrize("weights", ["pytorch_state_dict", "torchscript"])
@pytest.mark.parametrize(("dims", "padding", "fields"), CASES)
def test_round_trip(tmp_path, dims, padding, fields, weights):
    """A run's network comes back the same, from either weights: channels, shapes, outputs, reach; and it trains."""
    run, path = run_of(unet(dims, padding, **fields)), tmp_path / "m.zip"
    voxel_size = (5.24, 4.0, 3.3)[:dims]
    run.save_bioimage_io_model(path, ["Ada"], in_voxel_size=voxel_size, test_saved_model=True)
    other = {"pytorch_state_dict": "torchscript", "torchscript": "pytorch_state_dict"}[weights]

    def keep(said):
        del said["weights"][other]

    zoo = ModelZooConfig("z", unpacked(path, tmp_path / "m", keep))
    assert (zoo.num_in_channels, zoo.num_out_channels, zoo.dims) == (1, dims, dims)
    assert zoo.input_shape == run.architecture.input_shape
    assert zoo.scale_factor == run.architecture.scale_factor
    assert zoo.stride == run.architecture.stride
    assert all(a >= b for a, b in zip(zoo.receptive_context(), run.architecture.receptive_context(), strict=True))
    network, own = zoo.module(), run.model.eval()
    for shape in (zoo.input_shape, zoo.input_shape + zoo.stride):
        x = torch.rand(2, 1, *shape)
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(x), own(x), atol=1e-5, rtol=1e-5)
    tuned = run_of(zoo)
    before = [p.detach().clone() for p in tuned.model.parameters()]
    assert all(p.requires_grad for p in tuned.model.parameters())
    tuned.model.train()(torch.rand(1, 1, *zoo.input_shape)).sum().backward()
    tuned.optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, tuned.model.parameters(), strict=True) if b.grad.any())


@pytest.mark.parametrize(("dims", "padding"), [(2, "same"), (3, "valid")])
def test_tiles_equal_the_whole(tmp_path, dims, padding):
    """A package's network predicts in blocks what it predicts at once."""
    run_of(unet(dims, padding)).save_bioimage_io_model(tmp_path / "m.zip", ["Ada"])
    tuned = run_of(ModelZooConfig("z", tmp_path / "m.zip"))
    raw = from_numpy(np.random.default_rng(0).random((13, 22, 19)[-dims:], np.float32))
    whole = Network(tuned, raw, torch.device("cpu"), budget=2**40).predict()
    tiled = Network(tuned, raw, torch.device("cpu"), region=Coordinate((6, 8, 9)[-dims:]), budget=2**40).predict()
    assert whole.shape == (dims, *raw.shape)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_a_sigmoid_at_the_end_hides_no_stride():
    """The stride of a network is found although its activation makes all outputs of large inputs 1."""
    for last in (nn.Identity(), nn.Sigmoid()):
        wrapped = WrappedArchitectureConfig(
            "w", nn.Sequential(Checkered(), nn.Conv2d(1, 1, 7, padding=3), last), 1, 1, (16, 16)
        )
        assert wrapped.stride == (2, 2)


class Checkered(nn.Module):
    """Ten times as much, and doubled in every other row and column, whatever the size: shifts by one are not taken alike."""

    def forward(self, x):
        x = 10 * x
        x[..., ::2, :] *= 2
        x[..., ::2] *= 2
        return x


def test_what_is_written(tmp_path, package):
    """bioimageio.spec finds no fault; authors, citations and halos are there, and the test output is the network's."""
    spec = pytest.importorskip("bioimageio.spec")
    path = tmp_path / "more" / "m.zip"
    authors = ["Ada", {"name": "Bob", "affiliation": "Here"}, SimpleNamespace(name="Cleo", orcid="0000-0001-2345-6789")]
    cite = ["https://doi.org/10.1038/s41586-021-03977-3", {"text": "This", "url": "https://example.org/a"}]
    run = run_of(unet(3, num_fmaps=3))
    run.save_bioimage_io_model(path, authors, cite, "BSD-3-Clause", in_voxel_size=(5.24, 4, 4))
    with warnings.catch_warnings(), zipfile.ZipFile(path) as file:
        warnings.simplefilter("ignore")
        read = spec.load_description(file)
    assert not isinstance(read, spec.InvalidDescr), read.validation_summary
    said = described(path)
    assert [a["name"] for a in said["authors"]] == ["Ada", "Bob", "Cleo"]
    assert said["cite"][0]["doi"] == "10.1038/s41586-021-03977-3"
    assert said["license"] == "BSD-3-Clause"
    axis = said["inputs"][0]["axes"][2]
    assert (axis["size"], axis["unit"]) == ({"min": 12, "step": 2}, "nanometer")
    assert axis["scale"] == pytest.approx(5.24, abs=1e-8)
    assert said["outputs"][0]["axes"][1]["channel_names"] == run.task.channels
    with zipfile.ZipFile(path) as file:
        taken, made = (np.load(file.open(f"test_{name}.npy")) for name in ("input", "output"))
        assert b"## Validation" in file.read("README.md")
    with torch.no_grad():
        np.testing.assert_allclose(run.model.eval()(torch.from_numpy(taken)).numpy(), made, atol=1e-6)
    named = said["weights"]["pytorch_state_dict"]["architecture"]
    assert (named["import_from"], named["callable"]) == ("dacapo.experiments.run_config", "from_yaml")
    assert from_yaml(**named["kwargs"]).num_out_channels == 3
    assert from_yaml(yaml.safe_load(named["kwargs"]["config_yaml"])).num_out_channels == 3
    again = tmp_path / "again.zip"
    run.save_bioimage_io_model(again, authors, cite, "BSD-3-Clause", in_voxel_size=(5.24, 4, 4))
    assert described(again)["weights"]["pytorch_state_dict"] == said["weights"]["pytorch_state_dict"]
    assert [p.name for p in path.parent.iterdir()] == ["m.zip"]


def test_halo_is_what_tiles_may_not_keep(tmp_path):
    """Beyond the halo, an output does not depend on where the input was cut."""
    run = run_of(unet(2).model_copy(update={"input_shape": Coordinate(32, 32)}))
    run.save_bioimage_io_model(tmp_path / "m.zip", ["Ada"])
    halo = described(tmp_path / "m.zip")["outputs"][0]["axes"][2]["halo"]
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        whole, part = run.model.eval()(x), run.model(x[..., 16:48, 16:48])
    inner = slice(halo, 32 - halo)
    torch.testing.assert_close(part[..., inner, inner], whole[..., 16:48, 16:48][..., inner, inner])


def test_test_images_and_checkpoints(tmp_path, package):
    """Given images are kept if the network agrees, and a checkpoint is taken from the stores."""
    run, stores = run_of(unet(2), "kept"), Stores.in_memory()
    stores.weights.store_weights(run, 3)
    old = run.model.eval()
    image = np.random.default_rng(0).random((12, 14), np.float32)
    np.save(tmp_path / "in.npy", image)
    with torch.no_grad():
        np.save(tmp_path / "out.npy", old(torch.from_numpy(image[None, None])).numpy())
    images = (tmp_path / "in.npy", tmp_path / "out.npy")
    new = run_of(unet(2), "kept")
    with torch.no_grad():
        for parameter in new.model.parameters():
            parameter.add_(1.0)
    with pytest.raises(ConfigError, match="output_test_image_path: .* the network does not give this"):
        new.save_bioimage_io_model(tmp_path / "m.zip", "Ada", None, "MIT", *images)
    assert not (tmp_path / "m.zip").exists()
    changed = {name: tensor.clone() for name, tensor in new.model.state_dict().items()}
    for checkpoint in (3, "latest"):
        new.save_bioimage_io_model(tmp_path / "m.zip", "Ada", None, "MIT", *images, checkpoint, stores=stores)
        with torch.no_grad():
            found = ModelZooConfig("z", tmp_path / "m.zip").module()(torch.from_numpy(image[None, None])).numpy()
        np.testing.assert_allclose(found, np.load(images[1]), atol=1e-5)
    assert all(torch.equal(changed[n], t) for n, t in new.model.state_dict().items())
    with pytest.raises(ConfigError, match="checkpoint is 3: give the stores"):
        new.save_bioimage_io_model(tmp_path / "m.zip", "Ada", checkpoint=3)
    with pytest.raises(WeightsNotFoundError):
        new.save_bioimage_io_model(tmp_path / "m.zip", "Ada", checkpoint=4, stores=stores)
    with pytest.raises(ConfigError, match="expected an iteration or 'latest', there are none"):
        run_of(unet(2), "other").save_bioimage_io_model(tmp_path / "m.zip", "Ada", checkpoint="latest", stores=stores)
    np.save(tmp_path / "odd.npy", image[:, :13])
    with pytest.raises(ConfigError, match=r"expected the shape \(12, 12\) plus multiples of \(2, 2\)"):
        run.save_bioimage_io_model(tmp_path / "m.zip", "Ada", input_test_image_path=tmp_path / "odd.npy")


def test_modules_made_elsewhere(tmp_path):
    """A live module, and a package again, go out as TorchScript; an architecture alone goes out without a head."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2))
    wrapped = WrappedArchitectureConfig("mine", net, 1, 4, (16, 16))
    wrapped.save_bioimage_io_model(tmp_path / "a.zip", ["Ada"], test_saved_model=True)
    said = described(tmp_path / "a.zip")
    assert (list(said["weights"]), said["name"]) == (["torchscript"], "mine-bioimage-io")
    zoo = ModelZooConfig("z", tmp_path / "a.zip")
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(zoo.module()(x), net(x))
    assert (zoo.stride, zoo.receptive_context()) == (wrapped.stride, wrapped.receptive_context())
    run_of(zoo).save_bioimage_io_model(tmp_path / "b.zip", ["Ada"], test_saved_model=True)
    unet(2).save_bioimage_io_model(tmp_path / "c.zip", ["Ada"], test_saved_model=True)
    assert ModelZooConfig("z", tmp_path / "c.zip").num_out_channels == 3


def test_package_forms_and_yaml(tmp_path, package):
    """A zip, a folder and a description file are the same; nothing appears beside them; YAML brings all back."""
    run, path = package
    folder = unpacked(path, tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as file:
        for item in folder.iterdir():
            file.write(item, f"top/{item.name}")
    before = sorted(tmp_path.rglob("*"))
    x = torch.rand(1, 1, 12, 12)
    for form in (path, folder, folder / "rdf.yaml", tmp_path / "deep.zip"):
        zoo = ModelZooConfig("z", form, "chain.1")
        trained = {n for n, p in zoo.module().named_parameters() if p.requires_grad}
        assert trained == {"chain.1.weight", "chain.1.bias"}
        torch.testing.assert_close(zoo.module().eval()(x), run.model.eval()(x))
        again = ArchitectureConfig.from_yaml(zoo.to_yaml())
        assert again == zoo
        assert again.to_yaml() == zoo.to_yaml()
    assert sorted(tmp_path.rglob("*")) == before
    relative = run_of_relative("m")
    assert relative.relative_to(tmp_path).architecture.num_out_channels == 2
    with pytest.raises(ConfigError, match="neighborhood has offsets of 3"):
        run_of_relative("m", dims=3).relative_to(tmp_path)


def run_of_relative(path, dims=2) -> RunConfig:
    task = {"type": "affinities", "neighborhood": np.eye(dims, dtype=int).tolist()}
    return RunConfig(task_config=task, architecture_config=ModelZooConfig("z", path))


def old_package(folder, shape_in, shape_out, **weights):
    """A package of format 0.4 with a TorchScript network that is twice as fine."""
    folder.mkdir()
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Upsample(scale_factor=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(str(folder / "net.pt"))
    said = {"format_version": "0.4.9", "type": "model", "name": "old one"}
    said["inputs"] = [{"name": "in", "axes": "bcyx", "shape": shape_in}]
    said["outputs"] = [{"name": "out", "axes": "bcyx", "shape": shape_out}]
    said["weights"] = weights or {"torchscript": {"source": "net.pt"}}
    (folder / "bioimageio.yaml").write_text(yaml.safe_dump(said))
    return net


RELATIVE = {"reference_tensor": "in", "scale": [1, 0, 2, 2], "offset": [0, 1.5, 0, 0]}


@pytest.mark.parametrize("shape_in", [[1, 2, 16, 32], {"min": [1, 2, 16, 32], "step": [0, 0, 8, 8]}])
@pytest.mark.parametrize("shape_out", [[1, 3, 32, 64], RELATIVE])
def test_format_4(tmp_path, shape_in, shape_out):
    """Shapes of format 0.4, fixed or relative, give channels, input shape and scale."""
    if isinstance(shape_out, dict):
        shape_out = shape_out | {"scale": [1, None, 2, 2]}
    net = old_package(tmp_path / "m", shape_in, shape_out)
    zoo = ModelZooConfig("z", tmp_path / "m")
    assert (zoo.num_in_channels, zoo.num_out_channels, zoo.input_shape) == (2, 3, (16, 32))
    assert (zoo.scale_factor, zoo.receptive_context()) == ((2.0, 2.0), (1, 1))
    x = torch.rand(1, 2, 16, 32)
    with torch.no_grad():
        torch.testing.assert_close(zoo.module()(x), net(x))


@pytest.mark.parametrize("text", ["https://bioimage.io/x.zip", "http:/x", "10.5281/zenodo.5764892", "affable-shark"])
def test_nothing_is_downloaded(text):
    """A URL, a DOI and an id are refused with the way out, in one line."""
    with pytest.raises(ConfigError, match="model_id: .*get its package from bioimage.io") as refusal:
        ModelZooConfig("z", text).module()
    assert "\n" not in str(refusal.value)


def set_at(*keys):
    """Change one entry of a description."""

    def change(said):
        *path, last, value = keys
        for key in path:
            said = said[key]
        said[last] = value

    return change


def only_source(said):
    del said["weights"]["torchscript"]
    said["weights"]["pytorch_state_dict"]["architecture"] = {"source": "net.py", "callable": "Net"}


def other_library(said):
    del said["weights"]["torchscript"]
    said["weights"]["pytorch_state_dict"]["architecture"] |= {"import_from": "os", "callable": "system"}


STATE = ("weights", "pytorch_state_dict")
BAD = [
    (only_source, r"Python source in the package \(net.py\), which is never run: get the model with TorchScript"),
    (other_library, "made by os.system, which is not among those that are called: get the model with TorchScript"),
    (lambda said: said["inputs"].append(said["inputs"][0]), "inputs: expected one input, got 2"),
    (lambda said: said["outputs"].clear(), "outputs: expected one output, got 0"),
    (set_at(*STATE, "sha256", "0" * 64), "weights.pt is not the file that was described: sha256"),
    (set_at(*STATE, "source", "../m.zip"), "expected the name of a file in the package, got '../m.zip'"),
    (set_at(*STATE, "source", "/etc/passwd"), "expected the name of a file in the package"),
    (set_at(*STATE, "source", "https://a.b/w.pt"), "is not in the package, and nothing is downloaded"),
    (set_at(*STATE, "source", "none.pt"), "names none.pt, which cannot be read"),
    (set_at(*STATE, "architecture", "kwargs", {"config": 1}), "kwargs: expected config_yaml, got"),
    (set_at(*STATE, "architecture", "kwargs", {"config_yaml": "nam: x"}), "config_yaml: unknown field 'nam'"),
    (
        set_at(*STATE, "architecture", "kwargs", {"config_yaml": "architecture: {type: model_zoo, model_id: /m.zip}"}),
        "config_yaml: architecture: it is in another file, which no package may name",
    ),
    (set_at("weights", {"onnx": {"source": "a.onnx"}}), "its weights are onnx: get the model with TorchScript"),
    (set_at("inputs", 0, "axes", 1, "type", "index"), "inputs: axes: expected one channel axis, got 0"),
    (
        set_at("inputs", 0, "axes", 2, {"type": "time", "size": 3}),
        "expected axes batch, channel, .z,. y, x in this order",
    ),
    (set_at("inputs", 0, "axes", 2, "size", "much"), "inputs: axes: size: expected a number of at least 1, got 'much'"),
    (set_at("format_version", "0.3.6"), "expected a bioimage.io model of format 0.4 or 0.5, got model 0.3.6"),
    (set_at("type", "dataset"), "expected a bioimage.io model of format 0.4 or 0.5, got dataset"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_packages_that_cannot_be_used(tmp_path, package, change, message):
    """Each is refused with one line that says what was expected."""
    folder = unpacked(package[1], tmp_path / "m", change)
    (folder / "net.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(ConfigError, match=message) as refusal:
        ModelZooConfig("z", folder).module()
    assert "\n" not in str(refusal.value)


class Trap:
    """What a malicious file would hold."""

    def __reduce__(self):
        return (pytest.exit, ("a pickle was run",))


def test_pickles_are_not_run(tmp_path, package):
    """Weights that are a pickle of more than tensors are refused, as state dict and as TorchScript."""
    for name, content in (("trap", pickle.dumps(Trap())), ("text", b"hello")):
        folder = unpacked(package[1], tmp_path / name, set_at(*STATE, "sha256", hashlib.sha256(content).hexdigest()))
        (folder / "weights.pt").write_bytes(content)
        with pytest.raises(ConfigError, match="weights.pt: expected tensors by name"):
            ModelZooConfig("z", folder).module()
    torch.save({"a": 3}, folder / "weights.pt")
    said = yaml.safe_load((folder / "rdf.yaml").read_text())
    del said["weights"]["pytorch_state_dict"]["sha256"]
    (folder / "rdf.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ConfigError, match="expected tensors by name, got dict of other things"):
        ModelZooConfig("z", folder).module()
    del said["weights"]["pytorch_state_dict"]
    said["weights"]["torchscript"].pop("sha256")
    (folder / "rdf.yaml").write_text(yaml.safe_dump(said))
    torch.save(nn.Conv2d(1, 1, 1), folder / "torchscript.pt")
    with pytest.raises(ConfigError, match="torchscript.pt: expected a TorchScript file"):
        ModelZooConfig("z", folder).module()


def test_other_refusals(tmp_path, package):
    """Files that are no package, patterns that match nothing, and impossible fields."""
    _, path = package
    with pytest.raises(ConfigError, match="trainable_layers: 'head' matches no parameter"):
        ModelZooConfig("z", path, "head").module()
    with pytest.raises(ConfigError, match="trainable_layers: .* is no regular expression"):
        ModelZooConfig("z", path, "(")
    with pytest.raises(ConfigError, match="known_stride: expected 2 numbers, one per axis"):
        ModelZooConfig("z", path, known_stride=(1, 1, 1)).stride
    with pytest.raises(ConfigError, match="known_context: expected 2 or 3 numbers"):
        ModelZooConfig("z", path, known_context=(-1, 1))
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="expected a bioimage.io package"):
        ModelZooConfig("z", tmp_path / "x.zip").module()
    with pytest.raises(ConfigError, match="no bioimage.io package: it has none of rdf.yaml"):
        ModelZooConfig("z", tmp_path).module()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"authors": []}, "authors: expected at least one"),
        ({"authors": [{"nam": "x"}]}, "authors: unknown field 'nam': there are name"),
        ({"authors": ["a/b"]}, "authors: expected a name without slashes"),
        ({"cite": ["Some paper"]}, "cite: expected a DOI or URL"),
        ({"cite": [{"text": "a", "day": 1}]}, "cite: unknown field 'day'"),
        ({"license": "do what you want"}, "license: expected an SPDX identifier"),
        ({"in_voxel_size": (4, 4, 4)}, "in_voxel_size: expected 2 numbers above 0"),
        ({"in_voxel_size": (4, 0)}, "in_voxel_size: expected 2 numbers above 0"),
        ({"output_test_image_path": "x.npy"}, "output_test_image_path: give the input_test_image_path"),
        ({"input_test_image_path": "none.npy"}, "input_test_image_path: none.npy: cannot be read as .npy"),
    ],
)
def test_impossible_exports(tmp_path, package, fields, message):
    """Each error names the argument, and nothing is left behind."""
    with pytest.raises(ConfigError, match=message):
        package[0].save_bioimage_io_model(tmp_path / "m.zip", **{"authors": ["Ada"]} | fields)
    assert list(tmp_path.iterdir()) == []
