"""Growth: a cascade that starts from a trained one with fewer modules, or of another number of images."""

import dataclasses

import flax.traverse_util

from crn_jax.train import TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A cascade that grows in stages, each of which starts from the one before it. `configs.py` names them."""

    about: str
    stages: dict[str, str]
    """By name the arguments of launch.train: an experiment of configs.py, and what is set otherwise."""


def grow(fresh: dict, trained: dict) -> tuple[dict, list[str]]:
    """Puts a trained cascade's modules into a fresh one.

    The head is kept only where it fits and still follows the same module: with new modules or another k it stays fresh, as
    in the released models of 512x1024, which grew from those of 256x512.

    Args:
      fresh: the new cascade's initial parameters.
      trained: those of the cascade to start from.

    Returns:
      parameters shaped like `fresh`, and the names of the parts in them that are fresh.

    Raises:
      ValueError: naming the parameters that do not fit.
    """
    target, source = (flax.traverse_util.flatten_dict(params, sep="/") for params in (fresh, trained))
    head = {name for name in target if name.startswith("to_rgb/")}
    grows = not fresh.keys() <= trained.keys() or any(target[name].shape != source[name].shape for name in head)
    used = {name: value for name, value in source.items() if not (grows and name in head)}
    problems = [f"{name}: not in this cascade" for name in sorted(used.keys() - target.keys())]
    problems += [
        f"{name}: {tuple(value.shape)}, here {tuple(target[name].shape)}"
        for name, value in used.items()
        if name in target and value.shape != target[name].shape
    ]
    if problems:
        raise ValueError("; ".join(problems))
    parts = sorted({name.partition("/")[0] for name in target.keys() - used.keys()})
    return flax.traverse_util.unflatten_dict({**target, **used}, sep="/"), parts


def grow_state(fresh: TrainState, trained: TrainState) -> tuple[TrainState, list[str], list[str]]:
    """Likewise a whole state, with Adam's moments of what is taken over; step, λ and its sums stay fresh.

    The moving average starts from the parameters. A state without `opt_state` brings no moments.

    Returns:
      the state, the names of its parts that are fresh, and of those that kept their moments.
    """
    params, parts = grow(fresh.params, trained.params)
    moments = trained.opt_state or {}
    kept = {part: moments[part] for part in fresh.opt_state if part in moments and part not in parts}
    ema = None if fresh.ema is None else params
    return fresh._replace(params=params, opt_state={**fresh.opt_state, **kept}, ema=ema), parts, list(kept)
