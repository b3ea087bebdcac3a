"""Everything on several devices equals the same on one. Eight CPU devices stand for accelerators."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import EXPERIMENTS
from crn_jax import sharding
from crn_jax.cascade import CascadeConfig
from crn_jax.errors import UserError
from crn_jax.evaluation import make_eval_step
from crn_jax.lambdas import LambdaConfig
from crn_jax.losses import perceptual_loss
from crn_jax.objective import Objective, synthesis_terms
from crn_jax.settings import PAPER_WIDTHS, LossConfig
from crn_jax.sharding import ShardingConfig, activation_spec, local_rows, make_mesh, put, put_batch
from crn_jax.synthesize import synthesize
from crn_jax.train import OptimizerConfig, abstract_state, init_state, make_train_step
from crn_jax.vgg_layers import LAYERS
from launch.cost.dry_run import lower_step, total_bytes
from launch.cost.hlo import collectives

MESHES = [(8, 1), (4, 2), (2, 4), (1, 8)]
BATCH = 8


def cascade(num_images: int = 1, **fields) -> CascadeConfig:
    """128x16 pixels: small levels on every device, large ones split, whatever the mesh."""
    return CascadeConfig(4, (8, 6, 5, 4), (16, 2), num_images, **fields)


@functools.cache
def problem() -> tuple[dict, dict]:
    """A narrow VGG-19 and a batch."""
    rng = np.random.default_rng(0)
    vgg = {"mean": np.array([123.68, 116.779, 103.939], np.float32)}
    for name, (channels_in, channels_out) in LAYERS.items():
        c_in, c_out = channels_in if channels_in == 3 else channels_in // 32 + 2, channels_out // 32 + 2
        kernel = rng.standard_normal((3, 3, c_in, c_out)) * np.sqrt(2 / 9 / c_in)
        vgg[name] = {"kernel": kernel.astype(np.float32), "bias": np.zeros(c_out, np.float32)}
    batch = {
        "layout": rng.integers(0, 4, (BATCH, 128, 16)).astype(np.uint8),
        "photograph": rng.integers(0, 256, (BATCH, 128, 16, 3)).astype(np.uint8),
    }
    return vgg, batch


def random_params(config: CascadeConfig) -> dict:
    """Sooner made than initial ones are compiled."""
    rng = np.random.default_rng(1)
    objective = Objective(config, LambdaConfig(), OptimizerConfig(), "average", 1)
    return jax.tree.map(lambda leaf: np.float32(rng.uniform(-0.3, 0.3, leaf.shape)), abstract_state(objective).params)


def mesh_of(data: int, spatial: int) -> jax.sharding.Mesh:
    return make_mesh(ShardingConfig((data, spatial)), BATCH, 128)


def loss_and_gradient(num_images: int, mesh_shape: tuple[int, int]):
    """Eq. 1 (Eq. 3, image by image, for k > 1) and its gradient in float64, with the narrow VGG-19."""
    with jax.enable_x64(True):
        config, loss_config = cascade(num_images, dtype="float64"), LossConfig("class", 0.001)
        objective = Objective(config, LambdaConfig(), OptimizerConfig(), "average", 5, "images", loss_config)
        mesh = mesh_of(*mesh_shape)
        vgg, batch = problem()
        params = jax.tree.map(np.float64, random_params(objective.generator))

        def loss(params, vgg, batch):
            terms, _ = synthesis_terms(objective, params, vgg, batch)
            return perceptual_loss(terms, jnp.asarray(LambdaConfig().initial), loss_config.mean_share)[0]

        with jax.set_mesh(mesh):
            arguments = put(mesh, params), put(mesh, vgg), put_batch(mesh, BATCH, batch)
            return jax.tree.map(np.asarray, compile_fast(jax.jit(jax.value_and_grad(loss)), *arguments)(*arguments))


def compile_fast(function, *arguments):
    """For what runs a few times only."""
    return function.lower(*arguments).compile({"xla_backend_optimization_level": 0})


one_device = functools.cache(functools.partial(loss_and_gradient, mesh_shape=(1, 1)))


def relative_error(a, b) -> float:
    """The largest difference in a tree, relative to the largest entry of each leaf."""
    pairs = zip(jax.tree.leaves(jax.tree.map(np.asarray, a)), jax.tree.leaves(jax.tree.map(np.asarray, b)), strict=True)
    return max(np.abs(x - y).max() / np.abs(y).max() for x, y in pairs)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("num_images", [1, 9])
def test_loss_and_every_gradient_equal_those_of_one_device(num_images, mesh):
    assert one_device(num_images)[0].dtype == np.float64
    assert relative_error(loss_and_gradient(num_images, mesh), one_device(num_images)) < 1e-10


def run_steps(objective: Objective, initial, mesh_shape: tuple[int, int], steps: int):
    """The losses, and the state in the end, of a training on one batch; the narrow VGG-19."""
    mesh, (vgg, batch), losses = mesh_of(*mesh_shape), problem(), []
    batch = {key: rows[:2] for key, rows in batch.items()}
    abstract = abstract_state(objective, mesh)
    with jax.set_mesh(mesh):
        state = jax.device_put(initial, sharding.formats_of(abstract))
        arguments = put(mesh, vgg), put_batch(mesh, 2, batch)
        step = compile_fast(make_train_step(objective, abstract), state, *arguments)
        for _ in range(steps):
            state, metrics = step(state, *arguments)
            losses.append(float(metrics["loss"]))
    return losses, state


def test_ten_steps_equal_those_of_one_device(xlas_convolution):
    """The state is sharded, and λ is rescaled on the way.

    In float64 rounding has no say: Adam makes a whole step of 1e-4 of any gradient that is well above its epsilon, 1e-8,
    and float64's rounding of a gradient is far below that. (test_processes.py does it in float32.)
    """
    objective = Objective(cascade(2), LambdaConfig(rescale_epoch=1), OptimizerConfig(ema_decay=0.9), "average", 4)
    initial = jax.tree.map(np.asarray, init_state(objective, 0))
    objective = dataclasses.replace(objective, generator=cascade(2, dtype="float64"))
    with jax.enable_x64(True):
        initial = jax.tree.map(lambda leaf: np.float64(leaf) if leaf.dtype == np.float32 else leaf, initial)
        expected_losses, expected = run_steps(objective, initial, (1, 1), 10)
        losses, state = run_steps(objective, initial, (2, 4), 10)
    assert expected_losses[3] < expected_losses[0] and expected_losses[-1] < expected_losses[4]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-10)
    np.testing.assert_allclose(state.lambdas.weights, expected.lambdas.weights, rtol=1e-10)
    assert int(state.step) == int(expected.step) == 10
    got, wanted = ((s.params, s.ema, s.opt_state) for s in (state, expected))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), got, wanted)
    for tree in (state.params, state.ema, {name: part.mu for name, part in state.opt_state.items()}):
        kernels = {name: tree[name]["conv1"]["kernel"] for name in ("module_0", "module_1")}
        assert kernels["module_0"].sharding.shard_shape((3, 3, 4, 8)) == (3, 3, 4, 1)
        assert kernels["module_1"].sharding.is_fully_replicated  # [3, 3, 12, 6]: no axis divides by 8


def test_shards_are_gathered_and_gradients_come_back_as_shards():
    mesh, rng = mesh_of(2, 4), np.random.default_rng(0)
    params = {"bias": np.ones(5), "conv": rng.uniform(-1, 1, (3, 3, 2, 8)), "to_rgb": rng.uniform(-1, 1, (1, 1, 8, 3))}
    params = jax.tree.map(np.float32, params)
    shards = sharding.formats_of(sharding.sharded(mesh, jax.eval_shape(lambda: params)))

    def loss(params: dict) -> tuple[jax.Array, dict]:
        whole = sharding.all_gathered(params, "bfloat16")
        return sum(jnp.square(leaf.astype(jnp.float32)).sum() for leaf in whole.values()), whole

    with jax.set_mesh(mesh):
        (_, whole), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(jax.device_put(params, shards))
    assert [whole[name].dtype for name in params] == ["float32", "bfloat16", "float32"]
    assert [gradients[name].sharding.shard_shape(leaf.shape) for name, leaf in params.items()] == [
        (5,),
        (3, 3, 2, 1),
        (1, 1, 1, 3),
    ]
    for name, leaf in whole.items():
        assert leaf.sharding.is_fully_replicated and gradients[name].sharding.is_equivalent_to(shards[name], leaf.ndim)
        np.testing.assert_array_equal(leaf, params[name].astype(leaf.dtype))
        np.testing.assert_array_equal(gradients[name], np.float32((2 * np.float32(leaf)).astype(leaf.dtype)))


def test_only_rows_are_exchanged():
    """What the compiler makes of a step at 256x512 with the height split over four devices."""
    narrow = CascadeConfig(20, tuple(width // 16 for width in PAPER_WIDTHS[:7]))
    experiment = dataclasses.replace(
        EXPERIMENTS["cityscapes_256p"], cascade=narrow, sharding=ShardingConfig((1, 4), shard_state=False)
    )
    lowered = lower_step(experiment, make_mesh(experiment.sharding, 1, 256))
    found = collectives(lowered.compile({"xla_backend_optimization_level": 0}).as_text())
    by_kind = {kind: [c for c in found if c.kind == kind] for kind in {c.kind for c in found}}
    assert set(by_kind) == {"collective-permute", "all-reduce", "all-gather"}

    # Convolutions and upsampling: a row of one activation; two for each pair of VGG-19's convolutions.
    rows = [shape for c in by_kind["collective-permute"] for _, shape in c.arrays]
    assert {(len(shape), shape[1]) for shape in rows} == {(4, 1), (4, 2)}
    assert {shape[2] for shape in rows} >= {64, 128, 256, 512}  # every split level takes part
    # Norms and losses sum a few numbers; parameters' gradients are summed, all at once.
    gradients = max(by_kind["all-reduce"], key=lambda c: c.size)
    assert all(c.size <= 1024 for c in by_kind["all-reduce"] if c is not gradients)
    # At the boundary to the small levels that every device computes whole: the layout, and one gradient.
    gathered = sorted(shape for c in by_kind["all-gather"] for _, shape in c.arrays)
    assert gathered == [(1, 16, 32, 20), (1, 16, 32, 64)]


def test_memory_falls_with_the_mesh(xlas_convolution):
    """The whole step at 1024x2048, all nine modules at full width, by the compiler's analysis; nothing is allocated."""
    experiment = dataclasses.replace(EXPERIMENTS["cityscapes_1024p"], remat="none")  # is compiled soonest
    sizes = []
    for shape in [(1, 1), (1, 4)]:
        mesh = make_mesh(ShardingConfig(shape), 1, 1024)
        compiled = lower_step(experiment, mesh).compile({"xla_backend_optimization_level": 0})
        sizes.append(total_bytes(compiled.memory_analysis()))
    assert sizes[0] > 3.2 * sizes[1]


