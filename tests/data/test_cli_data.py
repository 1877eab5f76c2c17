import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from synthetic import cifar10_members, source, write_archive, write_idx, write_npz

from vaedist.cli.data import data
from vaedist.data.manifest import load_manifest
from vaedist.data.prepare import prepare
from vaedist.errors import DataError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(data, [str(argument) for argument in arguments])


def test_photos_from_nothing_to_a_contact_sheet(here):
    made = run("prepare", "photos", "--train", 50, "--test", 10, "--shards", 4)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("data/photos: 50 training and 10 test images, 32x32x3, 5 classes, 4 + 4 shards")
    assert load_manifest("data/photos").fingerprint in made.stdout
    checked = run("verify", "data/photos")
    assert checked.stdout.startswith("data/photos: intact: 50 training")
    shown = run("inspect", "data/photos")
    assert shown.exit_code == 0, shown.output
    assert "astronaut" in shown.stdout
    assert "contact sheet: photos-contact-sheet.png" in shown.stdout
    assert Image.open("photos-contact-sheet.png").size[1] == 5 * 66 + 2
    assert sorted(path.name for path in here.iterdir()) == ["data", "photos-contact-sheet.png"]


def test_cifar10_from_an_archive(here):
    archive = write_archive(here / "cifar.tar.gz", cifar10_members())
    made = run("prepare", "cifar10", "--archive", archive, "--shards", 2, "--out", "c10")
    assert made.exit_code == 0, made.output
    assert made.stderr.startswith("warning: cifar.tar.gz is not the official archive")
    assert "warning" not in made.stdout
    assert load_manifest("c10").source.official is False


@pytest.mark.parametrize(("options", "held_out"), [([], "random"), (["--validation-from", "end"], "end")])
def test_validation_images_are_held_out_of_an_archive(here, options, held_out):
    archive = write_archive(here / "cifar.tar.gz", cifar10_members())
    command = ["prepare", "cifar10", "--archive", archive, "--shards", 2, "--out", "c10", "--validation", 12]
    made = run(*command, *options)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("c10: 38 training, 12 validation and 20 test images, 32x32x3, 10 classes, 2 + 2 + 2")
    assert load_manifest("c10").held_out == held_out
    facts = json.loads(run("inspect", "c10", "--json").stdout)
    assert facts["held_out"] == held_out
    assert sum(facts["splits"]["validation"]["classes"].values()) == facts["splits"]["validation"]["rows"] == 12
    assert "held out from the training images" in run("inspect", "c10").stdout


def test_idx_files_and_numpy_archives_under_any_name(here):
    made = run("prepare", "my digits", "--idx", write_idx(here / "raw"), "--shards", 2)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("data/my-digits: 50 training and 20 test images, 6x5x1, 3 classes, 2 + 2 shards")
    made = run("prepare", "cifar10", "--npz", write_npz(here / "digits.npz"), "--shards", 2)
    assert made.exit_code == 0, made.output
    assert load_manifest("data/cifar10").source.kind == "npz"
    assert load_manifest("data/cifar10").splits["train"].rows == 50
    assert "idx: train-images-idx3-ubyte" in run("inspect", "data/my-digits").stdout


def test_emnist_is_turned_upright_on_request(here):
    write_idx(here / "raw")
    for path in list((here / "raw").iterdir()):
        path.rename(path.with_name(f"emnist-digits-{path.name.replace('t10k', 'test')}"))
    made = run("prepare", "emnist", "--idx", "raw", "--shards", 1)
    assert made.stderr.startswith("warning: EMNIST stores images with rows and columns exchanged; --transpose turns")
    made = run("prepare", "emnist", "--idx", "raw", "--shards", 1, "--transpose", "--out", "upright")
    assert (made.exit_code, made.stderr) == (0, "")
    assert load_manifest("upright").shape == (*load_manifest("data/emnist").shape[1::-1], 1)


@pytest.mark.parametrize("source", ["photos", "folder", "tiny_numbers", "idx", "npz"])
def test_validation_images_of_every_source(here, source):
    import tiny_tfds  # noqa: F401 - importing registers its data sets

    for k in range(20):
        (here / "pictures" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 30), (k, 0, 0)).save(here / "pictures" / "cat" / f"{k}.png")
    options = {
        "photos": ["--train", 40, "--test", 10],
        "folder": ["--folder", "pictures"],
        "tiny_numbers": ["--data-dir", here / "tfds"],
        "idx": ["--idx", write_idx(here / "raw"), "--validation-from", "end"],
        "npz": ["--npz", write_npz(here / "digits.npz"), "--validation-from", "end"],
    }[source]
    made = run("prepare", source, *options, "--validation", 4, "--shards", 2, "--out", "made")
    assert made.exit_code == 0, made.output
    assert load_manifest("made").splits["validation"].rows == 4
    assert run("verify", "made").exit_code == 0


