import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaedist.errors import StorageError
from vaedist.monitor.pictures import by_rows, captioned, encode_png, grid, save_png, side_by_side, to_uint8


def numbered(n, height=4, width=3, channels=3):
    """Returns images that differ in every pixel, none of them white."""
    values = np.arange(n * height * width * channels) % 255
    return values.reshape(n, height, width, channels).astype(np.uint8)


def test_to_uint8_undoes_the_division_by_255():
    levels = np.arange(256)
    assert to_uint8(levels / 255).tolist() == levels.tolist()
    assert to_uint8((levels / np.float32(255)).astype(np.float32)).tolist() == levels.tolist()
    assert to_uint8(levels / 255).dtype == np.uint8


def test_to_uint8_rounds_to_the_nearest_level_and_clips():
    x = np.array([0.4 / 255, 0.6 / 255, -0.1, 1.1, np.nan, np.inf, -np.inf])
    assert to_uint8(x).tolist() == [0, 1, 0, 255, 0, 255, 0]


@given(
    n=st.integers(1, 7),
    columns=st.integers(1, 9),
    padding=st.integers(0, 3),
    channels=st.sampled_from([1, 3]),
)
def test_grid_contains_each_image_in_its_cell_and_white_elsewhere(n, columns, padding, channels):
    images = numbered(n, 4, 3, channels)
    sheet = grid(images, columns, padding=padding)
    columns = min(columns, n)
    rows = (n + columns - 1) // columns
    assert sheet.dtype == np.uint8
    assert sheet.shape == (rows * (4 + padding) + padding, columns * (3 + padding) + padding, channels)
    for i in range(n):
        y, x = padding + i // columns * (4 + padding), padding + i % columns * (3 + padding)
        assert (sheet[y : y + 4, x : x + 3] == images[i]).all()
        sheet[y : y + 4, x : x + 3] = 255
    assert (sheet == 255).all()


@pytest.mark.parametrize(
    "images",
    [numbered(2) / 255, numbered(2)[0], numbered(2)[:0]],
    ids=["floats", "one image", "none"],
)
def test_grid_refuses_arrays_that_are_not_lists_of_images(images):
    with pytest.raises(ValueError, match="images must be uint8"):
        grid(images, 2)


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_sheets_show_the_channels_that_are_visible(channels, shown):
    images = numbered(2, channels=channels)
    seen = images[..., :shown]
    np.testing.assert_array_equal(grid(images, 2), grid(seen, 2))
    np.testing.assert_array_equal(captioned(images, ["a", "b"], 2), captioned(seen, ["a", "b"], 2))
    np.testing.assert_array_equal(side_by_side(images, images, 1), side_by_side(seen, seen, 1))
    np.testing.assert_array_equal(by_rows(images, images[:, None]), by_rows(seen, seen[:, None]))
    assert len(encode_png(grid(images, 2)))


@pytest.mark.parametrize("channels", [2, 4])
def test_a_png_has_one_or_three_channels(channels):
    with pytest.raises(ValueError, match=f"must have 1 or 3 channels, not {channels}"):
        encode_png(numbered(1, channels=channels)[0])


def test_grid_refuses_less_than_one_column():
    with pytest.raises(ValueError, match="columns = 0"):
        grid(numbered(2), 0)


def test_side_by_side_sets_each_original_directly_left_of_its_reconstruction():
    originals, reconstructions = numbered(3), 254 - numbered(3)
    sheet = side_by_side(originals, reconstructions, columns=2)
    for i, (y, x) in enumerate([(4, 4), (4, 14), (12, 4)]):
        assert (sheet[y : y + 4, x : x + 3] == originals[i]).all()
        assert (sheet[y : y + 4, x + 3 : x + 6] == reconstructions[i]).all()
    assert (sheet[:, 10:14] == 255).all()  # pairs are separated
    assert sheet.shape == (4 + 2 * 8, 4 + 2 * 10, 3)


def test_by_rows_starts_each_row_with_an_original():
    originals, others = numbered(2), 254 - numbered(6).reshape(2, 3, 4, 3, -1)
    sheet = by_rows(originals, others)
    for row in range(2):
        for column, image in enumerate([originals[row], *others[row]]):
            y, x = 2 + 6 * row, 2 + 5 * column
            assert (sheet[y : y + 4, x : x + 3] == image).all()
    assert sheet.shape[:2] == (2 + 2 * 6, 2 + 4 * 5)


def test_by_rows_refuses_images_of_two_shapes():
    with pytest.raises(ValueError, match="must match"):
        by_rows(numbered(3), numbered(2)[:, None])


def test_side_by_side_refuses_images_of_two_shapes():
    with pytest.raises(ValueError, match="differ in shape"):
        side_by_side(numbered(3), numbered(2), columns=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_save_png_keeps_every_pixel(tmp_path, channels):
    image = numbered(1, channels=channels)[0]
    save_png(tmp_path / "new" / "a.png", image, scale=2)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.mode == {1: "L", 3: "RGB"}[channels]
        read = np.asarray(picture).reshape(8, 6, channels)
    for dy, dx in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        assert (read[dy::2, dx::2] == image).all()


def test_save_png_takes_a_picture_without_channels(tmp_path):
    image = numbered(1)[0, :, :, 0]
    save_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as picture:
        assert (np.asarray(picture) == image).all()


def test_save_png_leaves_the_older_picture_when_the_disk_is_full(tmp_path, file_size_limit):
    path = tmp_path / "a.png"
    save_png(path, numbered(1)[0])
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with file_size_limit(1000), pytest.raises(StorageError, match=r"cannot write picture .*a\.png"):
        save_png(path, noise)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_save_png_names_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        save_png(tmp_path / "file" / "a.png", numbered(1)[0])
