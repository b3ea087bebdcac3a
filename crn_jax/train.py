"""The training step: a pure, jitted function of state, frozen parameters and batch, which donates its state.

A batch is `{"layout": uint8 or uint16 [B, H, W] class ids, "photograph": uint8 [B, H, W, 3]}`. For instance boundaries, it
has the ids of instances as well, `"instances": uint16 [B, H, W]`. A `Trainable` says which network is trained on it, and with
which loss: see objective.py for the cascade, scores/segmenter.py for a segmenter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from crn_jax.lambdas import LambdaState
from crn_jax.settings import OptimizerConfig
from crn_jax.sharding import all_gathered, formats_of, laid_out, replicated, sharded


class TrainState(NamedTuple):
    """The whole state of a training, as one pytree: nothing else survives a restart."""

    step: Int[Array, ""]  # the number of steps done
    params: Any
    opt_state: dict[str, optax.ScaleByAdamState]  # for each part of params that is trained
    lambdas: LambdaState | None  # None if the loss has no terms to balance
    ema: Any = None  # like params, if a moving average is kept


@runtime_checkable  # so that the tests can check annotations
class Trainable(Protocol):
    """The static, hashable part of a training step: the network that is trained, and its loss."""

    optimizer: OptimizerConfig
    steps_per_epoch: int

    @property
    def dtype(self) -> str:
        """The dtype of the network's 3x3 convolutions."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a batch's photographs, in pixels."""

    @property
    def boundaries(self) -> bool:
        """Whether a batch has the instances of its pixels, too; it does not, as here, unless the network takes boundaries."""
        return False

    def abstract_frozen(self) -> dict:
        """Returns shapes and dtypes of the frozen parameters that the loss takes; none, as here, if it takes none."""
        return {}

    def init_params(self, key: Key[Array, ""]) -> dict:
        """Returns fresh parameters."""

    def init_lambdas(self) -> LambdaState | None:
        """Returns the balance of the loss's terms before the first step; None, as here, if there are no terms to balance."""
        return None

    def loss_of(
        self, params: dict, lambdas: LambdaState | None, frozen: dict, batch: dict, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict]:
        """Returns the loss of a batch, and a dict of metrics.

        Args:
          params: the parameters that are trained.
          lambdas: the balance of the loss's terms.
          frozen: parameters of other networks, which stay as they are.
          batch: layouts and photographs, as the module's docstring describes them.
          step: the number of the step, counted from 0; everything random follows from it.
        """

    def update_lambdas(self, lambdas: LambdaState | None, metrics: dict, step: Int[Array, ""]) -> LambdaState | None:
        """Returns the balance after step `step` (counted from 0), which yielded these metrics."""
        return None


