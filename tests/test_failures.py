"""What a training says when the devices' memory or the disk does not suffice."""

import jax
import pytest

from configs import EXPERIMENTS
from crn_jax.errors import UserError
from launch import train
from launch.training.failures import explained_memory
from tests.support.commands import refused

pytestmark = pytest.mark.quick

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nand much more"


@pytest.mark.parametrize(
    ("name", "tells", "is_silent_on"),
    [
        ("demo", ["--cascade.dtype bfloat16", "--remat full", "--dry_run says"], []),
        ("camvid_encoder_decoder", ["--baseline.dtype bfloat16", "--remat full"], ["--dry_run"]),
        ("camvid_pix2pix", ["--gan.dtype bfloat16"], ["--remat", "--dry_run"]),
        ("segmenter_camvid", ["--segmenter.dtype bfloat16"], ["--remat", "--dry_run"]),
    ],
)
def test_too_little_memory_is_explained_by_options_that_there_are(name, tells, is_silent_on):
    with pytest.raises(UserError) as told, explained_memory(EXPERIMENTS[name]):
        raise jax.errors.JaxRuntimeError(FULL)
    message = str(told.value)
    assert "trying to allocate 9 bytes" in message and "and much more" not in message
    assert all(part in message for part in [*tells, "--batch_size", "--sharding.mesh"])
    assert not any(part in message for part in is_silent_on)


def test_a_dry_run_that_does_not_fit_is_explained(monkeypatch):
    """The compiler for TPUs refuses what does not fit. (Here: whatever is lowered.)"""

    def refuse(*_):
        raise jax.errors.JaxRuntimeError(FULL)

    monkeypatch.setattr("launch.cost.dry_run.lower_step", refuse)
    told = refused(train.main, "demo", "--dry_run")
    assert "The devices' memory does not suffice" in told and "--remat full" in told and "--dry_run says" not in told


def test_other_errors_of_the_devices_stay_as_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explained_memory(EXPERIMENTS["demo"]):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
