"""Released models: equal weights come back, what others read is what was written, and no damage is used silently."""

import json
import shutil
import struct
import subprocess

import jax
import numpy as np
import pytest
from conftest import random_variables, shrunk
from safetensors.numpy import load_file, save_file

from lgjax import models
from lgjax.preparation import recipe
from lgjax.runtime.errors import InputError, UsageError
from lgjax.workdir import experiment, recorded, released, sums, weights

WORDS, SUBJECTS = "3 healthy subjects", frozenset({"a" * 64, "b" * 64})


@pytest.fixture(scope="module")
def small():
    """A config of a restorer, and its random weights, frozen."""
    config = shrunk("restorer")
    config.data.source = "phantom@2+3:/home/somebody/maps"
    return config, models.freeze(random_variables(config))


def write(folder, config, params, dtype="float32"):
    """A whole released model with one record of calibration."""
    folder.mkdir()
    released.write(folder, released.Weights(params, WORDS, SUBJECTS), dtype)
    recipe.write(folder / "preprocessing.json", recipe.bare(experiment.grid(config), experiment.saturation(config)))
    experiment.publish(config, folder)
    (folder / "calibration").mkdir()
    (folder / "calibration" / "restorer_reconstruction.json").write_text('{"Method": "restorer_reconstruction"}\n')
    (folder / "MODEL_CARD.md").write_text("# A card\n")
    sums.write(folder)
    return folder


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A released model: copy it before doing harm."""
    return write(tmp_path_factory.mktemp("released") / "m", *small)


def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "m")


def use(folder, params):
    """What a restoration does first."""
    experiment.get_config(str(folder / "config.json"))
    return released.read(folder, params)


def test_weights_come_back_to_the_bit(small, whole):
    config, params = small
    found = weights.load(config, whole)
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(found.params), jax.tree.leaves(params), strict=True):
        assert ours.dtype == np.float32
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    assert (found.trained_on, found.subjects) == (WORDS, SUBJECTS)
    assert found.recipe.saturation == (-2.0, 1.5)


def test_the_digest_of_the_weights_is_what_sha256sum_prints(small, whole):
    said = subprocess.run(["sha256sum", whole / "model.safetensors"], capture_output=True, text=True, check=True).stdout
    assert weights.load(small[0], whole).digest == said.split()[0]


def test_half_the_size_rounds_to_the_nearest_float16(small, tmp_path):
    config, params = small
    folder = write(tmp_path / "m", config, params, "float16")
    found = weights.load(config, folder).params
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        exact = np.asarray(theirs, np.float64)
        spacing = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
        assert (np.abs(np.asarray(ours, np.float64) - exact) <= spacing / 2).all()


def test_the_file_is_the_format_that_others_read(small, whole):
    """By the published layout: 8 bytes of length, a JSON header, then the bytes of every array."""
    content = (whole / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kernel = small[1]["trunk"]["ConvPair_0"]["NormalisedConv_0"]["conv"]["kernel"]
    entry = header["trunk/ConvPair_0/NormalisedConv_0/conv/kernel"]
    start, end = entry["data_offsets"]
    assert entry["dtype"] == "F32"
    found = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
    np.testing.assert_array_equal(found, kernel)


def test_coreutils_check_the_folder(whole):
    said = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=whole, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    files = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert {line.removesuffix(": OK") for line in said.stdout.splitlines()} == files
    assert len(files) == 6


def test_no_folder_of_a_machine_is_named(whole):
    for path in (path for path in whole.rglob("*") if path.is_file()):
        assert b"somebody" not in path.read_bytes()
    assert experiment.get_config(str(whole / "config.json")).data.source == "phantom@2+3:LABELS"


@pytest.mark.parametrize(
    ("source", "told"), [("phantom@2", "phantom@2"), ("/home/somebody/healthy", "SCANS"), ("healthy", "SCANS")]
)
def test_scans_that_do_not_travel_have_a_placeholder(small, tmp_path, source, told):
    config = small[0].copy_and_resolve_references()
    config.data.source = source
    experiment.publish(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["data"]["source"] == told
    assert experiment.travels(source)
    assert experiment.travels(told) == (told == source)


def flip(path, rng):
    """Flips one random bit of a file, and says which."""
    content = bytearray(path.read_bytes())
    bit = int(rng.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"{path.name}, bit {bit}"


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("model.safetensors", 200),
        ("SHA256SUMS", 200),
        ("config.json", 20),
        ("preprocessing.json", 20),
        ("training.json", 20),
        ("calibration/restorer_reconstruction.json", 20),
        ("MODEL_CARD.md", 5),
    ],
)
def test_no_flipped_bit_is_used(small, whole, tmp_path, name, times):
    """The message names the file; of a damaged list, the list or a file that it lists."""
    folder, rng = copied(whole, tmp_path), np.random.default_rng(5)
    use(folder, small[1])  # else the test could not fail
    for _ in range(times):
        said = flip(folder / name, rng)
        for step in (
            lambda: experiment.get_config(str(folder / "config.json")),
            lambda: released.read(folder, small[1]),
        ):
            with pytest.raises(InputError) as caught:
                step()
            assert str(folder) in str(caught.value), said
            assert name == "SHA256SUMS" or caught.value.path == str(folder / name), said
        shutil.copy(whole / name, folder / name)


@pytest.mark.parametrize("name", ["model.safetensors", "SHA256SUMS", "config.json", "training.json", "MODEL_CARD.md"])
def test_a_missing_file_is_named(small, whole, tmp_path, name):
    folder = copied(whole, tmp_path)
    (folder / name).unlink()
    with pytest.raises(InputError, match=name) as caught:
        use(folder, small[1])
    assert caught.value.exit_code == 3
    with pytest.raises(InputError, match=name):
        weights.load(small[0], folder)


def test_what_nobody_listed_is_not_used(small, whole, tmp_path):
    folder = copied(whole, tmp_path)
    (folder / "calibration" / "restorer_lg_neural_tv.json").write_text("{}")
    with pytest.raises(InputError, match=r"restorer_lg_neural_tv\.json: is not listed in SHA256SUMS"):
        use(folder, small[1])


def test_a_list_cannot_name_files_elsewhere(whole, tmp_path):
    folder = copied(whole, tmp_path)
    (tmp_path / "other").write_text("x")
    for name in ("../other", "/etc/hostname", "a/../../other"):
        (folder / "SHA256SUMS").write_text((whole / "SHA256SUMS").read_text() + f"{'0' * 64}  {name}\n")
        with pytest.raises(InputError, match=r"SHA256SUMS: (lists a file outside|is damaged)"):
            sums.verify(folder)


def rewritten(folder, change):
    """Changes the arrays of a model, and lists them as if they were right."""
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    sums.write(folder)


KERNEL = "change/kernel"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda arrays: arrays.update({KERNEL: arrays[KERNEL][:, :, :-1]}), "change/kernel is .* and should be"),
        (lambda arrays: arrays.pop(KERNEL), "another architecture.*change/kernel"),
        (lambda arrays: arrays.update(extra=np.zeros(3, np.float32)), "another architecture.*extra"),
        (lambda arrays: arrays.update({KERNEL: arrays[KERNEL].astype(np.int32)}), "int32.*should be"),
        (lambda arrays: arrays[KERNEL].fill(np.nan), "not finite: change/kernel"),
        (lambda arrays: arrays[KERNEL].fill(np.inf), "not finite: change/kernel"),
    ],
)
def test_weights_that_do_not_fit_are_refused(small, whole, tmp_path, change, told):
    folder = copied(whole, tmp_path)
    rewritten(folder, change)
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{told}"):
        released.read(folder, small[1])


def test_what_is_no_safetensors_is_refused(small, whole, tmp_path):
    folder = copied(whole, tmp_path)
    for content in (b"", b"\x80\x04K\x01.", (whole / "model.safetensors").read_bytes()[:-4]):
        (folder / "model.safetensors").write_bytes(content)
        sums.write(folder)
        with pytest.raises(InputError, match=r"model\.safetensors: cannot be read as weights"):
            released.read(folder, small[1])


def test_a_newer_format_is_refused(small, whole, tmp_path):
    folder = copied(whole, tmp_path)
    about = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**about, "Format": 2}))
    sums.write(folder)
    with pytest.raises(InputError, match=r"training\.json: is of format 2, .* knows 1\. Install a newer lgjax"):
        released.read(folder, small[1])


def test_weights_that_float16_cannot_hold_are_not_written(small, tmp_path):
    large = jax.tree.map(lambda leaf: np.asarray(leaf) * 1e6, small[1])
    with pytest.raises(UsageError, match=r"not finite as float16.*--dtype=float32"):
        released.write(tmp_path, released.Weights(large, WORDS, SUBJECTS), "float16")
    assert not list(tmp_path.iterdir())


def test_a_training_with_a_list_of_sums_is_no_released_model(whole, tmp_path):
    """Users list the sums of their own work directories too."""
    (tmp_path / "w" / "checkpoints").mkdir(parents=True)
    (tmp_path / "w" / "config.json").write_text("{}")
    sums.write(tmp_path / "w")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.json").write_text("{}")  # without networks, as configs/detection.py makes one
    sums.write(tmp_path / "d")
    assert not recorded.is_released(tmp_path / "w")
    assert not recorded.is_released(tmp_path / "d")
    folder = copied(whole, tmp_path)
    for lost in ("SHA256SUMS", "model.safetensors"):
        (folder / lost).unlink()
        assert recorded.is_released(folder)
        shutil.copy(whole / lost, folder / lost)
    (folder / "checkpoints").mkdir()
    sums.write(folder)
    assert not recorded.is_released(folder)


def test_a_released_model_is_never_trained_on(small, whole):
    with pytest.raises(UsageError, match=r"is a released model and stays as it is\..*lgjax\.export --model="):
        experiment.check_workdir(small[0], whole)


def test_no_output_goes_into_a_released_model(tmp_path):
    (tmp_path / "M").mkdir()
    (tmp_path / "M" / "model.safetensors").touch()
    experiment.check_output(tmp_path / "M", tmp_path / "D")
    with pytest.raises(UsageError, match="lies in a released model"):
        experiment.check_output(tmp_path / "M", tmp_path / "M" / "maps")
