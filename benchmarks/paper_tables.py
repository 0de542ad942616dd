"""The tables of the Pix2Seq-D paper as data, https://arxiv.org/abs/2210.06366.

PQ in percent on COCO val 2017. The ablations are at 512 x 512 images and
256 x 256 masks, 100 epochs; the final numbers at 1024 and 512.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
  """One variant: its name, what it changes in a config, the paper's PQ."""

  label: str
  overrides: Mapping[str, Any]
  paper_pq: float | None


class Table(NamedTuple):
  """A table of the paper whose rows are trained apart."""

  title: str
  column: str
  rows: tuple[Row, ...]
  config: str = 'configs/pix2seq_d_shapes.py'  # unless another is asked for


def _rows(key: str, values: Mapping[Any, float | None]) -> tuple[Row, ...]:
  return tuple(Row(str(v), {key: v}, pq) for v, pq in values.items())


TRAINED = {
  'input_scaling': Table(
    'Input scaling b',
    'b',
    _rows('model.scale', {0.03: 40.8, 0.1: 43.9, 0.3: 38.7, 1.0: 21.3}),
  ),
  'loss': Table(
    'Loss',
    'loss',
    (
      Row('L2', {'model.loss_kind': 'x0'}, 41.9),
      Row('softmax cross-entropy', {'model.loss_kind': 'softmax'}, 43.9),
    ),
  ),
  'loss_weight': Table(
    'Loss weight (1 / area)^p',
    'p',
    _rows('model.loss_weight', {0.0: 40.4, 0.2: 43.9, 0.4: 43.7, 0.6: 41.3}),
  ),
  # The paper has binary codes and random ids, and no numbers for the others.
  'codes': Table(
    'Codes',
    'code',
    _rows('model.bits_kind', dict.fromkeys(('binary', 'gray', 'random'))),
  ),
  'id_order': Table(
    'Order of ids',
    'id_order',
    _rows(
      'data.id_order',
      dict.fromkeys(('random', 'raster', 'area', 'timestep_spacing')),
    ),
  ),
}


class Final(NamedTuple):
  """The paper's PQ at a number of steps: all, things, stuff."""

  pq: float
  things: float
  stuff: float


# td = 2, segments below 80 pixels dropped.
FINAL = {
  5: Final(47.5, 52.2, 40.3),
  10: Final(49.4, 54.4, 41.9),
  20: Final(50.3, 55.3, 42.9),
  50: Final(50.2, 55.1, 42.8),
}
FINAL_TD = 2.0
