"""The training step: a pure function of (state, network, batch), jitted, its state donated.

A batch is `{"layout": uint8 or uint16 [B, H, W] class ids, "photograph": uint8 [B, H, W, 3]}`. What is trained on it, and for
what, a `Trainable` says: the cascade (objective.py) or a segmenter (segmenter.py).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from crn_jax.lambdas import LambdaState
from crn_jax.sharding import replicated, shardings_of, shared_out


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam, as in the paper."""

    learning_rate: float = 1e-4
    """The paper's, constant over the training."""
    schedule: Literal["constant", "authors_fallback"] = "constant"
    """authors_fallback: min(1e-6 * 1.1^(epoch-1), 1e-4 if epoch > 100 else 1e-3), for a training that diverges."""
    b1: float = 0.9
    """Adam's decay of the gradient's mean; GANs use 0.5."""
    ema_decay: float | None = None
    """Keeps an exponential moving average of the parameters, say 0.999, which validation and synthesis then use."""

    def __post_init__(self):
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}.")

    def rate(self, steps_per_epoch: int) -> float | Callable[[jax.Array], jax.Array]:
        """Adam's learning rate: a number, or a function of the step counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate

        def fallback(step: jax.Array) -> jax.Array:
            epoch = step // steps_per_epoch + 1
            return jnp.minimum(1e-6 * 1.1 ** (epoch - 1), jnp.where(epoch > 100, 1e-4, 1e-3))

        return fallback

    def transformation(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.rate(steps_per_epoch), b1=self.b1)


class TrainState(NamedTuple):
    """All that a run is, as one pytree: what is not in it does not survive a restart."""

    step: jax.Array  # int32 [], steps done
    params: Any
    opt_state: Any
    lambdas: LambdaState | None  # where the loss has terms to balance
    ema: Any = None  # like params, if a moving average is kept


class Trainable(Protocol):
    """The static part of a training step, hashable: what is trained, and what for."""

    optimizer: OptimizerConfig
    steps_per_epoch: int

    def init_params(self, key: jax.Array) -> dict:
        """Fresh parameters."""

    def init_lambdas(self) -> LambdaState | None:
        """The balance of the loss's terms before the first step; None if it has no terms."""

    def loss_of(
        self, params: dict, lambdas: LambdaState | None, network: dict, batch: dict, step: jax.Array
    ) -> tuple[jax.Array, dict]:
        """The loss [] of a batch, and a dict of metrics; `network` are parameters that stay as they are, and `step` (counted
        from 0) is what anything random follows from."""

    def update_lambdas(self, lambdas: LambdaState | None, metrics: dict, step: jax.Array) -> LambdaState | None:
        """The balance after step `step` (counted from 0) with these metrics."""


def _initial(objective: Trainable, seed: int | jax.Array) -> TrainState:
    params = objective.init_params(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=objective.optimizer.transformation(objective.steps_per_epoch).init(params),
        lambdas=objective.init_lambdas(),
        ema=None if objective.optimizer.ema_decay is None else jax.tree.map(jnp.copy, params),
    )


def abstract_state(objective: Trainable, mesh: Mesh | None = None, shard_optimizer: bool = True) -> TrainState:
    """Shapes and dtypes of the state, without allocating it; with a mesh, also how it lies on that.

    Parameters have a copy on every device; what only the update reads (Adam's moments, the moving average) is shared out
    if `shard_optimizer`.
    """
    state = jax.eval_shape(functools.partial(_initial, objective), 0)
    if mesh is None:
        return state
    place = shared_out if shard_optimizer else replicated
    return replicated(mesh, state)._replace(opt_state=place(mesh, state.opt_state), ema=place(mesh, state.ema))


def init_state(objective: Trainable, seed: int | jax.Array, abstract: TrainState | None = None) -> TrainState:
    """The state before the first step; everything random in it follows from the seed.

    Args:
      objective: what is to be trained.
      seed: any integer.
      abstract: from `abstract_state` with a mesh; the state is made in its place there, and is the same on every mesh.
    """
    shardings = None if abstract is None else shardings_of(abstract)
    return jax.jit(_initial, static_argnums=0, out_shardings=shardings)(objective, seed)


def make_train_step(
    objective: Trainable, abstract: TrainState | None = None
) -> Callable[[TrainState, dict, dict], tuple[TrainState, dict]]:
    """Makes `step(state, network, batch) -> (state, metrics)`, jitted; the state passed in is used up.

    On a mesh, give `abstract` from `abstract_state`, so that the state stays where it was, and call the step within
    `jax.set_mesh(mesh)`, with a batch from `sharding.put_batch`. On CPUs the step sets compiler options, which JAX takes
    from outermost functions only: do not call it inside another `jax.jit`.

    Metrics are the objective's (see its `loss_of`), the `loss` [] and the `grad_norm` [].
    """
    transformation = objective.optimizer.transformation(objective.steps_per_epoch)

    def step(state: TrainState, network: dict, batch: dict) -> tuple[TrainState, dict]:
        gradient_of = jax.value_and_grad(objective.loss_of, has_aux=True)
        (loss, metrics), gradient = gradient_of(state.params, state.lambdas, network, batch, state.step)
        if abstract is not None:
            # Else the moments' sharding would spread from here to the convolutions, and split those by channels.
            gradient = jax.lax.with_sharding_constraint(gradient, shardings_of(abstract.params))
        updates, opt_state = transformation.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - objective.optimizer.ema_decay)
        lambdas = objective.update_lambdas(state.lambdas, metrics, state.step)
        metrics = {"loss": loss, **metrics, "grad_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state, lambdas, ema), metrics

    shardings = None if abstract is None else (shardings_of(abstract), abstract.step.sharding)
    return jax.jit(step, donate_argnums=0, out_shardings=shardings, compiler_options=_compiler_options(abstract))


def _compiler_options(abstract: TrainState | None) -> dict[str, str] | None:
    """On CPUs, XLA's default is to order a program for concurrency, which costs a quarter more memory and gains no time."""
    device = jax.devices()[0] if abstract is None else abstract.step.sharding.mesh.devices.flat[0]
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"} if device.platform == "cpu" else None
