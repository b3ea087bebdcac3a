"""Makes VGG-19 narrow in every Python process that has this folder and the clone on its PYTHONPATH."""

from tests.support.narrow import narrow_vgg19

context = narrow_vgg19()  # that has a name, because it would end if it were collected
context.__enter__()
