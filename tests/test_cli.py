"""The command line: what a user types, and what a mistake is answered with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import small_experiment, write_volume
from dacapo.arrays import open_array
from dacapo.cli import cli, main


def dacapo(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and error output of a command."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(small_experiment(tmp_path)))
    return file


def test_a_users_day(tmp_path: Path, experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """run, list, show, validate, predict, segment, apply and evaluate work one after the other."""
    runs = ("--runs", tmp_path / "runs")
    raw, out = f"{tmp_path}/volume1.zarr/raw", tmp_path / "out.zarr"

    code, said, _ = dacapo(capsys, *runs, "run", experiment)
    assert code == 0
    assert "voi" in said
    assert Path(said.split("look:")[1].strip()).read_text().lstrip().lower().startswith("<!doctype html>")
    assert "small" in dacapo(capsys, *runs, "list")[1]
    assert "done" in dacapo(capsys, *runs, "list")[1]
    assert "iteration 6 of 6" in dacapo(capsys, *runs, "show", "small")[1]
    assert dacapo(capsys, *runs, "validate", "small", "-i", 3)[0] == 0
    assert dacapo(capsys, *runs, "predict", "small", raw, "-o", f"{out}/p", "-w", 0, "-i", 6)[0] == 0
    code, said, error = dacapo(
        capsys, *runs, "segment", "small", f"{out}/p", "-o", f"{out}/s", "-w", 0, "-p", "bias=0.5"
    )
    assert (code, error) == (0, error)
    code, said, _ = dacapo(capsys, *runs, "apply", "small", raw, "-o", tmp_path / "a.zarr", "-w", 0)
    assert code == 0
    assert str(tmp_path / "a.zarr" / "labels") in said
    code, said, _ = dacapo(
        capsys, "evaluate", tmp_path / "a.zarr" / "labels", "--against", f"{tmp_path}/volume1.zarr/labels"
    )
    assert code == 0
    assert "adapted_rand_error" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_iteration": 5}, "unknown field 'num_iteration'. Did you mean 'num_iterations'"),
        ({"task": {"type": "afinities", "neighborhood": [[1, 0, 0]]}}, "no task is called 'afinities'. Did you mean 'affinities'?"),
        ({"batch_size": 0}, "batch_size"),
        ({"name": ""}, "a run needs a name"),
        ({"name": "../x"}, "cannot name a stored thing"),
    ],
)  # fmt: skip
def test_a_wrong_yaml_is_one_line_and_code_2(
    tmp_path: Path, experiment: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    """The field and the nearest known name, in one line, and nothing in the store."""
    experiment.write_text(yaml.safe_dump(small_experiment(tmp_path) | change))
    code, _, error = dacapo(capsys, "--runs", tmp_path / "runs", "train", experiment)
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs" / "configs").exists()


def test_a_shape_that_the_network_cannot_take_names_the_next(
    tmp_path: Path, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An input shape that the U-Net cannot take is answered with those it can."""
    fields = small_experiment(tmp_path)
    fields["architecture"] |= {"input_shape": [16, 16, 15]}  # type: ignore[operator]
    experiment.write_text(yaml.safe_dump(fields))
    code, _, error = dacapo(capsys, "train", experiment)
    assert code == 2
    assert "14" in error
    assert "16" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "nothing.yaml"), "nothing.yaml: no such file"),
        (("show", "smal"), "no run named 'smal'"),
        (("trian", "x"), "no command is called 'trian'. Did you mean 'train'?"),
        (("predict", "small", "raw.zarr", "-o", "p.zarr", "--roi", "[5:3]"), "each end must be larger"),
        (("predict", "small", "raw.zarr", "-o", "p.zarr", "--roi", "a"), "expected begin:end per axis"),
        (("evaluate", "nowhere.zarr/a", "--against", "nowhere.zarr/b"), "nowhere.zarr"),
        (("evaluate", "x.foo", "--against", "y.foo"), "x.foo"),
    ],
)
def test_other_mistakes_are_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    """What was given, what was expected."""
    code, _, error = dacapo(capsys, *arguments)
    assert code == 2
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_missing_dataset_is_named_with_its_place(
    tmp_path: Path, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that is not there names the dataset, the part and the nearest folder that is."""
    fields = small_experiment(tmp_path)
    fields["datasplit"]["train"][0]["gt"] = f"{tmp_path}/volume0.zarr/labelz"  # type: ignore[index]
    experiment.write_text(yaml.safe_dump(fields))
    code, _, error = dacapo(capsys, "train", experiment)
    assert code == 2
    assert "a.gt" in error
    assert "labels" in error


def test_every_command_has_help() -> None:
    """Each command says in its first line what it does."""
    assert {"demo", "run", "train", "validate", "predict", "segment", "apply", "evaluate", "list", "show"} <= set(
        cli.commands
    )
    assert all(c.help for c in cli.commands.values())


def test_the_example_experiment_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `show --example` prints is an experiment, and so are the files in examples/."""
    from dacapo.experiments.run_config import RunConfig

    text = dacapo(capsys, "show", "--example")[1]
    assert RunConfig.from_yaml(text).name == "my-cells"
    for file in (Path(__file__).parents[1] / "examples").glob("*.yaml"):
        assert RunConfig.from_yaml(file.read_text(), str(file)).name == file.stem


def test_relative_paths_are_relative_to_the_file(
    tmp_path: Path, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths of a YAML are found from anywhere; --data names another folder; --set changes a field."""
    from dacapo.train import load

    fields = small_experiment(tmp_path)
    text = yaml.safe_dump(fields).replace(f"{tmp_path}/", "")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.yaml").write_text(text)
    write_volume(tmp_path)
    run = load(tmp_path / "sub" / "e.yaml", data=tmp_path, changes={"num_iterations": 2})
    assert run.num_iterations == 2
    run.check()


def test_module_runs_as_a_program() -> None:
    """`python -m dacapo` is the command line."""
    done = subprocess.run([sys.executable, "-m", "dacapo", "--help"], capture_output=True, text=True, check=True)
    assert "segment 3D microscopy volumes" in done.stdout


def test_the_commands_have_python_twins(tmp_path: Path) -> None:
    """`dacapo.run`, `list_runs` and `show` do in Python what the commands do."""
    import dacapo as package
    from dacapo.store import Stores

    stores = Stores(tmp_path / "runs")
    (tmp_path / "e.yaml").write_text(
        yaml.safe_dump(small_experiment(tmp_path, num_iterations=2, validation_interval=2))
    )
    run, report = package.run(tmp_path / "e.yaml", stores=stores)
    assert run.best("voi").iteration == 2
    assert report.exists()
    assert any("small" in line for line in package.list_runs(stores))
    assert "iteration 2 of 2" in package.show("small", stores)[0]


def test_upstreams_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """train, validate, predict and apply take upstream's options, long and short, instead of positions."""
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(small_experiment(tmp_path, num_iterations=2)))
    assert dacapo(capsys, "train", str(file), "--no-validation")[0] == 0
    assert dacapo(capsys, "train", "--run-name", "small", "--no-validation")[0] == 0
    code, out, _ = dacapo(capsys, "validate", "-r", "small", "-i", "2", "-w", "30", "-dt", "uint8", "-ow")
    assert (code, "validated iteration 2" in out) == (0, True)
    places = ["-ic", str(tmp_path / "volume1.zarr"), "-id", "raw"]
    code, out, error = dacapo(
        capsys, "predict", "-r", "small", "-i", "2", *places, "-op", str(tmp_path / "out"), "-roi", "[0:8,0:32,0:32]",
        "--num_workers", "0", "--output_dtype", "float32",
    )  # fmt: skip
    assert code == 0, error
    assert (tmp_path / "out/volume1.zarr/prediction_small_2").is_dir()
    code, out, error = dacapo(
        capsys, "apply", "-r", "small", *places, "-op", str(tmp_path / "a.zarr"), "-vd", "b", "-c", "voi", "-w", "0",
        "-p", "bias=0.4", "-ow",
    )  # fmt: skip
    assert code == 0, error
    assert "bias=0.4" in out
    for wrong, said in (
        (["predict", "-r", "small"], "missing argument 'RAW'"),
        (["apply", "a", "b", "c"], "unexpected argument"),
    ):
        code, _, error = dacapo(capsys, *wrong)
        assert code == 2
        assert said in error


def test_blockwise_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A user's files run block by block; options that are not listed go to them; a mistake is one line."""
    write_volume(tmp_path)
    (tmp_path / "double.py").write_text(
        "from dacapo.tmp import open_from_identifier\n"
        "def spawn_worker(input_array_identifier, output_array_identifier, factor):\n"
        "    source, target = open_from_identifier(input_array_identifier), open_from_identifier(output_array_identifier, mode='r+')\n"
        "    def process(block):\n"
        "        target[block.write_roi] = source[block.write_roi] // factor\n"
        "    return process\n"
    )
    places = ["-ic", f"{tmp_path}/volume0.zarr", "-id", "raw", "-oc", f"{tmp_path}/out.zarr", "-od", "half"]
    sizes = ["-rr", "16", "-wr", "[16,16,16]", "-nw", "0"]
    code, _, error = dacapo(capsys, "run-blockwise", *places, *sizes, "-w", f"{tmp_path}/double.py", "--factor", "2")
    assert code == 0, error
    found, raw = (open_array(f"{tmp_path}/{p}").read() for p in ("out.zarr/half", "volume0.zarr/raw"))
    assert (found == raw // 2).all()
    places = ["-ic", f"{tmp_path}/out.zarr", "-id", "half", "-oc", f"{tmp_path}/out.zarr", "-od", "objects"]
    code, out, error = dacapo(
        capsys, "segment-blockwise", *places, *sizes, "-sf", "threshold", "-c", "4", "--threshold", "60", "-tr", "[0:24,0:32,0:16]"
    )  # fmt: skip
    assert code == 0, error
    assert f"objects in {tmp_path}/out.zarr/objects" in out
    for wrong, said in (
        ([*sizes, "-sf", "tresh"], "Did you mean 'threshold'"),
        (["-wr", "16,16", "-sf", "threshold"], "--write_roi_size"),
        ([*sizes, "-sf", "threshold", "-tr", "[0:99,0:32,0:32]"], "expected a region inside"),
        ([*sizes, "-sf", "threshold", "--loose"], "expected --name value pairs"),
    ):
        code, _, error = dacapo(capsys, "segment-blockwise", *places, *wrong)
        assert code == 2
        assert said in error


def test_config_writes_options_that_load(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `dacapo config` writes is read, contexts too; it never replaces a file unasked."""
    from dacapo.compute_context import create_compute_context
    from dacapo.options import Options

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DACAPO_RUNS_BASE_DIR")
    code, _, error = dacapo(capsys, "config", "--runs-base-dir", "there", "--compute-context", "Bsub", "--queue", "gpu")
    assert code == 0, error
    assert Options.instance().runs_base_dir == tmp_path / "there"
    assert create_compute_context().queue == "gpu"  # type: ignore[attr-defined]
    code, _, error = dacapo(capsys, "config")
    assert code == 2
    assert "is there already" in error
