"""validate(config): every fault at once, in milliseconds."""

import time

import pytest

from configs import pix2seq_d_coco, pix2seq_d_shapes, semflow_shapes
from pix2seqd_jax.experiment import validate


def config():
  return pix2seq_d_shapes.get_config('smoke')


def test_a_good_recipe_has_no_fault_and_takes_no_time():
  good = pix2seq_d_coco.get_config('highres')
  assert validate.faults(good) == []
  times = []
  for _ in range(5):
    start = time.thread_time()
    validate.validate(good)
    times.append(time.thread_time() - start)
  assert min(times) < 0.05


def test_all_faults_at_once():
  bad = config()
  bad.optimizer.name = 'sdg'
  bad.mesh = (('data', -1), ('data', 1))
  bad.data.id_order = 'x'
  found = validate.faults(bad)
  assert len(found) == 3
  with pytest.raises(ValueError, match='3 faults') as error:
    validate.validate(bad)
  for words in ('optimizer.name', 'mesh=', 'id_order'):
    assert words in str(error.value)


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('data.image_size', (0, 64), 'each from 1 to'),
    ('data.num_ids', 1, 'counts the null id 0'),
    ('data.on_bad_example', 'ignore', 'raise, skip'),
    ('sample.steps', 10**6, 'sample.steps=1000000'),
    ('optimizer.ema_decay', 1.0, r'\[0, 1\)'),
    ('shard_rules', (('(', 'fsdp'),), 'no regular expression'),
    ('train.best_metric', 'pk', 'no metric of task'),
  ],
)
def test_one_fault(key, value, message):
  bad = config()
  section, _, name = key.rpartition('.')
  setattr(bad[section] if section else bad, name, value)
  with pytest.raises(ValueError, match=message):
    validate.validate(bad)


def test_codes_that_only_the_device_makes():
  bad = semflow_shapes.get_config('smoke')
  bad.data.encode = 'host'
  with pytest.raises(ValueError, match=r"data\.encode='host'.*'semflow'"):
    validate.validate(bad)
