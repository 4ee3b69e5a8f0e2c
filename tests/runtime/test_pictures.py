"""Bytes, grids and the lines of a progress bar."""

import numpy as np
import pytest
from PIL import Image

from ddx.runtime.pictures import film_frames, grid, save_gif, save_png, to_uint8
from ddx.runtime.progress import Progress


def test_bytes_survive_scaling_and_back_and_out_of_range_is_clipped():
    levels = np.arange(256, dtype=np.float32)
    np.testing.assert_array_equal(to_uint8(levels / 127.5 - 1), levels)
    np.testing.assert_array_equal(to_uint8(np.asarray([-7.0, 7.0, 0.0])), [0, 255, 128])


def test_a_grid_shows_every_image_set_apart_by_a_gap(tmp_path):
    images = np.stack([np.full((64, 64, 3), i, np.uint8) for i in (10, 20, 30, 40, 50)])
    picture = grid(images)
    assert picture.shape == (4 + 2 * 68, 4 + 3 * 68, 3)  # 3 columns, 2 rows, gaps of 4
    for i in range(5):
        row, column = divmod(i, 3)
        cell = picture[4 + 68 * row : 68 + 68 * row, 4 + 68 * column : 68 + 68 * column]
        assert (cell == images[i]).all()
    assert (picture[:4] == 96).all() and (picture[68:72] == 96).all() and (picture[:, 68:72] == 96).all()
    save_png(tmp_path / "grid.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grid.png")), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_small_grey_images_are_enlarged_and_saved_as_grey(tmp_path):
    picture = grid(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1))
    assert picture.shape == (72, 72, 1)
    save_png(tmp_path / "grid.png", picture)
    assert Image.open(tmp_path / "grid.png").mode == "L"


@pytest.mark.parametrize(("channels", "shown"), [(2, (10, 20, 0)), (4, (10, 20, 30)), (7, (10, 20, 30))])
def test_images_of_other_channels_show_their_first_ones_as_colours(tmp_path, channels, shown):
    images = np.broadcast_to(np.arange(10, 71, 10, dtype=np.uint8)[:channels], (2, 64, 64, channels))
    picture = grid(images)
    assert picture.shape[-1] == 3 and (picture[4:68, 4:68] == shown).all() and (picture[:4] == 96).all()
    save_png(tmp_path / "one.png", images[0])
    assert (np.asarray(Image.open(tmp_path / "one.png")) == shown).all()
    save_gif(tmp_path / "film.gif", film_frames(images[None], images[None], 255 - images))
    assert Image.open(tmp_path / "film.gif").n_frames == 2


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines(capsys):
    with Progress("training", 10, start=4, batch_size=8) as progress:
        progress.advance(3)
        progress.line(loss=0.12345)
        progress.write("a note")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("training 7/10  ") and "loss 0.1235" in lines[0] and "ETA 0:00:0" in lines[0]
    assert "images/s" in lines[0] and lines[1] == "a note"
