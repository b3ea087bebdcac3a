"""Floating-point operations, counted in a program's trace: two for each multiplication of a convolution or a matrix product.

Nothing else counts, and nothing is run, compiled or allocated. The operations are those of the mathematics, whatever algorithm
computes it and however often: Winograd's form needs fewer, rematerialization more. A kernel's multiplications by the padding
count, as if that were image; those by the zeros between the pixels of a transposed convolution do not.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var, jaxprs_in_params

from crn_jax.generator import Generator, init_params
from crn_jax.objective import Objective
from crn_jax.scores.segmenter import SegmenterObjective
from crn_jax.train import Trainable
from crn_jax.vgg import abstract_vgg19


def forward_flops(config: Generator, batch_size: int = 1) -> int:
    """Synthesizing from a batch of layouts."""
    config = _exact(config)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    layout = jax.ShapeDtypeStruct((batch_size, *config.size, config.num_classes), jnp.float32)
    return operations(lambda params, layout: config.network().apply({"params": params}, layout), params, layout)


def step_flops(objective: Trainable, batch_size: int = 1) -> int:
    """One training step: forward and backward, nothing computed again.

    A backward pass costs about the forward pass again for each gradient that is needed: that by the kernels, of what is
    trained, and that by the input, unless it is the layout or a photograph.
    """
    fields = {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}
    objective = dataclasses.replace(objective, **{name: _exact(of) for name, of in fields.items() if hasattr(of, "dtype")})
    if isinstance(objective, Objective):
        objective = dataclasses.replace(objective, remat="none")
    size, frozen = _given(objective)
    batch = {
        "layout": jax.ShapeDtypeStruct((batch_size, *size), jnp.uint8),
        "photograph": jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8),
    }
    params, lambdas = _params(objective), jax.eval_shape(objective.init_lambdas)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return operations(jax.value_and_grad(objective.loss_of, has_aux=True), params, lambdas, frozen, batch, step)


def _exact(config: Any) -> Any:
    """A network's config in float32: for bfloat16, convolutions pad their channels."""
    return dataclasses.replace(config, dtype="float32")


def _given(objective: Trainable) -> tuple[tuple[int, int], dict]:
    """The size of the images, and the shapes of the frozen parameters that take part in the loss."""
    if isinstance(objective, Objective):
        return objective.generator.size, abstract_vgg19()
    if isinstance(objective, SegmenterObjective):
        return objective.segmenter.size, {}
    if objective.segmenter is None:
        return objective.gan.size, {}
    return objective.gan.size, {"segmenter": _params(SegmenterObjective(objective.segmenter, objective.optimizer, 1))}


def _params(objective: Trainable) -> dict:
    return jax.eval_shape(lambda: objective.init_params(jax.random.key(0)))


def operations(function: Callable, *arguments: Any) -> int:
    """Those of a function of arrays, or of trees of them; of the arguments, only shapes and dtypes matter.

    Raises:
      ValueError: for multiplications in a loop whose length follows from the data.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.outvars))[0]


def _count(jaxpr: Jaxpr, needed: Sequence[bool]) -> tuple[int, list[bool]]:
    """The operations that the needed results take, and which of the arguments those results depend on.

    It goes backwards and leaves out what no needed result depends on, as compilers do: a custom derivative's rule computes the
    gradients by all of its arguments, also by the layout or by VGG-19's kernels.
    """
    alive, total = {result for result, is_needed in zip(jaxpr.outvars, needed) if is_needed and isinstance(result, Var)}, 0
    for equation in reversed(jaxpr.eqns):
        results = [result in alive for result in equation.outvars]
        if any(results):
            count, used = _count_equation(equation, results)
            total += count
            alive |= {argument for argument, is_used in zip(equation.invars, used) if is_used and isinstance(argument, Var)}
    return total, [argument in alive for argument in jaxpr.invars]


def _count_equation(equation: JaxprEqn, needed: list[bool]) -> tuple[int, list[bool]]:
    inside, everything = list(jaxprs_in_params(equation.params)), [True] * len(equation.invars)
    match equation.primitive.name:
        case "conv_general_dilated":
            return _of_convolution(equation), everything
        case "dot_general":
            return _of_product(equation), everything
        case "cond":
            return _of_branches(equation, needed)
        case "scan":
            return _of_loop(equation, needed)
    if [(len(jaxpr.invars), len(jaxpr.outvars)) for jaxpr in inside] == [(len(equation.invars), len(equation.outvars))]:
        return _count(inside[0], needed)  # a call, whatever its kind
    if any(_count(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inside):
        raise ValueError(f"How often '{equation.primitive.name}' does the multiplications in it is not known before it is run.")
    return 0, everything


def _of_convolution(equation: JaxprEqn) -> int:
    kernel, result = equation.invars[1].aval, equation.outvars[0].aval
    taps = kernel.size // kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]  # for one number of the result
    return 2 * result.size * taps // math.prod(equation.params["lhs_dilation"])


def _of_product(equation: JaxprEqn) -> int:
    (summed, _), _ = equation.params["dimension_numbers"]
    return 2 * equation.outvars[0].aval.size * math.prod(equation.invars[0].aval.shape[axis] for axis in summed)


def _of_branches(equation: JaxprEqn, needed: list[bool]) -> tuple[int, list[bool]]:
    """Where platforms have branches, those of the platforms without one (XLA's convolution); else those of the costliest."""
    branches, platforms = equation.params["branches"], equation.params.get("branches_platforms") or ()
    if None in platforms:
        branches = [branches[platforms.index(None)]]
    counts, used = zip(*(_count(branch.jaxpr, needed) for branch in branches))
    return max(counts), [True, *map(any, zip(*used))]


def _of_loop(equation: JaxprEqn, needed: list[bool]) -> tuple[int, list[bool]]:
    body = equation.params["jaxpr"].jaxpr
    # Arguments are constants, then what is carried, then what is sliced; results are what is carried, then what is stacked.
    carried, whole = (_same_shapes(*ends) for ends in ((equation.outvars, body.outvars), (equation.invars, body.invars)))
    while True:
        count, used = _count(body, needed)
        by_the_next = used[whole - carried : whole] + needed[carried:]
        if not any(later and not now for later, now in zip(by_the_next, needed)):
            return equation.params["length"] * count, used
        needed = [later or now for later, now in zip(by_the_next, needed)]


def _same_shapes(outside: Sequence, inside: Sequence) -> int:
    return sum(a.aval.shape == b.aval.shape for a, b in zip(outside, inside))
