"""What is wrong in a config is said before anything is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoke import smoke_config

from configs import common
from pix2seqd_jax.experiment import build
from pix2seqd_jax.train import evaluate, sharding, state


def experiment_of(**changes):
  """The smoke config with dotted names changed ('data__name')."""
  config = smoke_config()
  with config.unlocked():
    for name, value in changes.items():
      *path, last = name.split('__')
      part = config
      for key in path:
        part = part[key]
      part[last] = value
  return build.Experiment(config)


# Each: the change, and what the error must say: key, value, rule, fix.
WRONG = {
  'a key of a section': (
    {'optimizer__learning_rat': 1.0},
    r"optimizer\.learning_rat is unknown\. Did you mean 'learning_rate'",
  ),
  'a section': ({'optimiser': {}}, "optimiser is unknown. Did you mean 'opt"),
  'a key of the model': (
    {'model__instance_bit': 4},
    r"model\.instance_bit is unknown to Pix2SeqD\. .*'instance_bits'",
  ),
  'a key of a network': (
    {'model__encoder__num_layer': 1},
    r"model\.encoder\.num_layer is unknown .*'num_layers'",
  ),
  'a key that data sets': (
    {'model__num_classes': 7},
    r'model\.num_classes is set by data\.num_classes; remove it',
  ),
  'a key of the schedule': (
    {'model__schedule': ('cosine_tau', {'stat': 0.1})},
    r"model\.schedule\.stat is unknown to CosineTau.*'start'",
  ),
  'a key of the task': (
    {'task__min_pixel': 4},
    r"task\.min_pixel is unknown .*'min_pixels'",
  ),
  'a key of the source': (
    {'data__source__noize': 0.1},
    r"data\.source or data\.eval\.noize is unknown .*'noise'",
  ),
  'a key of a transform': (
    {'data__train_transforms': (('random_flip', {'chanse': 0.5}),)},
    "no argument 'chanse'. Did you mean 'chance'",
  ),
  'a key of the sampler': (
    {'sample__sampler_args': {'variance': 'large'}},
    r'sample\.sampler_args\.variance is unknown',
  ),
  'the data set': ({'data__name': 'shape'}, "dataset.*'shape'.*'shapes'"),
  'the model': ({'model__name': 'pix2seqd'}, "model.*'pix2seqd'.*'pix2seq_d'"),
  'the files of features': (
    {'task__name': 'synthesis', 'synthesis__inception': 'none.pth'},
    r"synthesis\.inception='none\.pth'",
  ),
  'the task': ({'task__name': 'panoptics'}, "task.*'panoptics'.*'panoptic'"),
  'a transform': (
    {'data__eval_transforms': (('resize_to_fill', {}),)},
    "'resize_to_fill', which is unknown. Did you mean 'resize_to_fit'",
  ),
  'the sampler': ({'sample__sampler': 'eular'}, "'eular' is unknown.*'euler'"),
  'the timesteps': (
    {'sample__timestep_spacing': 'unifrom'},
    "'unifrom' is unknown.*'uniform'",
  ),
  'a key of the timesteps': (
    {'sample__timestep_spacing_args': {'ende': 0.1}},
    r"sample\.timestep_spacing_args\.ende is unknown to Uniform.*'end'",
  ),
  'timesteps that leaves gaps': (
    {'sample__sampler': 'dpm_multistep'},
    r'set sample\.td=0',
  ),
  'guidance without a null': (
    {'sample__guidance': 2.0},
    r'sample\.guidance=2\.0 needs .*set it to 1\.0',
  ),
  'what is returned': (
    {'sample__returns': 'x0'},
    r"sample\.returns='x0' must be one of",
  ),
  'the schedule of noise': (
    {'model__schedule': ('cosin', {})},
    r"model\.schedule='cosin' is unknown.*'cosine'",
  ),
  'the schedule of the rate': (
    {'optimizer__schedule': 'linaer'},
    r"optimizer\.schedule='linaer'",
  ),
  'the optimizer': ({'optimizer__name': 'adan'}, r"optimizer\.name='adan'"),
  'the order of ids': ({'data__id_order': 'rasta'}, "'rasta'.*'raster'"),
  'where to encode': ({'data__encode': 'gpu'}, 'host, device'),
  'the split': ({'data__eval__split': 'val'}, "'val'.*Known: train"),
  'no steps of sampling': ({'sample__steps': 0}, r'sample\.steps=0 must be'),
  'no steps of training': ({'train__steps': 0}, r'train\.steps=0 must be'),
  'a batch of none': ({'data__batch_size': 0}, r'data\.batch_size=0'),
  'fewer than no steps': (
    {'train__steps': -3},
    r'train\.steps=-3 must be an int',
  ),
  'a negative interval': ({'train__save_every': -1}, r'train\.save_every=-1'),
  'no checkpoint to keep': ({'train__keep': 0}, r'train\.keep=0 must be'),
  'a negative td': ({'sample__td': -1.0}, 'td=-1.0 must be 0 or more'),
  'ids beyond the bits': (
    {'model__instance_bits': 3},
    r'model\.instance_bits=3 can name 8 codes but data\.num_ids=16 .*'
    r'set model\.instance_bits >= 4',
  ),
  'classes beyond the bits': (
    {'model__class_bits': 2},
    r'class_bits=2 can name 4 .*num_classes=7.*set model\.class_bits >= 3',
  ),
  'bits beyond the code': ({'model__class_bits': 17}, 'must be 1 to 16'),
  'another number of classes': (
    {'data__num_classes': 6},
    r'data\.num_classes=6 but shapes has 7 classes; set',
  ),
  'one instance': ({'data__num_ids': 1}, 'counts the null id 0'),
  'a mask of another shape': (
    {'data__mask_size': (33, 33)},
    r'mask_size=\(33, 33\)',
  ),
  'an image that is not halved': (
    {'data__image_size': (60, 60)},
    'multiples of 16',
  ),
  'a mesh beyond the batch': (
    {'data__batch_size': 12},
    r'data\.batch_size=12 is not divided by the mesh',
  ),
  'a mesh beyond the evaluation': (
    {'eval__batch_size': 4},
    r'eval\.batch_size=4 is not divided by the mesh',
  ),
  'a mesh of other devices': (
    {'mesh': (('data', 3), ('fsdp', 1), ('tensor', 1))},
    r"mesh=.*needs .* 3 devices.*\('data', -1\)",
  ),
  'a rule of no axis': (
    {'shard_rules': (('kernel$', 'model'),)},
    "names the axis 'model'",
  ),
  'a rule that freezes nothing': (
    {'optimizer__freeze': ('^encodr/',)},
    'matches no parameter',
  ),
  'more warm-up than steps': (
    {'optimizer__warmup_steps': 7},
    'warmup_steps=7',
  ),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_is_wrong_is_said(case):
  changes, message = WRONG[case]
  with pytest.raises(ValueError, match=message):
    experiment_of(**changes).check()


def test_missing_parts_are_named():
  config = smoke_config()
  del config.sample.td
  with pytest.raises(ValueError, match='sample lacks td'):
    build.Experiment(config)
  config = smoke_config()
  del config.model.name
  with pytest.raises(ValueError, match='model lacks name'):
    build.Experiment(config)
  config = smoke_config()
  del config.model.encoder
  with pytest.raises(ValueError, match='model lacks encoder, which Pix2SeqD'):
    build.Experiment(config).check()


def test_a_good_config_passes():
  experiment_of().check()


def test_steps_and_td_of_a_call_override_the_config():
  experiment = experiment_of()
  assert len(experiment.timesteps().now) == 3
  assert len(experiment.timesteps(7).now) == 7
  with pytest.raises(ValueError, match='steps=0'):
    experiment.timesteps(0)


def test_host_and_device_encode_the_same():
  """data.encode: the same batch, bits and weights, so the same loss."""
  batches, targets = {}, {}
  for where in ('host', 'device'):
    experiment = experiment_of(data__encode=where)
    batches[where] = next(experiment.train_batches())
    batch = jax.tree.map(jnp.asarray, sharding.device_part(batches[where]))
    targets[where] = experiment.model.target({}, batch, None)
  host, device = batches['host'], batches['device']
  assert set(host) - set(device) == {'bits'}
  assert isinstance(host['bits'], np.ndarray)
  assert host['bits'].shape == (8, 32, 32, 8)
  for key in device:
    np.testing.assert_array_equal(host[key], device[key])
  for ours, theirs in zip(*targets.values(), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_labels_do_not_reach_the_sampler():
  """Other labels, the same masks; and no label among what it is given."""
  experiment = experiment_of(sample__steps=1)
  model = experiment.model
  batch = next(experiment.eval_batches())
  params = model.init(jax.random.key(0), batch)
  inner, seen = experiment.sample_fn(), []

  def sample_fn(params, inputs, keys):
    seen.append(set(inputs))
    return inner(params, inputs, keys)

  def masks(changed):
    found = []
    evaluate.evaluate(
      model,
      experiment.task,
      params,
      [changed],
      sample_fn=sample_fn,
      mesh=experiment.mesh,
      on_example=lambda segmentation, meta: found.append(segmentation),
    )
    return found

  shuffled = dict(batch)
  for key in ('semantic', 'instance'):
    shuffled[key] = np.random.default_rng(0).permutation(batch[key].ravel())
    shuffled[key] = shuffled[key].reshape(batch[key].shape)
  for ours, theirs in zip(masks(batch), masks(shuffled), strict=True):
    np.testing.assert_array_equal(ours.instance, theirs.instance)
    np.testing.assert_array_equal(ours.semantic, theirs.semantic)
  assert seen == [{'image', 'valid', 'index', 'is_real'}] * 2


def _losses_and_sample(mesh, rules, num_steps):
  experiment = experiment_of(
    sample__steps=2,
    model__denoiser__multipliers=(1,),  # less to compile
    model__denoiser__num_res_blocks=(1,),
  )
  experiment.__dict__['mesh'] = mesh
  experiment.config['shard_rules'] = rules
  current = state.create_state(
    experiment.model,
    experiment.optimizer,
    jax.random.key(5),
    *experiment.state_args,
  )
  # Before training: that devices add up in another order moves the weights
  # apart, and what samples differ by is not what is asked here.
  inputs = sharding.put_batch(next(experiment.train_batches(9)), mesh)
  inputs = {k: inputs[k] for k in ('image', 'valid')}
  keys = jax.random.split(jax.random.key(3), inputs['image'].shape[0])
  sample = jax.jit(
    lambda params, inputs, keys: experiment.model.sample(
      params,
      inputs,
      keys,
      timesteps=experiment.timesteps(),
      sampler=experiment.sampler,
    )
  )
  x_0 = np.asarray(sample(current.params, inputs, keys))
  train_step, losses = experiment.train_step(), []
  batches = experiment.train_batches()
  for step in range(num_steps):
    batch = sharding.put_batch(next(batches), mesh)
    rng = jax.random.fold_in(jax.random.key(0), step)
    current, scalars = train_step(current, batch, rng)
    losses.append(float(scalars['loss']))
  return current, losses, x_0


def test_one_device_and_eight_agree(monkeypatch):
  """Losses, with dropout on, to 2e-6; samples to 1e-4; and it is split."""
  # As users compile it: the tests' own little optimisation rounds otherwise.
  options = {'xla_backend_optimization_level': 3}
  whole = functools.partial(jax.jit, compiler_options=options)
  monkeypatch.setattr(jax, 'jit', whole)
  one = sharding.make_mesh(sharding.AXES, jax.devices()[:1])
  axes = (('data', 2), ('fsdp', 2), ('tensor', 2))
  eight = sharding.make_mesh(axes, jax.devices()[:8])
  _, losses, x_0 = _losses_and_sample(one, (), 3)
  split, losses_8, x_0_8 = _losses_and_sample(eight, common.fsdp_rules(), 3)
  np.testing.assert_allclose(losses_8, losses, rtol=2e-6)
  np.testing.assert_allclose(x_0_8, x_0, atol=1e-4)
  query = split.params['net']['encoder']['layer_0']['self_attention']['query']
  assert tuple(query['kernel'].sharding.spec)[:2] == ('fsdp', 'tensor')
  moments = [
    leaf
    for path, leaf in sharding.flat_paths(split.opt_state).items()
    if path.endswith('encoder/layer_0/self_attention/query/kernel')
  ]
  assert moments and all(
    m.sharding.is_equivalent_to(query['kernel'].sharding, 3) for m in moments
  )