@pytest.mark.quick
def test_exchanges_are_read_from_a_program_once_each():
    found = collectives("""
  %a = f32[4,8]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
  %b = ((f32[1,4], f32[2,8]), (f32[4,4], f32[8,8])) all-gather-start(%x, %y), channel_id=2
  %b.again = ((f32[1,4], f32[2,8]), (f32[4,4], f32[8,8])) all-gather-start(%x, %y), channel_id=2
  %c = (bf16[1,1,64,8], bf16[1,1,64,8], u32[], u32[]) collective-permute-start(%x), channel_id=1
  %c.2 = (bf16[1,1,64,8], bf16[1,1,64,8], u32[], u32[]) collective-permute-start(%y), channel_id=1
  %d = f32[8] get-tuple-element(%all-reduce), index=0
""")
    expected = [("all-reduce", 128), ("all-gather", 320), ("collective-permute", 1024), ("collective-permute", 1024)]
    assert [(c.kind, c.size) for c in found] == expected


@pytest.mark.parametrize(
    ("shape", "min_rows", "expected"),
    [
        ((8, 128), 8, PartitionSpec("data", "spatial")),
        ((8, 32), 8, PartitionSpec("data", "spatial")),
        ((8, 16), 8, PartitionSpec("data", None)),  # four rows a device: not worth it
        ((8, 16), 1, PartitionSpec("data", "spatial")),
        ((8, 30), 1, PartitionSpec("data", None)),  # does not divide
        ((3, 128), 8, PartitionSpec(None, "spatial")),
    ],
)
def test_small_and_uneven_levels_stay_whole(shape, min_rows, expected):
    assert activation_spec(mesh_of(2, 4), shape, min_rows) == expected


