"""The training step: a pure function of (state, VGG-19, batch), jitted, its state donated.

A batch is `{"layout": uint8 or uint16 [B, H, W] class ids, "photograph": uint8 [B, H, W, 3]}`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from crn_jax.cascade import Cascade, CascadeConfig, init_params
from crn_jax.lambdas import LambdaConfig, LambdaState, init_lambdas, update_lambdas
from crn_jax.losses import LossConfig, layer_terms, perceptual_loss
from crn_jax.remat import Remat
from crn_jax.sharding import replicated, shardings_of, shared_out
from crn_jax.vgg import Pooling


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam, as in the paper."""

    learning_rate: float = 1e-4
    """The paper's, constant over the training."""
    schedule: Literal["constant", "authors_fallback"] = "constant"
    """authors_fallback: min(1e-6 * 1.1^(epoch-1), 1e-4 if epoch > 100 else 1e-3), for a training that diverges."""
    ema_decay: float | None = None
    """Keeps an exponential moving average of the parameters, say 0.999, which validation and synthesis then use."""

    def __post_init__(self):
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}.")


class TrainState(NamedTuple):
    """All that a run is, as one pytree: what is not in it does not survive a restart."""

    step: jax.Array  # int32 [], steps done
    params: Any
    opt_state: Any
    lambdas: LambdaState
    ema: Any = None  # like params, if a moving average is kept


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is trained, and on what: the static part of a training step."""

    cascade: CascadeConfig
    lambdas: LambdaConfig
    optimizer: OptimizerConfig
    pooling: Pooling
    steps_per_epoch: int
    remat: Remat = "none"
    loss: LossConfig = LossConfig()

    def learning_rate(self) -> float | Callable[[jax.Array], jax.Array]:
        """Adam's: a number, or a function of the step counted from 0."""
        if self.optimizer.schedule == "constant":
            return self.optimizer.learning_rate

        def fallback(step: jax.Array) -> jax.Array:
            epoch = step // self.steps_per_epoch + 1
            return jnp.minimum(1e-6 * 1.1 ** (epoch - 1), jnp.where(epoch > 100, 1e-4, 1e-3))

        return fallback

    def transformation(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.learning_rate())


def _initial(objective: Objective, seed: int | jax.Array) -> TrainState:
    params = init_params(objective.cascade, jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=objective.transformation().init(params),
        lambdas=init_lambdas(objective.lambdas),
        ema=None if objective.optimizer.ema_decay is None else jax.tree.map(jnp.copy, params),
    )


def abstract_state(objective: Objective, mesh: Mesh | None = None, shard_optimizer: bool = True) -> TrainState:
    """Shapes and dtypes of the state, without allocating it; with a mesh, also how it lies on that.

    Parameters have a copy on every device; what only the update reads (Adam's moments, the moving average) is shared out
    if `shard_optimizer`.
    """
    state = jax.eval_shape(functools.partial(_initial, objective), 0)
    if mesh is None:
        return state
    place = shared_out if shard_optimizer else replicated
    return replicated(mesh, state)._replace(opt_state=place(mesh, state.opt_state), ema=place(mesh, state.ema))


def init_state(objective: Objective, seed: int | jax.Array, abstract: TrainState | None = None) -> TrainState:
    """The state before the first step; everything random in it follows from the seed.

    Args:
      objective: what is to be trained.
      seed: any integer.
      abstract: from `abstract_state` with a mesh; the state is made in its place there, and is the same on every mesh.
    """
    shardings = None if abstract is None else shardings_of(abstract)
    return jax.jit(_initial, static_argnums=0, out_shardings=shardings)(objective, seed)


def one_hot(config: CascadeConfig, layout: jax.Array) -> jax.Array:
    """Class ids `[B, H, W]` -> the cascade's layout, float32 `[B, H, W, c]`."""
    return jax.nn.one_hot(layout.astype(jnp.int32), config.num_classes)  # uint8 would wrap past 256 classes


def synthesis_terms(objective: Objective, params: dict, vgg_params: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
    """Synthesizes from a batch's layouts and compares: the terms `[B, k, P, 6]`, and the images `[B, k, H, W, 3]`, 0..255.

    The P regions are the classes if the loss takes the best image of each, else one, the image.
    """
    layout = one_hot(objective.cascade, batch["layout"])
    images = Cascade(objective.cascade, objective.remat).apply({"params": params}, layout)
    masks = layout if objective.loss.best_per == "class" and objective.cascade.num_images > 1 else None
    return compare(objective, vgg_params, batch["photograph"], images, masks), images


def compare(
    objective: Objective, vgg_params: dict, photograph: jax.Array, images: jax.Array, masks: jax.Array | None = None
) -> jax.Array:
    """`losses.layer_terms` of a uint8 photograph, as the objective says."""
    dtype = jnp.dtype(objective.cascade.dtype)
    return layer_terms(vgg_params, photograph.astype(jnp.float32), images, masks, objective.pooling, dtype, objective.remat)


def make_train_step(
    objective: Objective, abstract: TrainState | None = None
) -> Callable[[TrainState, dict, dict], tuple[TrainState, dict]]:
    """Makes `step(state, vgg_params, batch) -> (state, metrics)`, jitted; the state passed in is used up.

    On a mesh, give `abstract` from `abstract_state`, so that the state stays where it was, and call the step within
    `jax.set_mesh(mesh)`, with a batch from `sharding.put_batch`. On CPUs the step sets compiler options, which JAX takes
    from outermost functions only: do not call it inside another `jax.jit`.

    Metrics, of which all but `grad_norm` [] are means over the batch: the `loss` [], the `terms` [6] that it weights,
    `all_terms` `[k, P, 6]` of every image and region (see `synthesis_terms`); and the `weights` [6], the λ that this step
    used; layers in the order of `TAPS`.
    """
    transformation = objective.transformation()

    def loss_of(params, weights, vgg_params, batch):
        all_terms, _ = synthesis_terms(objective, params, vgg_params, batch)
        loss, terms = perceptual_loss(all_terms, weights, objective.loss.mean_share)
        return loss, (terms, all_terms.mean(0))

    def step(state: TrainState, vgg_params: dict, batch: dict) -> tuple[TrainState, dict]:
        weights = state.lambdas.weights
        (loss, aux), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params, weights, vgg_params, batch)
        terms, all_terms = aux
        if abstract is not None:
            # Else the moments' sharding would spread from here to the convolutions, and split those by channels.
            gradient = jax.lax.with_sharding_constraint(gradient, shardings_of(abstract.params))
        updates, opt_state = transformation.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - objective.optimizer.ema_decay)
        lambdas = update_lambdas(objective.lambdas, state.lambdas, terms, state.step, objective.steps_per_epoch)
        metrics = {"loss": loss, "terms": terms, "all_terms": all_terms, "weights": weights}
        metrics["grad_norm"] = optax.tree.norm(gradient)
        return TrainState(state.step + 1, params, opt_state, lambdas, ema), metrics

    shardings = None if abstract is None else (shardings_of(abstract), abstract.step.sharding)
    return jax.jit(step, donate_argnums=0, out_shardings=shardings, compiler_options=_compiler_options(abstract))


def _compiler_options(abstract: TrainState | None) -> dict[str, str] | None:
    """On CPUs, XLA's default is to order a program for concurrency, which costs a quarter more memory and gains no time."""
    device = jax.devices()[0] if abstract is None else abstract.step.sharding.mesh.devices.flat[0]
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"} if device.platform == "cpu" else None
