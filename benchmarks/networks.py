"""The parts of Stable Diffusion against PyTorch: forward passes on the CPU.

  python -m benchmarks.networks --parts unet vae

Float32, batch 1, full size: the UNet on a latent of 64x64 with a context of
77x768, the autoencoder's decoder to 512x512, CLIP's text tower on 77 tokens.
Ours is compiled; theirs is eager PyTorch, of diffusers and transformers
(extra `parity`). Both run on the same cores in one process, with the same
random weights, which `pretrained` converts, so that the results can be
compared too. Both run once a round, in turns first.

The ratio is PyTorch's time over ours: more is better. Exits with 1 where the
ratio of the medians is below the bar or the results differ by more than 2e-5
of the largest value.
"""

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from benchmarks import common
from pix2seqd_jax.pretrained import part as parts

NAME = 'networks'
MOST_DIFFERENCE = 2e-5
TOKENS = 77


class Pair(NamedTuple):
  """One network twice, ready to run.

  Attributes:
    what: name and size, in words.
    ours: a function without arguments; gives NumPy, channels last.
    theirs: the same.
  """

  what: str
  ours: Callable[[], np.ndarray]
  theirs: Callable[[], np.ndarray]


def unet(**sizes) -> Pair:
  """Stable Diffusion 1.x's, or one of other sizes (diffusers' names)."""
  import diffusers

  from pix2seqd_jax.pretrained import sd_unet

  standard = {'sample_size': 64, 'cross_attention_dim': 768}
  theirs = diffusers.UNet2DConditionModel(**{**standard, **sizes}).eval()
  side, width = theirs.config.sample_size, theirs.config.cross_attention_dim
  x, context = _normal(1, side, side, 4), _normal(1, TOKENS, width)
  t = np.full(1, 501, np.float32)
  inputs = _first(x), _torch(t), _torch(context)
  return Pair(
    f'UNet, latent {side}x{side}, context {TOKENS}x{width}',
    _ours(sd_unet.PART, theirs, None, (x, t, context)),
    lambda: _last(theirs(*inputs).sample),
  )