def test_images_of_heights_that_do_not_divide_on_the_way_down():
    """48 rows on four devices: VGG-19's third level has 12, the fourth 6. The evaluation of collections, in float64."""
    config = CascadeConfig(4, (3, 3), (24, 16), 2)
    params = jax.tree.map(np.float64, random_params(config))
    config = dataclasses.replace(config, dtype="float64")
    objective = Objective(config, LambdaConfig(), OptimizerConfig(), "average", 5)
    rng = np.random.default_rng(0)
    batch = {"layout": rng.integers(0, 4, (2, 48, 32)), "photograph": rng.integers(0, 256, (2, 48, 32, 3))}
    batch = {key: value.astype(np.uint8) for key, value in batch.items()}
    (vgg, _), evaluations = problem(), []
    with jax.enable_x64(True):
        for shape in [(1, 1), (2, 4)]:
            mesh = make_mesh(ShardingConfig(shape), 2, 48)
            with jax.set_mesh(mesh):
                arguments = put(mesh, params), put(mesh, vgg), put_batch(mesh, 2, batch)
                evaluate = make_eval_step(config, objective.perception, abstract_state(objective, mesh))
                evaluations.append(jax.tree.map(np.asarray, evaluate(*arguments)))
    one, several = (e.collection for e in evaluations)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    close(evaluations[0].terms, evaluations[1].terms)
    for terms in ("class_terms", "assembled_terms", "pairwise_terms"):
        close(getattr(one, terms), getattr(several, terms))
    np.testing.assert_array_equal(one.choice, several.choice)