def test_too_many_validation_images_leave_nothing_behind(here):
    archive = write_archive(here / "cifar.tar.gz", cifar10_members())
    refused = run("prepare", "cifar10", "--archive", archive, "--shards", 2, "--validation", 50)
    assert "50 validation images cannot be held out from the 50 training images" in str(refused.exception)
    assert [path.name for path in here.iterdir()] == ["cifar.tar.gz"]


def test_a_folder_of_images(here):
    for k in range(10):
        (here / "pictures" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 30), (k, 0, 0)).save(here / "pictures" / "cat" / f"{k}.png")
    made = run("prepare", "folder", "--folder", "pictures", "--size", "8x6", "--shards", 1)
    assert made.exit_code == 0, made.output
    assert load_manifest("data/folder").shape == (8, 6, 3)


def test_few_images_make_few_shards_unless_more_are_asked_for(here):
    for k in range(10):
        (here / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (k, 0, 0)).save(here / "pictures" / f"{k}.png")
    (here / "pictures" / "notes.txt").touch()
    refused = run("prepare", "folder", "--folder", "pictures", "--shards", 4)
    assert "pictures has 1 test image for 4 shards: use --shards 1 or less" in str(refused.exception)
    assert not (here / "data").exists() or list((here / "data").iterdir()) == []
    made = run("prepare", "folder", "--folder", "pictures")
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("data/folder: 9 training and 1 test images, 32x32x3, 1 class, 9 + 1 shards")
    assert made.stderr.splitlines() == [
        "warning: ignored 1 file: 1 .txt",
        "warning: a split has 1 image, so at most 1 worker can share the data",
    ]


def test_transparent_and_deep_images_as_a_contact_sheet_shows_them(here):
    """The images are a black shape on a transparent background, and a 16-bit ramp from black to white."""
    shape = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    shape.paste((0, 0, 0, 255), (8, 8, 24, 24))
    ramp = Image.fromarray(np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1)))
    for name, picture in (("shape", shape), ("ramp", ramp)):
        (here / "pictures" / name).mkdir(parents=True)
        for k in range(3):
            picture.save(here / "pictures" / name / f"{k}.png")
    for options, corner in (([], 255), (["--background", "#00c800"], 200)):
        out = f"data{corner}"
        made = run("prepare", "folder", "--folder", "pictures", "--out", out, "--shards", 1, *options)
        assert made.exit_code == 0, made.output
        assert run("inspect", out, "-o", f"{out}.png").exit_code == 0
        sheet = np.asarray(Image.open(f"{out}.png"))
        top = sheet.shape[1] - (10 * 66 + 2)  # the names are on the left
        ramp_cell, shape_cell = sheet[2:66, top + 2 : top + 66], sheet[68:132, top + 2 : top + 66]
        assert abs(ramp_cell.mean() - 127.5) < 1
        assert (np.diff(ramp_cell[0, ::2, 0].astype(int)) > 0).all()
        assert shape_cell[0, 0].tolist() == ([255] * 3 if not options else [0, corner, 0])
        assert shape_cell[32, 32].tolist() == [0, 0, 0]


def test_every_image_of_a_folder_is_used_or_reported(here):
    taken = ["Train/cat/1.png", "Train/cat/deeper/2.jfif", "Train/dog/3.ppm", "TEST/cat/4.tga", "TEST/dog/5.jp2"]
    for path in [*taken, "Train/loose.png", "cover.png", "Train/cat/._1.png", "__MACOSX/Train/cat/1.png"]:
        (here / "pictures" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(here / "pictures" / path)
    (here / "pictures" / "Train" / "cat" / "6.heic").touch()
    made = run("prepare", "folder", "--folder", "pictures", "--shards", 1)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("data/folder: 3 training and 2 test images, 32x32x3, 2 classes")
    assert made.stderr.splitlines() == [
        "warning: ignored 1 image, cover.png, beside the split folders in pictures",
        "warning: ignored 1 image, loose.png, beside the class folders in pictures/Train",
        "warning: ignored 1 file: 1 .heic (no decoder)",
    ]


def test_a_class_folder_whose_name_is_not_utf8(here):
    for k in range(10):
        place = here / "pictures" / os.fsdecode(b"caf\xe9")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k, 0, 0)).save(place / f"{k}.png")
    made = run("prepare", "folder", "--folder", "pictures", "--shards", 1)
    assert made.exit_code == 0, made.output
    shown = run("inspect", "data/folder")
    assert shown.exit_code == 0, shown.exception
    assert "caf\\xe9" in shown.stdout


def test_damaged_images_are_skipped_on_request(here):
    for k in range(4):
        (here / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (k, 0, 0)).save(here / "pictures" / f"{k}.png")
    (here / "pictures" / "2.png").write_bytes(b"no image")
    refused = run("prepare", "folder", "--folder", "pictures")
    assert "cannot read image pictures/2.png: cannot identify image file; --skip-damaged" in str(refused.exception)
    made = run("prepare", "folder", "--folder", "pictures", "--skip-damaged", "--shards", 1)
    assert made.exit_code == 0, made.output
    assert made.stderr == "warning: left out image pictures/2.png: cannot identify image file\n"
    assert load_manifest("data/folder").splits["train"].rows == 2


