"""Blocks that configs of image autoencoders share, and whoever uses one."""

from ml_collections import ConfigDict

from configs import common

# How label maps are painted for SemFlow, by data set. Anchors far apart, for a
# small autoencoder blurs: 2 levels of 3 channels are 8 colours, enough for 7
# classes beside white, which is void; 3 levels are 27, for CamVid's 11.
SHAPES_PAINT = {
  'anchors': {'levels': 2, 'spacing': 250},
  'perturbation': 75.0,  # of at most 125: images of one mask differ by it
}
CAMVID_PAINT = {'anchors': {'levels': 3, 'spacing': 120}, 'perturbation': 29.0}


def camvid(gpu: bool = False) -> ConfigDict:
  """CamVid at one size for images and masks: crops, enlarged up to twice."""
  size = (192, 256) if gpu else (96, 128)
  return common.camvid(
    image_size=size,
    mask_size=size,
    batch_size=32 if gpu else 8,
    num_threads=8 if gpu else 2,
  )


def small() -> dict:
  """Latents of a quarter of the side, 4 channels: two cores, minutes."""
  return {
    'block_out_channels': (8, 16, 32),
    'layers_per_block': 1,
    'latent_channels': 4,
    'groups': 4,
  }


def painting() -> dict:
  """For SemFlow, twice as wide, 16 channels of latents.

  Through 4 of them a flow tells classes apart far later.
  """
  return {
    'block_out_channels': (16, 32, 64),
    'layers_per_block': 1,
    'latent_channels': 16,
    'groups': 4,
  }


def wide(latent_channels: int) -> dict:
  """For one GPU."""
  return {
    'block_out_channels': (64, 128, 256),
    'layers_per_block': 2,
    'latent_channels': latent_channels,
    'groups': 32,
  }


def tiny() -> dict:
  """For tests."""
  return {'block_out_channels': (8, 8, 8), 'latent_channels': 4, 'groups': 4}


def model(network: dict, **changes) -> ConfigDict:
  """An autoencoder that is trained by L1 and a little KL."""
  return ConfigDict(
    {
      'name': 'image_autoencoder',
      'network': network,
      'loss': 'l1',
      'kl_weight': 1e-6,
      'lpips_weight': 0.0,
      'dtype': 'float32',
      **changes,
    }
  )


def adamw(gpu: bool = False) -> ConfigDict:
  """For two cores, or one GPU."""
  return common.adamw(
    4e-4 if gpu else 2e-3,
    warmup_steps=50,
    ema_decay=0.998 if gpu else 0.99,
    weight_decay=0.01,
  )


def smoke(config: ConfigDict) -> ConfigDict:
  """Any of these configs in seconds: a check, not a result."""
  config.model.network.update(tiny())
  common.shorten(config)
  return config
