"""Cascaded Refinement Networks (Chen & Koltun, ICCV 2017) in JAX: photographs synthesized from semantic layouts.

This file is the public surface of the library. It imports a name from its module at the first use, so that `synthesize`
does not wait for Orbax or for the libraries that read data sets.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crn_jax.cascade import Cascade
    from crn_jax.diversity import assemble
    from crn_jax.errors import UserError
    from crn_jax.experiment import Experiment
    from crn_jax.generator import init_params
    from crn_jax.losses import Perception, layer_terms, perceptual_loss
    from crn_jax.objective import Objective
    from crn_jax.run import Run, load_run
    from crn_jax.settings import PAPER_WIDTHS, CascadeConfig, LambdaConfig, LossConfig, OptimizerConfig
    from crn_jax.sharding import make_mesh
    from crn_jax.synthesize import synthesize
    from crn_jax.train import TrainState, init_state, make_train_step
    from crn_jax.vgg import vgg19_features
    from crn_jax.vgg_weights import load_vgg19

__all__ = [
    # The model and its use.
    "PAPER_WIDTHS",
    "Cascade",
    "CascadeConfig",
    "Run",
    "assemble",
    "init_params",
    "load_run",
    "synthesize",
    # The loss.
    "LambdaConfig",
    "LossConfig",
    "Perception",
    "layer_terms",
    "load_vgg19",
    "perceptual_loss",
    "vgg19_features",
    # Training.
    "Experiment",
    "Objective",
    "OptimizerConfig",
    "TrainState",
    "init_state",
    "make_mesh",
    "make_train_step",
    # The error that a person can mend.
    "UserError",
]

_MODULES = {
    "cascade": ("Cascade",),
    "diversity": ("assemble",),
    "errors": ("UserError",),
    "experiment": ("Experiment",),
    "generator": ("init_params",),
    "losses": ("Perception", "layer_terms", "perceptual_loss"),
    "objective": ("Objective",),
    "run": ("Run", "load_run"),
    "settings": ("PAPER_WIDTHS", "CascadeConfig", "LambdaConfig", "LossConfig", "OptimizerConfig"),
    "sharding": ("make_mesh",),
    "synthesize": ("synthesize",),
    "train": ("TrainState", "init_state", "make_train_step"),
    "vgg": ("vgg19_features",),
    "vgg_weights": ("load_vgg19",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """The class of this package. It keeps `crn_jax.synthesize` the function, which the import of its module would replace."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
