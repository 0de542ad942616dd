"""Latents of all images of a data set, so that training need not make them.

  python -m pix2seqd_jax.cli.cache_latents --workdir runs/image_autoencoder \
    --config configs/ldmseg_shapes.py --output latents/shapes
  python -m pix2seqd_jax.run --config configs/ldmseg_shapes.py \
    --config.data.latents=latents/shapes --workdir runs/ldmseg --mode train

--workdir is a run of an image autoencoder, LDMSeg or SemFlow, or a folder of
converted weights; --config is the config that will read the latents, with
--config.KEY=VALUE as elsewhere. Killed, the command goes on where it was. A
folder is refused where weights, images or transforms are others; transforms
may draw nothing but a flip, for which both latents are kept.
"""

import argparse
import concurrent.futures
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax.data import latent_cache
from pix2seqd_jax.data.formats import bad_examples
from pix2seqd_jax.data.transforms import transforms
from pix2seqd_jax.experiment import build, flags
from pix2seqd_jax.models import image_autoencoder
from pix2seqd_jax.train import log, sharding
from pix2seqd_jax.train.checkpoints import weights
from pix2seqd_jax.types import Batch

# Where an LDMSeg run keeps its encoder of images.
_OURS = 'frozen/image'
_SAVE_EVERY = 16  # batches


def cache(
  workdir: str | os.PathLike,
  config: Any,
  output: str | os.PathLike,
  *,
  splits: Sequence[str] = ('train', 'eval'),
  batch_size: int = 0,
  step: int | str | None = None,
  progress: bool = True,
) -> pathlib.Path:
  """Writes the mean latents of every image, or what is missing of them.

  Args:
    workdir: whose (averaged) weights encode.
    config: the config of an LDMSeg or SemFlow; its init_from is not looked at.
    output: the folder, for data.latents.
    splits: of 'train' and 'eval'.
    batch_size: images at once; 0 is config.eval.batch_size.
    step: of the checkpoint; None is the newest.
    progress: a bar on a terminal, lines elsewhere.

  Returns:
    The folder.

  Raises:
    ValueError: the weights are none of the config's image autoencoder, a
      transform draws, or the folder has other latents.
  """
  experiment = build.Experiment(config)
  experiment.config['data']['latents'] = ''  # what it is to become
  size = batch_size or experiment.config['eval']['batch_size']
  if size < 1:
    raise ValueError(f'--batch_size={size} must be at least 1.')
  origins = {split: experiment.latent_origin(split) for split in splits}
  network = experiment.model.image_net
  image = np.zeros((1, *experiment.config['data']['image_size'], 3), np.uint8)
  expected = jax.eval_shape(network.init, jax.random.key(0), image / 255.0)
  found = encoder_weights(
    weights.load_params(workdir, step), expected['params'], str(workdir)
  )
  told = latent_cache.digest(sharding.flat_paths(found))
  encode = _encoder(network, jax.device_put(found, jax.devices()[0]))
  one = jax.eval_shape(encode, _batch([(image[0], image[0, ..., 0] > 0)]))
  for split in splits:
    count, ways = len(experiment.source(split)), origins[split]['ways']
    shape = (count, ways, *one.shape[1:])
    with latent_cache.Writer(
      output, split, shape, told, origins[split]
    ) as writer:
      _write(writer, _Reader(experiment, split), encode, size, progress)
  return pathlib.Path(output)


def encoder_weights(
  params: Mapping[str, Any], expected: Mapping[str, Any], where: str
) -> Any:
  """The part of a run's params that is an encoder of these shapes.

  Raises:
    ValueError: there is none, or there are several and none is `frozen/image`.
  """
  flat = sharding.flat_paths(params)
  shapes = {k: v.shape for k, v in sharding.flat_paths(expected).items()}
  mark = min(shapes)
  places = [
    path.removesuffix(mark)
    for path in flat
    if path == mark or path.endswith('/' + mark)
  ]
  fitting = [
    place
    for place in places
    if all(
      place + k in flat and np.shape(flat[place + k]) == s
      for k, s in shapes.items()
    )
  ]
  if len(fitting) > 1 and f'{_OURS}/' in fitting:
    fitting = [f'{_OURS}/']
  if len(fitting) != 1:
    raise ValueError(
      f'--workdir={where} has {len(fitting)} networks that fit the encoder of '
      f"the config's model.image_autoencoder ({', '.join(fitting) or 'none'}; "
      f'of another size: {", ".join(places) or "none"}); name a run of '
      'image_autoencoder with the same model.network, or of ldmseg or '
      'semflow.'
    )
  return sharding.map_paths(lambda k, _: flat[fitting[0] + k], expected)