def abstract_batch_of(
    objective: Trainable, batch_size: int, layout_dtype: DTypeLike = jnp.uint8
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a batch. By default it has at most 256 classes."""
    shape = (batch_size, *objective.size)
    batch = {"layout": jax.ShapeDtypeStruct(shape, layout_dtype), "photograph": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8)}
    return batch | ({"instances": jax.ShapeDtypeStruct(shape, jnp.uint16)} if objective.boundaries else {})


def _initial(objective: Trainable, seed: int | Int[Array, ""]) -> TrainState:
    params = objective.init_params(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=objective.optimizer.init(params),
        lambdas=objective.init_lambdas(),
        ema=None if objective.optimizer.ema_decay is None else jax.tree.map(jnp.copy, params),
    )


def abstract_state(objective: Trainable, mesh: Mesh | None = None, shard_state: bool = True) -> TrainState:
    """Returns the state's shapes and dtypes without allocating it, and with a mesh also its shardings (`ShardingConfig`)."""
    state = jax.jit(_initial, static_argnums=0).eval_shape(objective, 0)  # JAX keeps the trace of each objective
    if mesh is None:
        return state
    placed = replicated(mesh, state)
    if shard_state:
        large = {name: sharded(mesh, getattr(state, name)) for name in ("params", "opt_state", "ema")}
        placed = placed._replace(**large)  # the host reads the other fields, which are small
    return laid_out(mesh, placed)


def init_state(objective: Trainable, seed: int | Int[Array, ""], abstract: TrainState | None = None) -> TrainState:
    """Returns the state before the first step; everything random in it follows from the seed.

    Args:
      objective: the network to train, and its loss.
      seed: any integer.
      abstract: the result of `abstract_state` with a mesh. The state is created on that mesh, with the same values as on
        every other mesh.
    """
    formats = None if abstract is None else formats_of(abstract)
    # On CPUs, the program that draws the numbers of every array compiles slowly. At this level it compiles in a third of the
    # time. It draws the same numbers, and as fast. Within another program, such as that of `jax.eval_shape`, JAX refuses
    # options.
    alone = not isinstance(jnp.zeros(()), jax.core.Tracer)
    options = {"xla_backend_optimization_level": 1} if alone and _devices_of(abstract)[0] == "cpu" else None
    return jax.jit(_initial, static_argnums=0, out_shardings=formats, compiler_options=options)(objective, seed)


def make_train_step(
    objective: Trainable, abstract: TrainState | None = None
) -> Callable[[TrainState, dict, dict], tuple[TrainState, dict]]:
    """Returns the jitted `step(state, frozen, batch) -> (state, metrics)`, which uses up the state that it is given.

    On a mesh, pass the `abstract` of `abstract_state`, so that the state keeps its shardings. Call the step within
    `jax.set_mesh(mesh)`, with a batch from `sharding.put_batch`. Do not call the step inside another `jax.jit`: it sets
    compiler options, which JAX accepts for outermost functions only.

    The metrics are those of the objective's `loss_of`, and the scalars `loss` and `grad_norm`.
    """
    optimizer = objective.optimizer
    state_is_sharded = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(abstract and abstract.params))

    def step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict]:
        trained = {part: state.params[part] for part in state.opt_state}

        def loss_of(trained: dict) -> tuple[Float[Array, ""], dict]:
            params = {**state.params, **trained}
            with jax.named_scope("gathered_parameters"):
                params = all_gathered(params, objective.dtype) if state_is_sharded else params
            return objective.loss_of(params, state.lambdas, frozen, batch, state.step)

        (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(trained)
        rate = optimizer.rate(state.step, objective.steps_per_epoch)
        with jax.named_scope("adam"):
            trained, opt_state = optimizer.update(trained, gradient, state.opt_state, rate)
        ema = state.ema
        if optimizer.ema_decay is not None:
            averaged = {part: ema[part] for part in trained}
            with jax.named_scope("moving_average"):
                ema = {**ema, **optax.incremental_update(trained, averaged, 1 - optimizer.ema_decay)}
        with jax.named_scope("lambdas"):
            lambdas = objective.update_lambdas(state.lambdas, metrics, state.step)
        with jax.named_scope("gradient_norm"):
            metrics = {"loss": loss, **metrics, "grad_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, {**state.params, **trained}, opt_state, lambdas, ema), metrics

    formats = None if abstract is None else (formats_of(abstract), abstract.step.sharding)
    return jax.jit(step, donate_argnums=0, out_shardings=formats, compiler_options=_compiler_options(abstract))


def _compiler_options(abstract: TrainState | None) -> dict[str, Any] | None:
    """Returns the options for XLA's compiler that make a step smaller or faster; None if there are none for the platform.

    By default, XLA for CPUs orders a program for concurrency, which costs a quarter more memory and gains no time. XLA for
    GPUs delays the reduce-scatter of gradients until each shard has 30 MB, which is the end of the backward pass. With 30 MB
    for all shards together, the exchange overlaps with the computation.
    """
    platform, size = _devices_of(abstract)
    options: dict[str, dict[str, Any]] = {
        "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
        "gpu": {"xla_gpu_reduce_scatter_combine_threshold_bytes": 30 * 2**20 // size},
    }
    return options.get(platform)


def _devices_of(abstract: TrainState | None) -> tuple[str, int]:
    """Returns the platform of the devices that a state lies on, and their number; those of JAX's first device by default."""
    if abstract is None:
        return jax.devices()[0].platform, 1
    sharding = abstract.step.sharding
    assert isinstance(sharding, NamedSharding)
    return sharding.mesh.devices.flat[0].platform, sharding.mesh.size
