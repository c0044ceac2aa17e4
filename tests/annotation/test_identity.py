from dataclasses import replace

import numpy as np

from cellwright.annotation.setup import FINGERPRINT_PIXELS, identity_of


def test_the_identity_of_a_large_image_reads_little_of_it(draw_session):
    class Watched:
        shape, dtype = (100, 4096, 4096), np.dtype(np.uint8)
        n_read = 0

        def __getitem__(self, index):
            part = np.broadcast_to(np.uint8(1), self.shape)[index]
            self.n_read += part.size
            return part

    image = replace(draw_session("ZYX").image, data=Watched())
    identity_of(image)
    assert 0 < image.data.n_read <= FINGERPRINT_PIXELS
