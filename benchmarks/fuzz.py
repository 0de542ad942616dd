"""Nothing that a user can write ends in a foreign traceback or a hang.

  python -m benchmarks.fuzz --overrides 2000 --files 2000

Overrides: values of all kinds at one to three keys of a shipped config. Each
config is validated; those that pass are built as far as tracing (every
`--build-every`-th). Files: a small data set in COCO panoptic layout whose JSON,
PNGs and images are mutated, read through the reader, example by example, and
by `validate`. An error must be a ValueError raised by a line of pix2seqd_jax.
"""

import argparse
import collections
import importlib
import json
import math
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback

import numpy as np
from PIL import Image

from pix2seqd_jax.data import validate as validate_data
from pix2seqd_jax.data.formats import faults
from pix2seqd_jax.data.readers import coco_panoptic
from pix2seqd_jax.experiment import build, schema, validate

RECIPES = (
  ('pix2seq_d_shapes', 'smoke'),
  ('pix2seq_d_nuclei', 'smoke'),
  ('pix2seq_d_coco', 'highres'),
  ('pix2seq_d_cityscapes', ''),
)
NUMBERS = (0, -1, 1, 2, 3, 7, 64, 255, 10**9, 10**30, -0.5, 0.1, 0.999)
VALUES = (
  *NUMBERS,
  *(1e308, 1e-30, math.nan, math.inf, -math.inf, True, False, None),
  *('', 'x', 'adamw', 'cat', '../../etc', 'none', 'float16', '\0'),
  *((), (0,), (1, 2, 3), (64, 64), (63, 65), (0, 0), (-8, 8), (10**6, 10**6)),
  *(('x', {}), (('pad', {}),), (('x', 3),), (('data', -1), ('fsdp', 1))),
  *({}, {'x': 1}, {'steps': 'a'}, [1, [2]], 2 + 3j),
)
JSON_VALUES = (
  *(None, True, -1, 0, 2**40, 1.5, 1e400, '', 'x', '../x', '/etc'),
  *([], {}, [1]),
)
HANG_SECONDS = 30
BUDGET_SECONDS = 300
# How `validate` shows an error that it did not foresee.
FOREIGN = re.compile(r'[A-Z]\w*(Error|Exception|Warning): ')
PACKAGE = str(pathlib.Path(build.__file__).parent)


class Hang(Exception):
  """An attempt took too long."""


def _alarm(*_):
  raise Hang


def attempt(function):
  """None, 'own' (a ValueError of ours), or a description of what is not."""
  signal.alarm(HANG_SECONDS)
  try:
    function()
  except Hang:
    return f'no end within {HANG_SECONDS} s'
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    ours = frames[-1].filename.startswith(PACKAGE)
    if isinstance(error, faults.DataError) or (
      isinstance(error, ValueError) and ours
    ):
      return 'own'
    last = frames[-1]
    return f'{type(error).__name__}: {error} at {last.filename}:{last.lineno}'
  finally:
    signal.alarm(0)
  return None


def leaves(config, prefix=()):
  """The paths of all values of a plain config, inner dicts included."""
  for key, value in config.items():
    yield (*prefix, key)
    if isinstance(value, dict):
      yield from leaves(value, (*prefix, key))


