"""Data sets as ArrayRecord shards, written by `pix2seqd_jax.cli.convert_data`.

For pods: a few large files in place of many small ones, read in any order.
A folder holds for each split its shards and SPLIT.json, which is written last:
without it the split is not there. A record is a tf.train.Example with the
fields of `panoptic_record`; the bytes of images and maps are the files'.
"""

import hashlib
import pathlib

from pix2seqd_jax.data.formats.categories import categories_from_json, read_json
from pix2seqd_jax.data.formats.faults import refuse
from pix2seqd_jax.data.formats.files import safe_join
from pix2seqd_jax.data.formats.panoptic_record import unpack
from pix2seqd_jax.data.formats.records import Records, Shard, check_file
from pix2seqd_jax.data.formats.tf_example import decode_example
from pix2seqd_jax.registry import DATASETS

FORMAT = 'pix2seqd_jax array_record'
VERSION = 1


def metadata_path(folder, split):
  """SPLIT.json, whose presence says that the split is complete."""
  return safe_join(folder, f'{split}.json', where='data.split')


def shard_name(split, number, count):
  """'train-00000-of-00016.array_record'."""
  return f'{split}-{number:05d}-of-{count:05d}.array_record'


@DATASETS.register('array_record')
class ArrayRecord:
  """Shards that `pix2seqd_jax.cli.convert_data` wrote; a `types.Source`.

  Examples equal those of the reader that was converted. Only SPLIT.json is
  read at construction; shards are opened when they are needed.

  Args:
    folder: of the shards.
    split: whose SPLIT.json is read.
    max_examples: the first so many only; None for all.
    verify: compares the digest of every shard first, which reads them all.

  Raises:
    ValueError: the conversion was not finished, SPLIT.json is damaged, a shard
      is missing or of another size; when an example is read, for a damaged
      record, naming shard and record.
  """

  def __init__(self, folder, split='train', *, max_examples=None, verify=False):
    if max_examples is not None and max_examples < 1:
      refuse(
        'bad_argument',
        'data.max_examples',
        f'data.max_examples={max_examples} must be at least 1, or None for '
        'all.',
      )
    self.folder, self.split = pathlib.Path(folder), split
    self.max_examples = max_examples
    self._where = metadata_path(folder, split)
    metadata = self._read_metadata()
    self.categories = categories_from_json(
      metadata['categories'], f'{self._where}: categories'
    )
    self.exif = metadata['exif']
    paths = [self._check_shard(entry, verify) for entry in metadata['shards']]
    self._records = Records(
      Shard(str(path), 0, entry['count'], entry['count'])
      for path, entry in zip(paths, metadata['shards'])
    )
    if not 0 < len(self._records) == metadata['count']:
      self._fail(
        f'has shards of {len(self._records)} examples but a count of '
        f'{metadata["count"]}'
      )

  def __len__(self):
    return min(len(self._records), self.max_examples or len(self._records))

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    name = self._records.name(index)
    return unpack(
      read_features(self._records, index),
      name,
      index,
      len(self.categories),
      exif=self.exif,
    )

  def file_name(self, index):
    """Where the record lies, where the example itself cannot be read."""
    return self._records.name(index)

  def original(self, index):
    """The bytes of the files of an example; see `panoptic_record.pack`."""
    features = read_features(self._records, index)
    return {
      'image': features['image'][0],
      'map': features['panoptic_image'][0],
      'map_file': features['panoptic_image/filename'][0].decode(),
    }

  def _read_metadata(self):
    if not self._where.is_file():
      found = sorted(p.stem for p in self.folder.glob('[!.]*.json'))
      refuse(
        'missing_file',
        self._where,
        f'{self._where} does not exist: data.folder or data.split is wrong, or '
        'the conversion was not finished (start it again, it goes on). '
        f'Complete splits in {self.folder}: {", ".join(found) or "none"}.',
      )
    metadata = read_json(self._where)
    if not isinstance(metadata, dict) or metadata.get('format') != FORMAT:
      self._fail(f'is not the description of a split (format {FORMAT!r})')
    if metadata.get('version') != VERSION:
      self._fail(
        f'has the version {metadata.get("version")!r}, and this program reads '
        f'version {VERSION}'
      )
    kinds = {'count': int, 'exif': bool, 'shards': list, 'categories': list}
    for key, kind in kinds.items():
      if type(metadata.get(key)) is not kind:
        self._fail(f'lacks {key!r}, or it is no {kind.__name__}')
    kinds = {'file': str, 'count': int, 'bytes': int, 'sha256': str}
    for entry in metadata['shards']:
      if not isinstance(entry, dict) or any(
        type(entry.get(key)) is not kind for key, kind in kinds.items()
      ):
        self._fail(f'has a shard without one of {", ".join(kinds)}')
      if entry['count'] < 1:
        self._fail(f'has a shard of {entry["count"]} examples')
    return metadata

  def _fail(self, what):
    refuse(
      'bad_entry', self._where, f'{self._where} {what}; convert the data again.'
    )

  def _check_shard(self, entry, verify):
    path = safe_join(self.folder, entry['file'], where=str(self._where))
    check_file(path)
    size = path.stat().st_size
    if size != entry['bytes']:
      refuse(
        'unreadable_record',
        path,
        f'{path} has {size} bytes but {self._where} says {entry["bytes"]}: it '
        'was not copied whole, or belongs to another conversion.',
      )
    if verify and file_digest(path) != entry['sha256']:
      refuse(
        'unreadable_record',
        path,
        f'{path} is damaged: its digest is not that of {self._where}.',
      )
    return path


def read_features(records, index):
  """A record as features; ValueError that names it where it is no Example."""
  data = records.read(index)
  try:
    return decode_example(data)
  except ValueError as error:
    name = records.name(index)
    return refuse(
      'bad_record', name, f'{name} is no tf.train.Example: {error}.'
    )


def file_digest(path):
  """SHA-256 of a file, as hexadecimal text."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
