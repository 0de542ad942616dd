"""Blocks that Pix2Seq-D's configs share: the method, networks, smoke."""

from ml_collections import ConfigDict

from configs import common


def model(
  networks: dict,
  *,
  class_bits: int,
  instance_bits: int,
  scale: float,
  **changes,
) -> ConfigDict:
  """Pix2Seq-D with the paper's numbers; `scale` grows as masks shrink."""
  return ConfigDict(
    {
      'name': 'pix2seq_d',
      **networks,
      'schedule': ('cosine', {}),
      'class_bits': class_bits,
      'instance_bits': instance_bits,
      'bits_kind': 'binary',
      'scale': scale,
      'conditional': 'cat+attn',
      'loss_kind': 'softmax',
      'loss_weight': 0.2,
      'mask_impossible': False,
      'self_condition_rate': 0.0,
      'dtype': 'float32',
      'remat': False,
      **changes,
    }
  )


def released_nets() -> dict:
  """The paper's networks: 94,492,480 trainable parameters."""
  return {
    'encoder': {
      'width_multiplier': 1.0,
      'blocks': (3, 4, 6),
      'dim': 512,
      'num_layers': 12,
      'num_heads': 16,
      'mlp_dim': 2048,
      'dropout': 0.1,
      'drop_path': 0.1,
    },
    'merge': {'out_dim': 256},
    'denoiser': {
      'dim': 128,
      'multipliers': (1, 1, 2, 2),
      'num_res_blocks': (1, 1, 1, 1),
      'transformer_dim': 512,
      'transformer_blocks': 6,
      'head_dim': 64,
      'time_scaling': 1000.0,
    },
  }


def small_nets() -> dict:
  """For two cores."""
  return {
    'encoder': {
      'width_multiplier': 0.25,
      'blocks': (1, 1, 1),
      'dim': 128,
      'num_layers': 2,
      'num_heads': 4,
      'mlp_dim': 256,
      'dropout': 0.0,
      'drop_path': 0.0,
    },
    'merge': {'out_dim': 64},
    'denoiser': {
      'dim': 32,
      'multipliers': (1, 2, 2),
      'num_res_blocks': (1, 1, 1),
      'transformer_dim': 128,
      'transformer_blocks': 2,
      'head_dim': 32,
      'time_scaling': 1000.0,
    },
  }


def tiny_nets() -> dict:
  """For tests."""
  return {
    'encoder': {
      'width_multiplier': 0.125,
      'blocks': (1, 1, 1),
      'dim': 32,
      'num_layers': 1,
      'num_heads': 2,
      'mlp_dim': 64,
      'dropout': 0.1,
      'drop_path': 0.1,
    },
    'merge': {'out_dim': 16},
    'denoiser': {
      'dim': 16,
      'multipliers': (1, 2),
      'num_res_blocks': (1, 1),
      'transformer_dim': 32,
      'transformer_blocks': 1,
      'head_dim': 16,
      'time_scaling': 1000.0,
    },
  }


def smoke(config: ConfigDict) -> ConfigDict:
  """Any of these configs in seconds: a check, not a result."""
  config.data.update(
    {
      'image_size': (64, 64),
      'mask_size': (32, 32),
      'batch_size': 8,
      'num_threads': 2,
    }
  )
  config.model.update({**tiny_nets(), 'dtype': 'float32', 'remat': False})
  config.sample.steps = 3
  common.shorten(config)
  return config
