"""Fresh models of PyTorch, and the way between them and ours.

Weights are drawn anew, all of them: what a constructor leaves at 0 or 1 would
hide a norm that is swapped or a bias that is lost.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import parity
import torch
from safetensors.torch import load_file

from pix2seqd_jax.pretrained import part, save

SEEDS = tuple(range(10))
torch.set_num_threads(1)  # tiny networks, and a process a core
OURS = 10  # where the weights are ours
GRADIENT = 1e-4
FLOAT64 = 2e-6
KINDS = ('float32', 'float64')
# Tiny networks, a few runs of each: compiling is all that takes time.
_QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
_TABLES = ('token_embedding.weight', 'position_embedding.weight')


def redraw(model: torch.nn.Module, seed: int) -> torch.nn.Module:
  """The model with other weights: none is nearly 0, norms are near 1."""
  rng = np.random.default_rng(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      z = rng.normal(size=tuple(value.shape))
      is_weight = name.endswith('weight')
      if value.ndim > 1:
        # Rows of a table are looked up one at a time, those of a matrix added.
        is_table = name.endswith(_TABLES)
        z /= 1 if is_table else math.sqrt(value[0].numel())
      else:
        z = 1 + 0.1 * z if is_weight else 0.1 * z
      value.copy_(torch.as_tensor(z))
  return model.eval()


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
  """{name: shape} of a state dict."""
  return {name: tuple(v.shape) for name, v in model.state_dict().items()}


def sizes(found: dict[str, tuple[int, ...]]) -> dict[str, jax.ShapeDtypeStruct]:
  """What `part.plan` reads of weights that are nowhere."""
  return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in found.items()}


def table(one: part.Part, module: Any) -> dict[str, tuple[int, ...]]:
  """{canonical name: their shape} of a module of ours."""
  return {entry.name: entry.shape for entry in part.entries(one, module)}


def channels_last(x: np.ndarray) -> np.ndarray:
  """[b, c, h, w] -> [b, h, w, c]; anything else as it is."""
  return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


class Run(NamedTuple):
  """Outputs of a network and the gradients of their weighted sum."""

  outputs: tuple[np.ndarray, ...]
  gradients: tuple[np.ndarray, ...]


def run_theirs(
  function: Callable[..., Sequence[torch.Tensor]],
  inputs: Sequence[np.ndarray],
  kind: str,
) -> Run:
  """`function` of the inputs, of their type; maps [b, c, h, w]."""
  dtype = getattr(torch, kind)
  leaves = [torch.from_numpy(x).to(dtype).requires_grad_() for x in inputs]
  outputs = function(*leaves)
  total = sum((y * torch.from_numpy(_weights(y.shape))).sum() for y in outputs)
  gradients = torch.autograd.grad(total.to(dtype), leaves)
  return Run(
    *(
      tuple(channels_last(x.detach().numpy()) for x in some)
      for some in (outputs, gradients)
    )
  )


def run_ours(
  function: Callable[..., Sequence[jax.Array]],
  variables: Any,
  inputs: Sequence[np.ndarray],
  kind: str,
) -> Run:
  """As `run_theirs`, compiled once for a function; maps [b, h, w, c]."""
  with jax.enable_x64(kind == 'float64'):
    variables, inputs = jax.tree.map(
      lambda x: jnp.asarray(x, kind),
      (variables, [channels_last(x) for x in inputs]),
    )
    outputs, gradients = _compiled(function)(variables, *inputs)
    return Run(
      tuple(map(np.asarray, outputs)), tuple(map(np.asarray, gradients))
    )


@functools.cache
def _compiled(function):
  def total(inputs, variables):
    outputs = function(variables, *inputs)
    weights = (_weights(_theirs_shape(y.shape)) for y in outputs)
    terms = [jnp.sum(y * channels_last(w)) for y, w in zip(outputs, weights)]
    return sum(terms), outputs

  def both(variables, *inputs):
    gradients, outputs = jax.grad(total, has_aux=True)(inputs, variables)
    return outputs, gradients

  return jax.jit(both, compiler_options=_QUICK)


def _theirs_shape(shape):
  return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else shape


def _weights(shape) -> np.ndarray:
  rng = np.random.default_rng(1)
  return np.float32(rng.normal(size=tuple(shape)))


def same(
  name: str,
  seed: int,
  ours: Callable[[str], Callable[..., Sequence[jax.Array]]],
  variables: Any,
  model: torch.nn.Module,
  theirs: Callable[..., Sequence[torch.Tensor]],
  inputs: Sequence[np.ndarray],
  bound: float,
) -> None:
  """Outputs and gradients in both precisions.

  Args:
    name: in the table of parity.
    seed: likewise.
    ours: its argument is the type of the computation; returns the same
      function each time, of variables and inputs.
    variables: ours.
    model: theirs.
    theirs: (model, *inputs) -> outputs.
    inputs: maps [b, c, h, w].
    bound: of outputs in float32; 2e-6 in float64, gradients 1e-4.
  """
  for kind in KINDS:
    model.to(getattr(torch, kind))
    a = run_ours(ours(kind), variables, inputs, kind)
    b = run_theirs(functools.partial(theirs, model), inputs, kind)
    limit = FLOAT64 if kind == 'float64' else bound
    for what, bound_, ys, zs in (
      ('output', limit, a.outputs, b.outputs),
      ('gradient', GRADIENT, a.gradients, b.gradients),
    ):
      for i, (y, z) in enumerate(zip(ys, zs, strict=True)):
        assert y.dtype == z.dtype == kind
        assert np.abs(z).max() > 1e-6  # nothing is compared with nothing
        key = f'{kind} {what} {i} seed {seed}'
        parity.check(f'pytorch/{name}', key, y, z, bound_)
  model.float()


def draw(one: part.Part, module: Any, seed: int = 0) -> Any:
  """Variables of a module of ours, drawn as `redraw` does."""
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    z = rng.normal(size=shape.shape)
    name = path[-1].key
    if name == 'kernel':
      z *= math.sqrt(shape.shape[-1] / np.prod(shape.shape))
    elif name == 'scale':
      z = 1 + 0.1 * z
    elif name == 'bias':
      z *= 0.1
    return np.float32(z)

  return jax.tree_util.tree_map_with_path(leaf, one.shapes(module))


def export(
  one: part.Part, module: Any, variables: Any, folder: Any
) -> dict[str, torch.Tensor]:
  """Ours as a state dict of theirs, by way of a file."""
  return load_file(save.save(one, module, variables, folder))
