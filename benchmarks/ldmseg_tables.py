"""The tables of the LDMSeg paper as data, https://arxiv.org/abs/2401.10227.

Class-agnostic PQ in percent on COCO val 2017. The paper's numbers of the first
table are known from a summary only (the sheet, 1.5); what is not known is left
open. Each is for one config, that of generated scenes by default.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.paper_tables import Row, Table

STAGE_1 = 'configs/ldmseg_autoencoder_shapes.py'
STAGE_2 = 'configs/ldmseg_shapes.py:paper'

# Stable Diffusion's autoencoder at the sizes of STAGE_1.
_SD_VAE = {
  'block_out_channels': (16, 32, 64),
  'layers_per_block': 2,
  'latent_channels': 4,
  'groups': 16,
}


def _table(
  title: str, column: str, key: str, values: Mapping[Any, float | None]
) -> Table:
  rows = tuple(Row(str(v), {key: v}, pq) for v, pq in values.items())
  return Table(title, column, rows, STAGE_1)


TRAINED = {
  'ldmseg_encodings': _table(
    'LDMSeg: encodings of ids',
    'mask_encoding',
    'model.mask_encoding',
    {'bits': 89.9, 'rgb': 89.1, 'positional': 88.2, 'one_hot': None},
  ),
  'ldmseg_kl': _table(
    'LDMSeg: weight of the divergence',
    'kl_weight',
    'model.kl_weight',
    dict.fromkeys((0.0, 1e-6, 1e-5, 1e-4, 1e-3)),
  ),
  'ldmseg_upscalers': _table(
    'LDMSeg: upscalers of the decoder',
    'num_upscalers',
    'model.network.num_upscalers',
    dict.fromkeys((1, 2)),
  ),
  'ldmseg_kind': Table(
    'LDMSeg: kind of autoencoder',
    'kind',
    (
      Row('shallow', {'model.kind': 'shallow'}, 50.8),
      Row('sd_vae', {'model.kind': 'sd_vae', 'model.network': _SD_VAE}, 50.9),
    ),
    STAGE_1,
  ),
  'ldmseg_loss': Table(
    'LDMSeg: weight of times in the loss',
    'loss_weight',
    (
      Row('ramp', {'model.loss_weight': ('ramp', {})}, None),
      Row('max_snr 2', {'model.loss_weight': ('max_clamp_snr', {})}, None),
      Row('none', {'model.loss_weight': ('none', {})}, None),
    ),
    STAGE_2,
  ),
}