def test_a_data_set_of_tensorflow_datasets(here):
    import tiny_tfds  # noqa: F401 - importing registers its data sets

    made = run("prepare", "tiny_numbers", "--data-dir", here / "tfds", "--shards", 3)
    assert made.exit_code == 0, made.output
    assert load_manifest("data/tiny_numbers").source.kind == "tfds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10", "--train", "5"], "--train does not go with cifar10"),
        (["cifar10", "--archive", "a", "--data-dir", "b"], "--data-dir does not go with cifar10"),
        (["photos", "--archive", "a"], "--archive does not go with photos"),
        (["mnist", "--archive", "a"], "--archive does not go with mnist"),
        (["folder"], "folder needs --folder DIR"),
        (["mnist", "--idx", "a", "--npz", "b"], "--npz does not go with mnist --idx"),
        (["mnist", "--idx", "a", "--data-dir", "b"], "--data-dir does not go with mnist --idx"),
        (["cifar10", "--archive", "a", "--idx", "b"], "--idx does not go with cifar10 --archive"),
        (["mnist", "--npz", "a", "--transpose"], "--transpose does not go with mnist --npz"),
        (["mnist", "--transpose"], "--transpose does not go with mnist"),
        (["mnist", "--idx", "a", "--grey"], "--grey does not go with mnist --idx"),
        (["photos", "--idx", "a"], "--idx does not go with photos"),
        (["folder", "--npz", "a"], "--npz does not go with folder"),
        (["cifar10", "--archive", "a", "--validation-from", "end"], "--validation-from requires --validation N"),
        (["photos", "--validation", "9", "--validation-from", "end"], "--validation-from does not go with photos"),
        (["folder", "--folder", "x", "--validation", "9", "--validation-from", "end"], "does not go with folder"),
        (["photos", "--validation", "0"], "--validation"),
        (["cifar10", "--archive", "a", "--validation", "9", "--validation-from", "front"], "--validation-from"),
        (["folder", "--folder", "x", "--size", "0x4"], "must be HEIGHTxWIDTH"),
        (["folder", "--folder", "x", "--size", "big"], "must be HEIGHTxWIDTH"),
        (["folder", "--folder", "x", "--background", "blackish"], "'blackish' must be a colour's name"),
        (["folder", "--folder", "x", "--background", "#ffffff80"], "'#ffffff80' must be a colour's name"),
        (["photos", "--background", "black"], "--background does not go with photos"),
        (["photos", "--skip-damaged"], "--skip-damaged does not go with photos"),
        (["photos", "--shards", "0"], "--shards"),
        (["photos", "--seed", "-1"], "--seed"),
    ],
)
def test_invalid_options_are_refused(here, arguments, message):
    refused = run("prepare", *arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert list(here.iterdir()) == []


def test_the_main_command_handles_errors_of_libraries(here):
    assert isinstance(run("verify", "nowhere").exception, DataError)
    assert isinstance(run("inspect", "nowhere").exception, DataError)
    assert isinstance(run("prepare", "folder", "--folder", "nowhere").exception, DataError)


def test_existing_output_is_reported_before_the_source_is_opened(here):
    (here / "data" / "cifar10").mkdir(parents=True)
    refused = run("prepare", "cifar10", "--archive", "nowhere.tar.gz")
    assert "data/cifar10 already exists" in str(refused.exception)


def test_inspect_as_json_writes_nothing_else(here):
    manifest = prepare(source(), "numbers", shards=4)
    shown = run("inspect", "numbers", "--json")
    facts = json.loads(shown.stdout)
    assert facts["fingerprint"] == manifest.fingerprint
    assert facts["splits"]["train"] == {
        "rows": 53,
        "shards": 4,
        "bytes": manifest.splits["train"].bytes,
        "classes": {"cat": 18, "dog": 18, "ship": 17},
    }
    assert [path.name for path in here.iterdir()] == ["numbers"]


def test_a_contact_sheet_has_a_row_a_class(here):
    """The grid has ten images per class in the order of the shards, and white cells if a class has fewer."""
    prepare(source(train=24, shape=(64, 64, 3)), "numbers", shards=1)
    shown = run("inspect", "numbers", "--json", "-o", "sheets/numbers.png")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["name"] == "numbers"
    sheet = np.asarray(Image.open(here / "sheets" / "numbers.png"))
    cells = sheet[:, -(10 * 66 + 2) :]
    assert cells.shape == (3 * 66 + 2, 10 * 66 + 2, 3)
    assert (cells[2:66, 2 + 8 * 66 : 66 + 8 * 66] == 255).all()  # eight of 24 are cats: the ninth place is empty
    assert (cells[2:66, 2 + 7 * 66 : 66 + 7 * 66] != 255).any()


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from vaedist.cli.data import data; data(['prepare', '--help'], standalone_mode=False); "
        "print([m for m in ('tensorflow', 'ray', 'pyarrow', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