def near(old, rng):
  """Another value of the same kind."""
  if isinstance(old, bool):
    return not old
  if isinstance(old, int | float):
    close = (old * 2, -old, old + 1, old // 2)
    return rng.choice((*close, *NUMBERS))
  if isinstance(old, tuple) and old:
    changed = list(old)
    i = rng.randrange(len(changed))
    changed[i] = near(changed[i], rng)
    return tuple(rng.choice((changed, changed[:-1], changed * 2)))
  if isinstance(old, str):
    return rng.choice((old + 'x', old[1:], '', 'cosine', 'bfloat16', 'area'))
  return old


def mutated(config, rng):
  """(a config with one to three other values, what was changed)."""
  config = schema.plain(config)
  changes = {}
  for _ in range(rng.choice((1, 1, 2, 3))):
    path = rng.choice(list(leaves(config)))
    parent = config
    for key in path[:-1]:
      parent = parent[key]
    old, kind = parent[path[-1]], rng.random()
    if kind < 0.05:
      del parent[path[-1]]
      value = '(deleted)'
    elif kind < 0.1:
      value = parent[path[-1] + 'x'] = rng.choice(VALUES)
    elif kind < 0.7:
      value = parent[path[-1]] = near(old, rng)
    else:
      value = parent[path[-1]] = rng.choice(VALUES)
    changes['.'.join(path)] = value
  return config, changes


def fuzz_overrides(num, build_every, rng):
  """-> (counts, failures, the slowest validation of a good config, ms)."""
  recipes = [
    importlib.import_module(f'configs.{name}').get_config(variant)
    for name, variant in RECIPES
  ]
  slowest = 0.0
  for config in recipes:
    times = []
    for _ in range(5):
      start = time.thread_time()
      validate.validate(config)
      times.append(1e3 * (time.thread_time() - start))
    slowest = max(slowest, min(times))
  counts, failures = collections.Counter(), []
  for _ in range(num):
    config, changes = mutated(rng.choice(recipes), rng)
    found = attempt(lambda c=config: validate.validate(c))
    counts['refused' if found == 'own' else 'accepted'] += 1
    if found is None and counts['accepted'] % build_every == 0:
      counts['built'] += 1
      found = attempt(lambda c=config: traced(c))
      counts['refused when built'] += found == 'own'
    if found not in (None, 'own'):
      failures.append((changes, found))
  return counts, failures, slowest


def traced(config):
  """Builds all that a run needs before it compiles, without a data set."""
  experiment = build.Experiment(config)
  if config['data']['name'] == 'shapes':
    return experiment.check()
  validate.validate(config)
  experiment.check_networks()
  return None


# Files.


def make_data(folder, num=3):
  """A good data set of `num` small images."""
  for name in ('images', 'panoptic'):
    (folder / name).mkdir(parents=True)
  rng = np.random.default_rng(0)
  images, annotations = [], []
  for i in range(num):
    image = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / 'images' / f'{i}.jpg')
    ids = np.zeros((24, 32, 3), np.uint8)
    ids[4:12, 4:20, 0], ids[12:, :, 1] = 7, 1
    Image.fromarray(ids).save(folder / 'panoptic' / f'{i}.png')
    images.append({'id': i, 'file_name': f'{i}.jpg', 'width': 32, 'height': 24})
    segments = [
      {'id': 7, 'category_id': 1, 'iscrowd': 0, 'area': 128},
      {'id': 256, 'category_id': 5, 'iscrowd': 0, 'area': 384},
    ]
    annotations.append(
      {'image_id': i, 'file_name': f'{i}.png', 'segments_info': segments}
    )
  categories = [
    {'id': 1, 'name': 'thing', 'isthing': 1},
    {'id': 5, 'name': 'stuff', 'isthing': 0},
  ]
  everything = {
    'images': images,
    'annotations': annotations,
    'categories': categories,
  }
  (folder / 'a.json').write_text(json.dumps(everything))


def mutate_json(value, rng, depth=0):
  """Another value somewhere in a JSON tree."""
  inside = isinstance(value, dict | list) and len(value) > 0
  if not inside or (depth and rng.random() < 0.25):
    return rng.choice(JSON_VALUES)
  keys = value if isinstance(value, dict) else range(len(value))
  key = rng.choice(list(keys))
  copy = dict(value) if isinstance(value, dict) else list(value)
  if rng.random() < 0.15:
    del copy[key]
  else:
    copy[key] = mutate_json(value[key], rng, depth + 1)
  return copy