@pytest.mark.parametrize(
    ("mesh", "batch", "height", "expected"),
    [
        ((-1, -1), 1, 256, (1, 8)),  # the paper's batch of one: its height is split
        ((-1, -1), 4, 256, (4, 2)),
        ((-1, -1), 16, 256, (8, 1)),
        ((-1, 4), 2, 256, (2, 4)),
        ((2, -1), 2, 256, (2, 4)),
        ((1, 2), 1, 256, (1, 2)),  # fewer devices than there are
    ],
)
def test_the_mesh(mesh, batch, height, expected):
    made = make_mesh(ShardingConfig(mesh), batch, height)
    assert made.devices.shape == expected and made.axis_names == ("data", "spatial")
    assert list(made.devices.flat) == jax.devices()[: made.size]


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip, as far as a mesh asks for it."""

    id: int
    coords: tuple[int, int, int]
    platform = "tpu"
    device_kind = "TPU v6 lite"
    core_on_chip = process_index = slice_index = 0


def test_a_mesh_may_split_an_axis_of_a_tpus_network():
    chips = [Chip(i, (i % 4, i // 4, 0)) for i in range(16)]
    made = make_mesh(ShardingConfig((8, 2)), 8, 256, chips)
    assert made.devices.shape == (8, 2) and set(made.devices.flat) == set(chips)
    for one, other in made.devices:  # beside each other
        assert sum(abs(a - b) for a, b in zip(one.coords, other.coords)) == 1


@pytest.mark.parametrize(
    ("mesh", "batch", "height", "problem"),
    [
        ((4, 1), 2, 256, "a batch of 2 cannot be split into 4 equal parts"),
        ((-1, 1), 1, 256, "a batch of 1 cannot be split into 8 equal parts"),
        ((1, 8), 1, 100, "100 rows cannot be split into 8 equal parts"),
        ((4, 4), 4, 256, "this does not fit the 8 devices"),
        ((0, 1), 4, 256, "this does not fit the 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_those_that_do(mesh, batch, height, problem):
    with pytest.raises(UserError, match=problem) as error:
        make_mesh(ShardingConfig(mesh), batch, height)
    fitting = {(2, 256): "1 8, 2 4", (1, 256): "1 8", (1, 100): "1 5", (4, 256): "1 8, 2 4, 4 2"}
    assert f"these meshes are possible: {fitting[batch, height]}." in str(error.value)


@pytest.mark.parametrize("shape", [(1, 1), (4, 2), (1, 8)])
def test_a_batch_lies_where_its_rows_are(shape):
    mesh, (_, batch) = mesh_of(*shape), problem()
    placed = put_batch(mesh, BATCH, batch)
    for key, array in placed.items():
        np.testing.assert_array_equal(array, batch[key])
        assert array.sharding.shard_shape(array.shape)[:2] == (BATCH // shape[0], 128 // shape[1])
    assert local_rows(mesh, BATCH) == list(range(BATCH))


def test_synthesis_on_a_mesh_gives_the_same_images():
    params, (_, batch) = random_params(cascade()), problem()
    alone = synthesize(cascade(), params, batch["layout"])
    mesh = mesh_of(2, 4)
    with jax.set_mesh(mesh):
        images = synthesize(cascade(), put(mesh, params), put_batch(mesh, BATCH, batch)["layout"])
    assert images.sharding.shard_shape(images.shape)[0] == BATCH // 2
    assert np.abs(np.asarray(images, int) - np.asarray(alone)).max() <= 1  # rounding
