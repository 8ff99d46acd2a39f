"""Pictures as PNG, read by PIL and by matplotlib."""

import io

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from lgjax.scans import png


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 5, 3), (40, 30, 3)])
def test_others_read_the_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    encoded = png.encode(pixels)
    with Image.open(io.BytesIO(encoded)) as image:
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
        np.testing.assert_array_equal(np.asarray(image), pixels)
    read = matplotlib.image.imread(io.BytesIO(encoded), format="png")
    np.testing.assert_array_equal(np.round(255 * read), pixels)


def test_a_view_of_pixels_with_alpha_is_the_picture_without():
    pixels = np.random.default_rng(1).integers(0, 256, (7, 9, 4), np.uint8)
    assert png.encode(pixels[..., :3]) == png.encode(pixels[..., :3].copy())


def test_flat_pictures_become_small():
    assert len(png.encode(np.full((500, 500, 3), 77, np.uint8))) < 500 * 500 * 3 / 100
