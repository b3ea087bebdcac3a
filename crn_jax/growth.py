"""Growth: a cascade starts from a trained one that has fewer modules, or synthesizes another number of images."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crn_jax.train import TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A cascade that grows in stages, each of which starts from the result of the stage before. `configs.py` names recipes."""

    about: str
    """One sentence that says what the recipe trains."""
    stages: dict[str, str]
    """The command line of launch.train for each stage, by the stage's name: a named experiment, and flags."""


def part_of(name: str) -> str:
    """Returns the part of a cascade that a parameter or a layer belongs to: a refinement module, or the head."""
    return name.partition("/")[0]


def grow(fresh: dict, trained: dict) -> tuple[dict, list[str]]:
    """Puts a trained cascade's modules into a fresh cascade.

    The head is taken over only if it fits and still follows the same module. With new modules or another k it stays fresh,
    as in the released model of 512x1024, which grew from the model of 256x512.

    Args:
      fresh: the initial parameters of the new cascade.
      trained: the parameters of the cascade to start from.

    Returns:
      parameters shaped like `fresh`, and the names of the parts that are fresh: such as `module_7`, or `module_6/norm2` if the
      other layers of that module are taken over.

    Raises:
      ValueError: if parameters do not fit; the message names them.
    """
    import flax.traverse_util  # recipes are read without it

    target, source = (flax.traverse_util.flatten_dict(params, sep="/") for params in (fresh, trained))
    head = {name for name in target if name.startswith("to_rgb/")}
    grows = not fresh.keys() <= trained.keys() or any(target[name].shape != source[name].shape for name in head)
    used = {name: value for name, value in source.items() if not (grows and name in head)}
    problems = [f"{name}: this cascade has no such parameter" for name in sorted(used.keys() - target.keys())]
    problems += [
        f"{name}: it has shape {tuple(value.shape)}, but this cascade needs {tuple(target[name].shape)}"
        for name, value in used.items()
        if name in target and value.shape != target[name].shape
    ]
    if problems:
        raise ValueError("; ".join(problems))
    missing = target.keys() - used.keys()
    partly = set(map(part_of, used))
    parts = {name.rpartition("/")[0] if part_of(name) in partly else part_of(name) for name in missing}
    return flax.traverse_util.unflatten_dict({**target, **used}, sep="/"), sorted(parts)


def grow_state(fresh: "TrainState", trained: "TrainState") -> "tuple[TrainState, list[str], list[str]]":
    """Puts a trained cascade's modules, and Adam's moments of them, into a fresh training state.

    Step, λ and its sums stay fresh, and the moving average starts from the new parameters. If `trained` has no `opt_state`,
    all moments stay fresh.

    Returns:
      the state, the names of the parts that are fresh, and the names of the parts that keep their moments.

    Raises:
      ValueError: if parameters do not fit; the message names them.
    """
    params, parts = grow(fresh.params, trained.params)
    moments = trained.opt_state or {}
    changed = set(map(part_of, parts))
    # A run that was converted from a file without moments has counted no step of Adam.
    kept = {part: moments[part] for part in fresh.opt_state if part in moments and part not in changed and moments[part].count}
    ema = None if fresh.ema is None else params
    return fresh._replace(params=params, opt_state={**fresh.opt_state, **kept}, ema=ema), parts, list(kept)