def vae(**sizes) -> Pair:
  """The decoder of Stable Diffusion's, or of one of other sizes."""
  import diffusers

  from pix2seqd_jax.pretrained import sd_vae

  levels = 4
  standard = {
    'sample_size': 512,
    'block_out_channels': (128, 256, 512, 512),
    'down_block_types': ('DownEncoderBlock2D',) * levels,
    'up_block_types': ('UpDecoderBlock2D',) * levels,
    'layers_per_block': 2,
  }
  theirs = diffusers.AutoencoderKL(**{**standard, **sizes}).eval()
  side = theirs.config.sample_size
  z = _normal(1, side // 8, side // 8, 4)
  z_first = _first(z)
  return Pair(
    f'VAE decoder, image {side}x{side}',
    _ours(sd_vae.PART, theirs, theirs.config, (z,), method='decode'),
    lambda: _last(theirs.decode(z_first).sample),
  )


def clip(**sizes) -> Pair:
  """The text tower of ViT-L/14, or one of other sizes (transformers' names)."""
  import transformers

  from pix2seqd_jax.pretrained import clip as ours

  standard = {
    'hidden_size': 768,
    'intermediate_size': 3072,
    'num_attention_heads': 12,
    'num_hidden_layers': 12,
  }
  config = transformers.CLIPTextConfig(**{**standard, **sizes})
  theirs = transformers.CLIPTextModel(config).eval()
  rng = np.random.default_rng(0)
  ids = rng.integers(config.vocab_size, size=(1, TOKENS))
  run = _ours(ours.TEXT, theirs, config.to_dict(), (ids,))
  ids = _torch(ids)
  return Pair(
    f'CLIP text, {TOKENS} tokens',
    run,
    lambda: theirs(ids).last_hidden_state.numpy(),
  )


# What is compared, and the least ratio.
PARTS: Mapping[str, tuple[Callable[..., Pair], float]] = {
  'unet': (unet, 0.7),
  'vae': (vae, 0.9),
  'clip': (clip, 0.8),
}


def _ours(part: parts.Part, theirs: Any, config: Any, inputs, **options):
  """Our network with their weights, compiled."""
  state = theirs.state_dict()
  module, plan = parts.plan(part, state, config)
  flat = traverse_util.flatten_dict(plan.tree(state))
  for path in list(flat):  # one at a time: memory is for two copies only
    flat[path] = jnp.array(flat.pop(path))
  variables = traverse_util.unflatten_dict(flat)
  inputs = [jnp.array(value) for value in inputs]

  @jax.jit
  def run(variables, inputs):
    return module.apply(variables, *inputs, **options)

  # Of several results the first.
  return lambda: np.asarray(jax.tree.leaves(run(variables, inputs))[0])


def _normal(*shape) -> np.ndarray:
  return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _torch(x: np.ndarray) -> Any:
  import torch

  return torch.from_numpy(x)


def _first(x: np.ndarray) -> Any:
  """NumPy, channels last -> PyTorch, channels first."""
  return _torch(x).permute(0, 3, 1, 2).contiguous()


def _last(x: Any) -> np.ndarray:
  return x.permute(0, 2, 3, 1).numpy()


def measure(pair: Pair, repeats: int) -> dict[str, Any]:
  """Seconds of all rounds, and how far the results are apart."""
  ours, theirs = pair.ours(), pair.theirs()  # compiles
  difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
  seconds = {'ours': [], 'theirs': []}
  for repeat in range(repeats):
    for name in sorted(seconds, reverse=repeat % 2 == 1):
      start = time.perf_counter()
      getattr(pair, name)()
      seconds[name].append(time.perf_counter() - start)
      print(f'{name}: {seconds[name][-1]:.3f} s', file=sys.stderr)
  return {'what': pair.what, 'difference': difference, 'seconds': seconds}


def row(found: Mapping[str, Any], bar: float) -> list[Any]:
  """What a line of the table says."""
  cells, ratios = [], []
  for statistic in (min, statistics.median):
    ours, theirs = (
      statistic(found['seconds'][name]) for name in ('ours', 'theirs')
    )
    ratios.append(theirs / ours)
    cells += [f'{ours:.3f}', f'{theirs:.3f}', f'{ratios[-1]:.2f}']
  is_met = ratios[-1] >= bar and found['difference'] <= MOST_DIFFERENCE
  return [found['what'], *cells, bar, f'{found["difference"]:.1e}', is_met]


def as_table(rows: Sequence[Sequence[Any]]) -> str:
  """Markdown."""
  columns = [
    f'{statistic} {what}'
    for statistic in ('least', 'median')
    for what in ('ours, s', 'PyTorch, s', 'ratio')
  ]
  return common.table(
    ['network', *columns, 'bar', 'difference', 'passed'], rows
  )


def main(argv: Sequence[str] | None = None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__)
  parser.add_argument(
    '--parts', nargs='+', choices=tuple(PARTS), default=tuple(PARTS)
  )
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args(argv)
  import torch

  cores = len(os.sched_getaffinity(0))
  torch.set_num_threads(cores)
  torch.manual_seed(0)
  found, rows = {}, []
  for name in args.parts:
    make, bar = PARTS[name]
    with torch.no_grad():
      found[name] = measure(make(), args.repeats)
    rows.append(row(found[name], bar))
    gc.collect()  # the next network needs the package
  common.report(
    args,
    argv,
    name=NAME,
    title='Networks against PyTorch',
    about=f'float32, batch 1, {cores} threads, {args.repeats} rounds, '
    f'torch {torch.__version__}',
    parts=[as_table(rows)],
    numbers={'parts': found},
  )
  return int(not all(line[-1] for line in rows))


if __name__ == '__main__':
  sys.exit(main())
