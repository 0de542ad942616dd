"""A damaged data set: validate lists every fault, a `skip` run names each once.

  python -m benchmarks.faults --share 0.05

Copies the files of a config, damages --fraction of the training files in eight
ways (each in an example of its own), and asks two things. `validate` must list
exactly the damaged files, each with its rule, and nothing of the copy before
it was damaged. Training with data.on_bad_example='skip' over one epoch must
come to its end and name each damaged example once, and no other. Exits with 1
if one of the two is missed.
"""

import json
import math
import pathlib
import random
import shutil
import sys
import time
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import common
from pix2seqd_jax.data.formats import bad_examples
from pix2seqd_jax.data.formats.files import read_image, read_panoptic_png
from pix2seqd_jax.data.validate import validate
from pix2seqd_jax.encoding.panoptic_ids import id_to_rgb
from pix2seqd_jax.experiment import data, runs, schema

NAME = 'faults'


class Damage(NamedTuple):
  """What was done to a file, and what `validate` has to say of it."""

  way: str
  rule: str
  index: int  # of the example
  file: str


# Eight ways to damage a file. Each takes (path, the ids of its example).


def _remove(path, ids):
  path.unlink()


def _empty(path, ids):
  path.write_bytes(b'')


def _truncate(path, ids):
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])


def _text(path, ids):
  path.write_text('<html>404 Not Found</html>')


def _shrink(path, ids):
  image = read_image(path)
  Image.fromarray(image[:-1]).save(path, quality=90)


def _gray(path, ids):
  Image.open(path).convert('L').save(path)


def _save(path, ids):
  Image.fromarray(id_to_rgb(ids)).save(path)


def _strange_id(path, ids):
  """Half of the largest segment becomes one that the JSON does not know."""
  numbers, counts = np.unique(ids[ids > 0], return_counts=True)
  rows, columns = np.nonzero(ids == numbers[counts.argmax()])
  changed, half = ids.copy(), len(rows) // 2
  changed[rows[:half], columns[:half]] = numbers.max() + 1
  _save(path, changed)


def _lost_id(path, ids):
  """The smallest segment is painted over."""
  numbers, counts = np.unique(ids[ids > 0], return_counts=True)
  _save(path, np.where(ids == numbers[counts.argmin()], 0, ids))


# Way -> (what it does, to the image or the map, the rule that it breaks).
WAYS = {
  'missing image': (_remove, 'images', 'missing_file'),
  'empty map': (_empty, 'panoptic', 'empty_file'),
  'truncated image': (_truncate, 'images', 'unreadable_image'),
  'truncated map': (_truncate, 'panoptic', 'unreadable_map'),
  'text for an image': (_text, 'images', 'unreadable_image'),
  'image of another size': (_shrink, 'images', 'sizes_differ'),
  'map with a strange id': (_strange_id, 'panoptic', 'id_not_in_json'),
  'map without a named id': (_lost_id, 'panoptic', 'id_not_in_map'),
}


def copy_files(root: pathlib.Path, to: pathlib.Path) -> None:
  """Copies a tree; what was read-only becomes writable."""
  for path in sorted(root.rglob('*')):
    if path.is_file():
      target = to / path.relative_to(root)
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(path, target)


def keep_first(path: pathlib.Path, count: int) -> None:
  """Leaves the first so many annotations, and their images, in a JSON."""
  data = json.loads(path.read_text())
  if count:
    data['annotations'] = data['annotations'][:count]
    kept = {annotation['image_id'] for annotation in data['annotations']}
    data['images'] = [i for i in data['images'] if i['id'] in kept]
  path.write_text(json.dumps(data))


def damage(places, fraction: float, seed: int) -> list[Damage]:
  """Damages files of a data set in COCO panoptic layout.

  Args:
    places: {'images', 'panoptic', 'annotations'}.
    share: of the files (two to an example) that are damaged; at least eight.
    seed: of which, and how.
  """
  data = json.loads(pathlib.Path(places['annotations']).read_text())
  names = {image['id']: image['file_name'] for image in data['images']}
  annotations = data['annotations']
  count = max(len(WAYS), round(fraction * 2 * len(annotations)))
  chosen = random.Random(seed).sample(range(len(annotations)), count)
  done = []
  for i, index in enumerate(chosen):
    way = list(WAYS)[i % len(WAYS)]
    do, kind, rule = WAYS[way]
    annotation = annotations[index]
    files = {
      'images': names[annotation['image_id']],
      'panoptic': annotation['file_name'],
    }
    ids = read_panoptic_png(pathlib.Path(places['panoptic'], files['panoptic']))
    path = pathlib.Path(places[kind], files[kind])
    do(path, ids)
    done.append(Damage(way, rule, index, str(path)))
  return done


