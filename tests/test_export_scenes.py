"""The scenes that come with the package are those that are rendered."""

from __future__ import annotations

import numpy as np

from export.scenes import bundled_scenes
from pipelines.bundle_scenes import rendered


def test_the_bundled_scenes_are_the_rendered_ones() -> None:
    bundled, fresh = bundled_scenes(), rendered()
    assert len(bundled) == len(fresh) == 32
    errors = [
        np.abs(scene_HWC.numpy().astype(int) - np.asarray(image)).mean()
        for scene_HWC, image in zip(bundled, fresh, strict=True)
    ]
    # What JPEG leaves of grain; of coloured noise it leaves less.
    assert max(errors[:30] + errors[31:]) < 5
    assert errors[30] < 60
    others = np.abs(bundled[0].numpy().astype(int) - np.asarray(fresh[1])).mean()
    assert others > 10
