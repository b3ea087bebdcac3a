"""Makes VGG-19 narrow in every Python process that has this folder and the clone on its PYTHONPATH."""

from tests.support.narrow import narrow_vgg19

narrow_vgg19().__enter__()
