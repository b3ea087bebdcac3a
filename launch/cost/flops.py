"""Counts floating-point operations in a program's trace: two for each multiplication of a convolution or a matrix product.

Nothing else counts, and nothing is run, compiled or allocated. The count is that of the equations, whatever algorithm computes
them: Winograd's convolution needs fewer operations, and rematerialization needs more. Multiplications by the padding count as
if it were image. Multiplications by the zeros between the pixels of a transposed convolution do not count.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var, jaxprs_in_params

from crn_jax.generator import Generator, init_params, num_channels
from crn_jax.train import Trainable, abstract_batch_of


def forward_flops(config: Generator, batch_size: int = 1) -> int:
    """Returns the operations of synthesizing images from a batch of layouts."""
    config = _exact(config)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    layout = jax.ShapeDtypeStruct((batch_size, *config.size, num_channels(config)), jnp.float32)
    return operations(lambda params, layout: config.network().apply({"params": params}, layout), params, layout)


def step_flops(objective: Trainable, batch_size: int = 1) -> int:
    """Returns the operations of a training step, forward and backward, with nothing computed twice.

    A layer's backward pass costs about its forward pass for each gradient that is needed. These are the gradient with respect
    to its kernel, if that is trained, and the one with respect to its input, unless that is the layout or a photograph.
    """
    static: Any = objective  # it is a dataclass, which a protocol cannot say
    fields = {field.name: getattr(static, field.name) for field in dataclasses.fields(static)}
    exact: dict[str, Any] = {name: _exact(config) for name, config in fields.items() if hasattr(config, "dtype")}
    if "remat" in fields:
        exact["remat"] = "none"
    objective = dataclasses.replace(static, **exact)
    batch = abstract_batch_of(objective, batch_size)
    params, lambdas = _params(objective), jax.eval_shape(objective.init_lambdas)
    trained = {part: params[part] for part in jax.eval_shape(objective.optimizer.init, params)}
    step, frozen = jax.ShapeDtypeStruct((), jnp.int32), objective.abstract_frozen()

    def loss_of(trained: dict, params: dict, *rest: Any) -> tuple[jax.Array, dict]:
        return objective.loss_of({**params, **trained}, *rest)

    return operations(jax.value_and_grad(loss_of, has_aux=True), trained, params, lambdas, frozen, batch, step)


def _exact(config: Any) -> Any:
    """Returns a network's config in float32, because convolutions in bfloat16 pad their channels."""
    return dataclasses.replace(config, dtype="float32")


def _params(objective: Trainable) -> dict:
    return jax.eval_shape(lambda: objective.init_params(jax.random.key(0)))


def operations(function: Callable, *arguments: Any) -> int:
    """Returns the operations of a function of arrays, or of trees of arrays, of which only shapes and dtypes matter.

    Raises:
      ValueError: if there are multiplications in a loop whose length depends on the data.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.outvars))[0]


def _count(jaxpr: Jaxpr, needed: Sequence[bool]) -> tuple[int, list[bool]]:
    """Returns the operations that the needed results take, and which arguments those results depend on.

    It goes backwards and leaves out what no needed result depends on, as compilers do. This matters because a custom
    derivative's rule computes the gradients with respect to all of its arguments, also the layout or VGG-19's kernels.
    """
    alive = {result for result, is_needed in zip(jaxpr.outvars, needed) if is_needed and isinstance(result, Var)}
    total = 0
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
        return _count(inside[0], needed)  # a call of any kind
    if any(_count(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inside):
        raise ValueError(f"How often '{equation.primitive.name}' does the multiplications in it is not known before it runs.")
    return 0, everything


def _of_convolution(equation: JaxprEqn) -> int:
    kernel, result = _shape(equation.invars[1]), _shape(equation.outvars[0])
    taps = math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]  # for one number of the result
    return 2 * math.prod(result) * taps // math.prod(equation.params["lhs_dilation"])


def _of_product(equation: JaxprEqn) -> int:
    (summed, _), _ = equation.params["dimension_numbers"]
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(_shape(equation.invars[0])[axis] for axis in summed)


def _of_branches(equation: JaxprEqn, needed: list[bool]) -> tuple[int, list[bool]]:
    """Counts the costliest branch. If platforms have branches of their own, it counts the branch of all other platforms.

    That branch is XLA's convolution.
    """
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
    return sum(_shape(a) == _shape(b) for a, b in zip(outside, inside))


def _shape(value: Any) -> tuple[int, ...]:
    """Returns the shape of a variable or literal of a trace."""
    return value.aval.shape