def _encoder(network, params) -> Callable[[Batch], Any]:
  """batch -> mean latents, float32 [b, h, w, c]."""

  @jax.jit
  def encode(params, batch):
    images = image_autoencoder.signed_images(batch)
    return network.apply({'params': params}, images, method='encode').mean

  return functools.partial(encode, params)


def _batch(images) -> dict[str, np.ndarray]:
  image, valid = zip(*images, strict=True)
  return {'image': np.stack(image), 'valid': np.stack(valid)}


class _Reader:
  """row -> (image, valid) of each way, or None for a bad example."""

  def __init__(self, experiment, split):
    pairs = experiment.transform_pairs(split)
    self.source = experiment.source(split)
    self.num_threads = experiment.config['data']['num_threads']
    self._on_bad = experiment.on_bad(split)
    self._ways = [
      transforms.build_transforms(latent_cache.with_chance(pairs, chance))
      for chance in latent_cache.flip_chances(split, pairs)
    ]

  def __call__(self, row):
    try:
      example = self.source[row]
      if example['index'] != row:
        raise ValueError(f'example {row} says index={example["index"]}.')
      rng = np.random.default_rng(0)  # nothing is drawn but a sure flip
      made = [way(example, rng) for way in self._ways]
    except Exception as error:
      if self._on_bad is None or not bad_examples.is_fault(error):
        raise
      self._on_bad(row, getattr(error, 'file', ''), error)
      return None
    return [
      (m['image'], m.get('valid', np.ones(m['image'].shape[:2], bool)))
      for m in made
    ]


def _read_ahead(reader, start: int, size: int) -> Iterator[list]:
  """Lists of `size` rows, the next being read while one is used."""
  count = len(reader.source)
  with concurrent.futures.ThreadPoolExecutor(
    max(1, reader.num_threads)
  ) as pool:

    def ask(first):
      rows = range(first, min(first + size, count))
      return [pool.submit(reader, row) for row in rows]

    waiting = ask(start)
    while waiting:
      start += size
      coming = ask(start)
      yield [future.result() for future in waiting]
      waiting = coming


def _write(writer, reader, encode, size, progress) -> None:
  """All rows that the writer lacks. A bad example's, never read, are zero."""
  count, ways, *shape = writer.shape
  size = max(1, size // ways)
  bar = log.Progress(count, start=writer.done, unit='image', enabled=progress)
  with bar:
    rows = _read_ahead(reader, writer.done, size)
    for number, examples in enumerate(rows, 1):
      good = [i for i, images in enumerate(examples) if images is not None]
      made = np.zeros((len(examples), ways, *shape), np.float32)
      if good:
        flat = [image for i in good for image in examples[i]]
        short = size * ways - len(flat)  # one shape, one compilation
        latents = np.asarray(encode(_batch(flat + flat[:1] * short)))
        latents = latents[: len(flat)].reshape(-1, ways, *shape)
        _check_finite(latents, [writer.done + i for i in good])
        made[good] = latents
      writer.add(made)
      bar.update(len(examples))
      if number % _SAVE_EVERY == 0 or writer.done == count:
        writer.save()


def _check_finite(latents, rows):
  wrong = ~np.isfinite(latents).all(axis=(1, 2, 3, 4))
  if wrong.any():
    raise ValueError(
      f'latents: that of example {rows[int(wrong.argmax())]} is not finite; '
      'look at its image, and at model.dtype.'
    )


def run(argv: Sequence[str] | None = None) -> None:
  """The command, with its errors raised."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.cache_latents',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--workdir', required=True, help='whose weights encode')
  add('--config', required=True, help='of LDMSeg or SemFlow, FILE[:VARIANT]')
  add('--output', required=True, help='the folder to write, or to go on with')
  add('--split', nargs='+', default=('train', 'eval'), dest='splits')
  add('--batch_size', type=int, default=0, help="0 is the config's, of eval")
  add('--step', default='', help="of the checkpoint, or 'best'")
  args, rest = parser.parse_known_args(argv)
  given = flags.flags(rest)
  for key in given:
    if not key.startswith('config.'):
      raise ValueError(f'unknown argument --{key}; see --help.')
  unknown = sorted(set(args.splits) - {'train', 'eval'})
  if unknown:
    raise ValueError(f'--split={unknown[0]}: there are train and eval.')
  overrides = {k.removeprefix('config.'): v for k, v in given.items()}
  where = cache(
    args.workdir,
    flags.load_config(args.config, overrides),
    args.output,
    splits=args.splits,
    batch_size=args.batch_size,
    step=int(args.step) if args.step.isdigit() else args.step or None,
  )
  print(f'Wrote {where}; read it with --config.data.latents={where}')


if __name__ == '__main__':
  flags.main(run)