def compare(damaged, found) -> tuple[list, list]:
  """(what `validate` did not list, what it listed and should not have)."""
  expected = {(d.rule, d.file) for d in damaged}
  listed = {(fault.rule, fault.file) for fault in found}
  return sorted(expected - listed), sorted(listed - expected)


def train(config, damaged, folder: pathlib.Path) -> tuple[int, list, list]:
  """One epoch with 'skip': (last step, how often each was named, strange)."""
  state = runs.train(config, folder)
  rows = bad_examples.read(folder / bad_examples.FILE)
  named = [
    sum(
      row['split'] == 'train'
      and row['index'] == d.index
      and d.file in f'{row["file"]} {row["reason"]}'
      for row in rows
    )
    for d in damaged
  ]
  known = {d.index for d in damaged}
  strange = [
    row for row in rows if row['split'] != 'train' or row['index'] not in known
  ]
  return int(state.step), named, strange


def make_config(args, root: pathlib.Path):
  """The config on the copy: one epoch, nothing saved or evaluated between."""
  return common.override(
    common.load_config(args.config),
    {
      'data.root': str(root),
      'data.on_bad_example': 'skip',
      'train.log_every': 10,
      'train.save_every': 0,
      'train.eval_every': 0,
      'train.best_metric': '',
      **common.parse_overrides(args.set),
    },
  )


def _table(damaged, missed, named):
  """A row for each way; [way, rule, damaged, listed, named once]."""
  missed = set(missed)
  rows = []
  for way, (_, _, rule) in WAYS.items():
    of_way = [i for i, d in enumerate(damaged) if d.way == way]
    listed = sum((rule, damaged[i].file) not in missed for i in of_way)
    once = sum(named[i] == 1 for i in of_way)
    rows.append([way, f'`{rule}`', len(of_way), listed, once])
  return rows


def _verdict(damaged, before, missed, false, ended, named, strange):
  """(whether all is as it should be, the sentence)."""
  once = sum(number == 1 for number in named)
  wrong = before or missed or false or strange or once != len(damaged)
  ok = bool(ended and not wrong)
  return ok, (
    f'Of {len(damaged)} damaged files `validate` listed '
    f'{len(damaged) - len(missed)} (recall '
    f'{1 - len(missed) / len(damaged):.3f}) and {len(false)} others; of the '
    f'undamaged files it listed {len(before)}. The run '
    f'{"came to its end" if ended else "STOPPED"} and named {once} once, and '
    f'{len(strange)} others: {"as it should" if ok else "NOT AS IT SHOULD"}.'
  )


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__, 'configs/pix2seq_d_nuclei.py:smoke')
  parser.add_argument('--data', type=pathlib.Path, help="else the config's")
  parser.add_argument('--num', type=int, default=0, help='examples; 0: all')
  parser.add_argument('--share', type=float, default=0.05, help='of the files')
  parser.add_argument('--seed', type=int, default=0, help='of the damage')
  args = parser.parse_args(argv)
  work = args.out / 'work'
  shutil.rmtree(work, ignore_errors=True)
  config = make_config(args, work / 'data')
  copy_files(
    args.data or pathlib.Path(common.load_config(args.config).data.root),
    work / 'data',
  )
  entry, places = data.source_args(schema.plain(config)['data'], 'train')
  keep_first(pathlib.Path(places['annotations']), args.num)
  before = validate(entry, places)
  damaged = damage(places, args.fraction, args.seed)
  start = time.perf_counter()
  after = validate(entry, places)
  seconds = time.perf_counter() - start
  missed, false = compare(damaged, after.faults)
  steps = math.ceil(after.num_examples / config.data.batch_size)
  config.train.steps = steps
  last, named, strange = train(config, damaged, work / 'run')
  ok, verdict = _verdict(
    damaged, before.found, missed, false, last == steps, named, strange
  )
  verdict += f' `validate` took {seconds:.1f} s, the run {steps} steps.'
  columns = ('way', 'rule', 'damaged', 'listed', 'named once')
  common.report(
    args,
    argv,
    name=NAME,
    title='A damaged data set',
    about=f'{common.sizes(config)}, {after.num_examples} examples, '
    f'{len(damaged)} of {2 * after.num_examples} files damaged',
    parts=[common.table(columns, _table(damaged, missed, named)), verdict],
    numbers={
      'ok': ok,
      'damaged': [d._asdict() for d in damaged],
      'missed': missed,
      'false_alarms': [*false, *(list(fault) for fault in before.found)],
      'named': named,
      'strange': strange,
    },
  )
  return int(not ok)


if __name__ == '__main__':
  sys.exit(main())
