"""The training step: a pure function of (state, frozen parameters, batch), jitted, its state donated.

A batch is `{"layout": uint8 or uint16 [B, H, W] class ids, "photograph": uint8 [B, H, W, 3]}`. What is trained on it, and for
what, a `Trainable` says: the cascade (objective.py) or a segmenter (segmenter.py).
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from crn_jax.errors import UserError
from crn_jax.lambdas import LambdaState
from crn_jax.sharding import all_gathered, formats_of, laid_out, replicated, sharded


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
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are: module_0, to_rgb, or patterns such as 'module_[0-6]'. No gradient of them is computed, and
    no moments are kept."""

    def __post_init__(self):
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}.")

    def rate(self, step: jax.Array, steps_per_epoch: int) -> float | jax.Array:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        epoch = step // steps_per_epoch + 1
        return jnp.minimum(1e-6 * 1.1 ** (epoch - 1), jnp.where(epoch > 100, 1e-4, 1e-3))

    def init(self, params: dict) -> dict[str, optax.ScaleByAdamState]:
        """Adam's moments before the first step, of each part of the parameters that is trained.

        A part (a refinement module, the head) has a count of steps of its own, so that what is new beside parts that keep
        their moments (growth.py) gets the bias correction of its own age.

        Raises:
          UserError: if `freeze` names a part that there is not, or leaves nothing to train.
        """
        for pattern in self.freeze:
            if not fnmatch.filter(params, pattern):
                raise UserError(f"--optimizer.freeze {pattern}: there is no such part. Parts: {', '.join(params)}.")
        trained = [part for part in params if not any(fnmatch.fnmatchcase(part, pattern) for pattern in self.freeze)]
        if not trained:
            raise UserError(f"--optimizer.freeze {' '.join(self.freeze)} leaves nothing to train of {', '.join(params)}.")
        return {part: self._adam().init(params[part]) for part in trained}

    def update(self, params: dict, gradient: dict, opt_state: dict, rate: float | jax.Array) -> tuple[dict, dict]:
        """The parts `params` that are trained, after a step of Adam at this rate, and its moments."""
        directions, moments = {}, {}
        for part in params:
            directions[part], moments[part] = self._adam().update(gradient[part], opt_state[part])
        return jax.tree.map(lambda p, direction: p - rate * direction, params, directions), moments

    def _adam(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(b1=self.b1)


class TrainState(NamedTuple):
    """All that a run is, as one pytree: what is not in it does not survive a restart."""

    step: jax.Array  # int32 [], steps done
    params: Any
    opt_state: dict[str, optax.ScaleByAdamState]  # of each part of params that is trained
    lambdas: LambdaState | None  # where the loss has terms to balance
    ema: Any = None  # like params, if a moving average is kept


class Trainable(Protocol):
    """The static part of a training step, hashable: what is trained, and what for."""

    optimizer: OptimizerConfig
    steps_per_epoch: int

    @property
    def dtype(self) -> str:
        """Of its 3x3 convolutions."""

    def init_params(self, key: jax.Array) -> dict:
        """Fresh parameters."""

    def init_lambdas(self) -> LambdaState | None:
        """The balance of the loss's terms before the first step; None, as here, if there are none to balance."""
        return None

    def loss_of(
        self, params: dict, lambdas: LambdaState | None, frozen: dict, batch: dict, step: jax.Array
    ) -> tuple[jax.Array, dict]:
        """The loss [] of a batch, and a dict of metrics; `frozen` are parameters that stay as they are, and `step` (counted
        from 0) is what anything random follows from."""

    def update_lambdas(self, lambdas: LambdaState | None, metrics: dict, step: jax.Array) -> LambdaState | None:
        """The balance after step `step` (counted from 0) with these metrics."""
        return None


def _initial(objective: Trainable, seed: int | jax.Array) -> TrainState:
    params = objective.init_params(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=objective.optimizer.init(params),
        lambdas=objective.init_lambdas(),
        ema=None if objective.optimizer.ema_decay is None else jax.tree.map(jnp.copy, params),
    )


def abstract_state(objective: Trainable, mesh: Mesh | None = None, shard_state: bool = True) -> TrainState:
    """Shapes and dtypes of the state, without allocating it; with a mesh, also how it lies on that: see `ShardingConfig`."""
    state = jax.eval_shape(functools.partial(_initial, objective), 0)
    if mesh is None:
        return state
    placed = replicated(mesh, state)
    if shard_state:
        large = {name: sharded(mesh, getattr(state, name)) for name in ("params", "opt_state", "ema")}
        placed = placed._replace(**large)  # what is left is looked at
    return laid_out(mesh, placed)


def init_state(objective: Trainable, seed: int | jax.Array, abstract: TrainState | None = None) -> TrainState:
    """The state before the first step; everything random in it follows from the seed.

    Args:
      objective: what is to be trained.
      seed: any integer.
      abstract: from `abstract_state` with a mesh; the state is made in its place there, and is the same on every mesh.
    """
    formats = None if abstract is None else formats_of(abstract)
    return jax.jit(_initial, static_argnums=0, out_shardings=formats)(objective, seed)


def make_train_step(
    objective: Trainable, abstract: TrainState | None = None
) -> Callable[[TrainState, dict, dict], tuple[TrainState, dict]]:
    """Makes `step(state, frozen, batch) -> (state, metrics)`, jitted; the state passed in is used up.

    On a mesh, give `abstract` from `abstract_state`, so that the state stays where it was, and call the step within
    `jax.set_mesh(mesh)`, with a batch from `sharding.put_batch`. On CPUs the step sets compiler options, which JAX takes
    from outermost functions only: do not call it inside another `jax.jit`.

    Metrics are the objective's (see its `loss_of`), the `loss` [] and the `grad_norm` [].
    """
    optimizer = objective.optimizer
    state_is_sharded = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(abstract and abstract.params))

    def step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict]:
        trained = {part: state.params[part] for part in state.opt_state}

        def loss_of(trained: dict) -> tuple[jax.Array, dict]:
            params = {**state.params, **trained}
            params = all_gathered(params, objective.dtype) if state_is_sharded else params
            return objective.loss_of(params, state.lambdas, frozen, batch, state.step)

        (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(trained)
        rate = optimizer.rate(state.step, objective.steps_per_epoch)
        trained, opt_state = optimizer.update(trained, gradient, state.opt_state, rate)
        ema = state.ema
        if ema is not None:
            averaged = {part: ema[part] for part in trained}
            ema = {**ema, **optax.incremental_update(trained, averaged, 1 - optimizer.ema_decay)}
        lambdas = objective.update_lambdas(state.lambdas, metrics, state.step)
        metrics = {"loss": loss, **metrics, "grad_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, {**state.params, **trained}, opt_state, lambdas, ema), metrics

    formats = None if abstract is None else (formats_of(abstract), abstract.step.sharding)
    return jax.jit(step, donate_argnums=0, out_shardings=formats, compiler_options=_compiler_options(abstract))


def _compiler_options(abstract: TrainState | None) -> dict[str, Any] | None:
    """What to ask of XLA's compiler.

    For CPUs, by default it orders a program for concurrency, which costs a quarter more memory and gains no time. For GPUs, it
    puts off sums of gradients until each device's shard of them is 30 MB, which is the end of the backward pass; 30 MB in all
    are on their way while the rest is computed.
    """
    if abstract is None:
        platform, size = jax.devices()[0].platform, 1
    else:
        mesh = abstract.step.sharding.mesh
        platform, size = mesh.devices.flat[0].platform, mesh.size
    return {
        "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
        "gpu": {"xla_gpu_reduce_scatter_combine_threshold_bytes": 30 * 2**20 // size},
    }.get(platform)
