"""Blocks that several configs share. A config itself holds final values."""

from ml_collections import ConfigDict


def variants(arg: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
  """'lowres,smoke' -> ('lowres', 'smoke'); unknown ones are refused."""
  found = tuple(v for v in (arg or '').split(',') if v)
  for variant in found:
    if variant not in known:
      raise ValueError(
        f'config argument {variant!r} is unknown; known: {", ".join(known)}.'
      )
  return found


def single_device_rules():
  """Every parameter whole on every device: plain data parallelism."""
  return ()


def fsdp_rules():
  """Kernels over 'fsdp'; heads and hidden features also over 'tensor'.

  An exact spec is an error where an axis does not divide its dimension; the
  last rule splits the largest dimension that 'fsdp' divides. Optimizer state
  and EMA follow their parameter: their paths end alike.
  """
  return (
    ('attention/(query|key|value)/kernel$', ('fsdp', 'tensor', None)),
    ('attention/(query|key|value)/bias$', ('tensor', None)),
    ('attention/out/kernel$', ('tensor', None, 'fsdp')),
    ('mlp_in/kernel$', ('fsdp', 'tensor')),
    ('mlp_out/kernel$', ('tensor', 'fsdp')),
    ('kernel$', 'fsdp'),
  )


# Weight decay as in LDMSeg's release: norms have none, biases have.
NO_NORMS = (r'^(?!.*norm)',)


def adamw(learning_rate: float, warmup_steps: int = 0, **changes) -> ConfigDict:
  """The released config's optimizer (methods sheet, section 5)."""
  return ConfigDict(
    {
      'name': 'adamw',
      'learning_rate': learning_rate,
      'schedule': 'linear',
      'warmup_steps': warmup_steps,
      'end_factor': 0.1,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.05,
      'decay_mask': 'all',
      'clip_norm': 1.0,
      'groups': (),
      'freeze': (),
      'accumulate': 1,
      'ema_decay': 0.999,
      'ema_warmup': True,
      **changes,
    }
  )


def released_nets() -> dict:
  """Pix2Seq-D's networks: 94,492,480 trainable parameters."""
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


def tiny_nets() -> dict:
  """The same networks, thin and shallow: for tests."""
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
  """Any Pix2Seq-D config, small enough for a laptop: a check, not a result."""
  config.model.update(tiny_nets())
  config.model.dtype = 'float32'
  config.model.remat = False
  config.data.update(
    {
      'image_size': (64, 64),
      'mask_size': (32, 32),
      'batch_size': 8,
      'num_threads': 2,
    }
  )
  config.sample.steps = 3
  config.optimizer.warmup_steps = 2
  config.train.update(
    {
      'steps': 6,
      'log_every': 2,
      'save_every': 3,
      'eval_every': 6,
      'num_panels': 2,
    }
  )
  config.eval.update({'batch_size': 8, 'num_examples': 12})
  return config
