"""The scenes that come with the package are those that are rendered."""

from __future__ import annotations

import numpy as np

from export.scenes import bundled_scenes
from pipelines.bundle_scenes import rendered


def test_the_bundled_scenes_are_the_rendered_ones() -> None:
    bundled, fresh = bundled_scenes(), rendered()
    assert len(bundled) == len(fresh) == 24
    errors = [
        np.abs(scene_HWC.numpy().astype(int) - np.asarray(image)).mean()
        for scene_HWC, image in zip(bundled, fresh, strict=True)
    ]
    # What JPEG leaves of grain; another scene is off by more than 20.
    assert max(errors) < 5
    others = np.abs(bundled[0].numpy().astype(int) - np.asarray(fresh[1])).mean()
    assert others > 10
