"""Random access to the records of ArrayRecord and TFRecord shards.

Of a TFRecord file (what TFDS prepares by default) only the lengths are walked
through, once, when its first record is asked for; TensorFlow is not needed.
"""

import bisect
import itertools
import os
import pathlib
import struct
import threading
from typing import NamedTuple

import numpy as np

from pix2seqd_jax.data.formats.faults import refuse

FORMATS = ('array_record', 'tfrecord')
_LENGTH = struct.Struct('<Q')
_HEADER, _FOOTER = 12, 4  # a length and its check sum; that of the data
_MASK = 0xA282EAD8


class Shard(NamedTuple):
  """Records `skip` to `skip + take` of a file. (TFDS has the same names.)"""

  filename: str
  skip: int
  take: int
  examples_in_shard: int


class Records:
  """The records of several files, one after the other, as bytes.

  Any number of threads may read at once; pickles without open files.

  Args:
    shards: `Shard`s, or TFDS's FileInstructions.
    file_format: 'array_record' or 'tfrecord'.

  Raises:
    ValueError: an unknown format; a file is missing, or empty.
  """

  def __init__(self, shards, file_format='array_record'):
    self.shards = [Shard(str(s.filename), *_numbers(s)) for s in shards]
    self.file_format = file_format
    if file_format not in FORMATS:
      raise ValueError(
        f'records of the format {file_format!r} cannot be read one by one; '
        f'known: {", ".join(FORMATS)}. Prepare the data set with '
        "file_format='array_record'."
      )
    for shard in self.shards:
      check_file(shard.filename)
    self._ends = list(itertools.accumulate(s.take for s in self.shards))
    self._open()

  def _open(self):
    if self.file_format == 'tfrecord':
      self._lock, self._offsets = threading.Lock(), {}
    else:
      from array_record.python import array_record_data_source

      # Each shard is opened when its first record is read.
      self._source = array_record_data_source.ArrayRecordDataSource(self.shards)

  def __getstate__(self):
    return {'shards': self.shards, 'file_format': self.file_format}

  def __setstate__(self, state):
    self.__init__(**state)

  def __len__(self):
    return self._ends[-1] if self._ends else 0

  def name(self, index):
    """'FILE, record N' of the record, for messages."""
    shard, position = self._locate(index)
    return f'{shard.filename}, record {position}'

  def read(self, index):
    """The bytes of a record.

    Raises:
      ValueError: the file is damaged; names it and the record.
    """
    shard, position = self._locate(index)
    try:
      if self.file_format == 'tfrecord':
        return self._read_tfrecord(shard, position)
      return self._source[index]
    except (RuntimeError, OSError, ValueError, IndexError) as error:
      return refuse(
        'unreadable_record',
        shard.filename,
        f'{shard.filename}, record {position} cannot be read: '
        f'{str(error).splitlines()[0]}. The file is damaged or cut off; '
        'replace it.',
      )

  def _locate(self, index):
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    number = bisect.bisect_right(self._ends, index)
    shard = self.shards[number]
    start = self._ends[number] - shard.take
    return shard, index - start + shard.skip

  def _read_tfrecord(self, shard, position):
    with self._lock:
      if shard.filename not in self._offsets:
        offsets = tfrecord_offsets(shard.filename)
        if len(offsets) - 1 != shard.examples_in_shard:
          raise ValueError(
            f'the file has {len(offsets) - 1} records, not '
            f'{shard.examples_in_shard}'
          )
        self._offsets[shard.filename] = offsets
      start, end = self._offsets[shard.filename][position : position + 2]
    with open(shard.filename, 'rb') as file:
      file.seek(start + _HEADER)
      size = int(end - start) - _HEADER - _FOOTER
      data = file.read(size)
    if len(data) != size:
      raise ValueError('the file was cut off while it was read')
    return data


def check_file(path):
  """Raises ValueError where there is no such file, or it is empty."""
  if not pathlib.Path(path).is_file():
    refuse('missing_file', path, f'{path} does not exist or is no file.')
  if not os.path.getsize(path):
    refuse('empty_file', path, f'{path} is empty (zero bytes). Replace it.')


def tfrecord_offsets(path):
  """Where each record of a TFRecord file starts, and the last ends; int64.

  The check sums of the lengths are compared, those of the data are not.

  Raises:
    ValueError: the file is cut off or its lengths are damaged.
  """
  offsets, offset = [0], 0
  size = os.path.getsize(path)
  with open(path, 'rb', buffering=0) as file:
    while offset < size:
      file.seek(offset)
      header = file.read(_HEADER)
      if len(header) < _HEADER:
        raise ValueError(f'{path} is cut off at byte {offset}')
      if header[8:] != masked_crc(header[:8]):
        raise ValueError(f'{path} is damaged at byte {offset}')
      offset += _HEADER + _LENGTH.unpack(header[:8])[0] + _FOOTER
      offsets.append(offset)
  if offset != size:
    raise ValueError(f'{path} is cut off at byte {size}')
  return np.array(offsets, np.int64)


def masked_crc(data):
  """TFRecord's check sum, four bytes: CRC-32C, turned and shifted.

  tensorflow/core/lib/hash/crc32c.h. For short data: a byte at a time.
  """
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  crc ^= 0xFFFFFFFF
  crc = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
  return struct.pack('<I', crc)


def _numbers(shard):
  # TFDS writes take=-1 for all that follow.
  take = shard.take
  if take < 0:
    take = shard.examples_in_shard - shard.skip
  return shard.skip, take, shard.examples_in_shard