def mutate_bytes(data, rng):
  """Flipped, cut, repeated or emptied."""
  kind, data = rng.random(), bytearray(data)
  if kind < 0.6:
    for _ in range(rng.choice((1, 1, 4, 30))):
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  elif kind < 0.8:
    del data[rng.randrange(len(data)) :]
  elif kind < 0.95:
    i = rng.randrange(len(data))
    data[i:i] = data[: rng.randrange(1, 200)]
  else:
    data = b''
  return bytes(data)


def mutate_file(folder, rng):
  """Changes one file of the data set; what was done."""
  if rng.random() < 0.4:
    path = folder / 'a.json'
    tree = json.loads(path.read_text())
    if rng.random() < 0.8:
      for _ in range(rng.choice((1, 1, 2))):
        tree = mutate_json(tree, rng)
      path.write_text(json.dumps(tree))
      return f'JSON: {str(tree)[:200]}'
  path = rng.choice(sorted(p for p in folder.rglob('*') if p.is_file()))
  path.write_bytes(mutate_bytes(path.read_bytes(), rng))
  return f'bytes of {path.name}'


def fuzz_files(num, rng):
  """-> (counts, failures)."""
  counts, failures = collections.Counter(), []
  with tempfile.TemporaryDirectory() as scratch:
    good, bad = pathlib.Path(scratch) / 'good', pathlib.Path(scratch) / 'bad'
    make_data(good)
    for _ in range(num):
      shutil.rmtree(bad, ignore_errors=True)
      shutil.copytree(good, bad)
      change = mutate_file(bad, rng)
      read = attempt(lambda: read_all(bad))
      told = attempt(lambda: fault_listed(bad, counts))
      counts['refused' if read else 'read'] += 1
      for found in (read, told):
        if found not in (None, 'own'):
          failures.append((change, found))
      if read and not told:
        failures.append((change, 'the reader refuses what validate passes'))
  return counts, failures


def source_args(folder):
  """What the reader is called with."""
  names = {'images': 'images', 'panoptic': 'panoptic', 'annotations': 'a.json'}
  return {key: str(folder / name) for key, name in names.items()}


def read_all(folder):
  """Reads every example; an error of ours where one is refused."""
  source = coco_panoptic.CocoPanoptic(**source_args(folder))
  first = None
  for i in range(len(source)):
    try:
      source[i]
    except ValueError as error:
      first = first or error
  if first is not None:
    raise first


def fault_listed(folder, counts):
  """Raises the first of the faults that `validate` lists."""
  result = validate_data.validate(
    coco_panoptic.CocoPanoptic, source_args(folder), num_threads=1
  )
  for fault in result.faults:
    counts[fault.rule] += 1
    if FOREIGN.match(fault.message):
      raise RuntimeError(fault.message)
  if result.faults:
    raise faults.DataError(result.faults[0])


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--overrides', type=int, default=2000)
  parser.add_argument('--files', type=int, default=2000)
  parser.add_argument('--build-every', type=int, default=40)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  signal.signal(signal.SIGALRM, _alarm)
  rng = random.Random(args.seed)
  start = time.perf_counter()
  counts, failures, slowest = fuzz_overrides(
    args.overrides, args.build_every, rng
  )
  seconds = time.perf_counter() - start
  print(f'{args.overrides} overrides in {seconds:.0f} s: {dict(counts)}')
  print(f'the slowest good config is validated in {slowest:.1f} ms')
  start = time.perf_counter()
  counts, more = fuzz_files(args.files, rng)
  total = time.perf_counter() - start
  print(f'{args.files} mutated data sets in {total:.0f} s: {dict(counts)}')
  for change, found in failures + more:
    print(f'FOREIGN: {found}\n  after {change}')
  good = not failures + more
  good &= slowest < 50 and seconds < BUDGET_SECONDS
  print('passed' if good else 'FAILED')
  return 0 if good else 1


if __name__ == '__main__':
  sys.exit(main())
