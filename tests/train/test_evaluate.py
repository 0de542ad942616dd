"""The eval loop: no labels, no padding, the same answer everywhere."""

import json

import jax
import numpy as np
import pytest
from toy import Toy, make_batch

from pix2seqd_jax.train import evaluate, sharding


class Sum:
  """A metric state: sums and counts."""

  def __init__(self, total, count):
    self.total, self.count = total, count

  def merge(self, other):
    return Sum(self.total + other.total, self.count + other.count)

  def compute(self):
    return {'mean': self.total / self.count, 'count': self.count}

  def to_bytes(self):
    return json.dumps([self.total, self.count]).encode()

  @classmethod
  def from_bytes(cls, data):
    return cls(*json.loads(data))


class Task:
  """Sums the drawn values; remembers what the sampler was given."""

  def __init__(self, given=()):
    self.given = given
    self.keys_seen = set()

  def predict(self, sample_fn, batch, keys):
    self.keys_seen |= set(batch)
    return sample_fn(batch, keys)

  def refine(self, segmentation):
    return segmentation._replace(semantic=2 * segmentation.semantic)

  def metrics(self, segmentation, meta):
    assert segmentation.instance.shape == (4,)
    return Sum(float(segmentation.semantic.sum()), 1)


def eval_batches(sizes=(8, 8, 8), real=19):
  seen = 0
  for i, size in enumerate(sizes):
    batch = make_batch(i, size)
    batch['is_real'] = np.arange(seen, seen + size) < real
    seen += size
    yield batch


@pytest.fixture(scope='module')
def model():
  return Toy()


@pytest.fixture(scope='module')
def params(model):
  return {**model.init(jax.random.key(0), {}), 'frozen': {}}


def run(model, params, batches, task=None, mesh=None, seed=0, **kwargs):
  sample_fn = evaluate.make_sampler(
    model, timesteps=None, sampler=None, mesh=mesh
  )
  return evaluate.evaluate(
    model,
    task or Task(),
    params,
    batches,
    sample_fn=sample_fn,
    seed=seed,
    mesh=mesh,
    progress=False,
    **kwargs,
  )


def test_padding_counts_nowhere_and_examples_are_seen_in_order(model, params):
  seen = []
  results = run(
    model,
    params,
    eval_batches(),
    on_example=lambda found, meta: seen.append((found, meta)),
  )
  assert results['count'] == 19 and len(seen) == 19
  assert results['images_per_second'] > 0
  assert [meta['index'] for _, meta in seen] == [*range(8), *range(8), 0, 1, 2]
  mean = np.mean([found.semantic.sum() for found, _ in seen])
  np.testing.assert_allclose(results['mean'], mean, rtol=1e-6)


def test_the_answer_does_not_depend_on_devices_or_batches(model, params):
  alone = run(model, params, eval_batches())
  mesh = sharding.make_mesh((('data', 2), ('fsdp', 4), ('tensor', 1)))
  spread = jax.device_put(params, sharding.replicated(mesh))
  eight = run(model, spread, eval_batches(), mesh=mesh)
  np.testing.assert_allclose(alone['mean'], eight['mean'], rtol=1e-5)

  def regrouped():
    whole = list(eval_batches())
    parts = {
      k: np.concatenate([b[k] for b in whole]) for k in whole[0] if k != 'meta'
    }
    for i in range(0, 24, 4):
      cut = {k: v[i : i + 4] for k, v in parts.items()}
      yield {**cut, 'meta': [{'index': 0}] * 4}

  again = run(model, params, regrouped())
  np.testing.assert_allclose(alone['mean'], again['mean'], rtol=1e-5)
  assert run(model, params, eval_batches(), seed=1)['mean'] != alone['mean']


def test_labels_are_stripped_unless_given(model, params):
  task = Task()
  run(model, params, eval_batches(), task)
  assert not {'semantic', 'meta', 'given'} & task.keys_seen
  task = Task(given=('semantic',))
  run(model, params, eval_batches(), task)
  assert 'given' in task.keys_seen and 'semantic' not in task.keys_seen

  class Leaks(Toy):
    def sample(self, params, batch, keys, **kwargs):
      return batch['semantic']

  with pytest.raises(KeyError, match='semantic'):
    run(Leaks(), params, eval_batches())


def test_one_compilation_a_shape(model, params):
  traces = []

  class Counts(Toy):
    def decode(self, params, x_0, batch):
      traces.append(1)
      return super().decode(params, x_0, batch)

  run(Counts(), params, eval_batches((8, 8, 8)))
  assert len(traces) == 1


def test_keys_depend_on_seed_index_and_sample_alone():
  def words(*args):
    return np.asarray(jax.random.key_data(evaluate.example_keys(*args)))

  index = np.array([3, 2**31, 2**40 + 3, -1])
  keys = words(0, index)
  np.testing.assert_array_equal(keys[::-1], words(0, index[::-1]))
  np.testing.assert_array_equal(keys[:1], words(0, [3]))
  rows = np.concatenate([keys, words(1, index), words(0, index, 1)])
  assert len({tuple(row) for row in rows}) == 12


def test_states_of_processes_merge_by_bytes():
  parts = [Sum(1.0, 2), None, Sum(5.0, 1)]
  encoded = [b'' if s is None else s.to_bytes() for s in parts]
  answer = json.dumps({'mean': 2.0, 'count': 3}).encode()
  for own in parts:
    rounds = iter([encoded, [answer, b'', answer]])
    found = evaluate._results(own, lambda data, rounds=rounds: next(rounds))
    assert found == {'mean': 2.0, 'count': 3}


def test_no_example_is_an_error(model, params):
  with pytest.raises(ValueError, match='no example'):
    run(model, params, iter(()))
  with pytest.raises(ValueError, match='no example'):
    run(model, params, eval_batches(real=0))
