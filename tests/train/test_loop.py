"""The loop: exact resume, stops, NaN, evaluation and saving."""

import contextlib
import itertools
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, batches_from, make_batch

from pix2seqd_jax.train import (
  bad_batch,
  ledger,
  log,
  loop,
  optimizer,
  sharding,
  state,
  step,
)
from pix2seqd_jax.train.checkpoints import checkpoint

RULES = (('one/kernel$', (None, 'fsdp')),)


class Rows(log.NullWriter):
  """Keeps what is written."""

  def __init__(self):
    self.scalars, self.texts, self.images = {}, [], []

  def write_scalars(self, step, scalars):
    self.scalars.setdefault(step, {}).update(scalars)

  def write_images(self, step, images):
    self.images.append((step, sorted(images)))

  def write_texts(self, step, texts):
    self.texts.append((step, texts))


class Setup:
  """A run that can be started again and again."""

  def __init__(self, model=None):
    self.model = model or Toy(dropout=0.2)
    self.mesh = sharding.make_mesh(
      (('data', 2), ('fsdp', 2), ('tensor', 1)), jax.devices()[:4]
    )
    schedule = optimizer.make_schedule(
      base=0.01, warmup_steps=3, total_steps=60, end_factor=0.1
    )
    self.tx = optimizer.make_optimizer('adamw', schedule, weight_decay=0.05)
    self.train_step = step.make_train_step(
      self.model, self.tx, mesh=self.mesh, rules=RULES, ema_decay=0.9
    )

  def create(self):
    return state.create_state(
      self.model, self.tx, jax.random.key(0), make_batch(0), self.mesh, RULES
    )

  def abstract(self):
    return state.abstract_state(
      self.model, self.tx, make_batch(0), self.mesh, RULES
    )

  def train(self, start, num_steps, **kwargs):
    return loop.train(
      state=start,
      train_step=self.train_step,
      **{
        'batches_from': batches_from,
        'num_steps': num_steps,
        'rng': jax.random.key(1),
        'mesh': self.mesh,
        **kwargs,
      },
    )


@pytest.fixture(scope='module')
def setup():
  return Setup()


def equal_bytes(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_a_broken_run_ends_with_the_same_bytes(setup, tmp_path):
  whole = setup.train(setup.create(), 12)
  for start, end in itertools.pairwise((0, 4, 5, 9, 12)):
    with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
      held = saved.restore(setup.abstract()) if start else setup.create()
      assert int(held.step) == start
      last = setup.train(held, end, checkpointer=saved)
  equal_bytes(whole, last)


def test_batches_start_at_the_position(setup, tmp_path):
  starts = []

  def spied(start):
    starts.append(start)
    return batches_from(start)

  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    setup.train(setup.create(), 3, checkpointer=saved, batches_from=spied)
    held = saved.restore(setup.abstract())
  after = setup.train(held, 3, batches_from=spied)
  assert int(after.step) == 3
  setup.train(after, 5, batches_from=spied)
  assert starts == [0, 3]


def test_log_lines_are_means_and_speeds(setup):
  every, rare = Rows(), Rows()
  setup.train(setup.create(), 7, writer=every, log_every=1)
  setup.train(setup.create(), 7, writer=rare, log_every=3)
  assert list(rare.scalars) == [3, 6, 7]  # the last is always due
  losses = [every.scalars[i]['loss'] for i in range(1, 8)]
  np.testing.assert_allclose(
    rare.scalars[6]['loss'], np.mean(losses[3:6]), rtol=1e-6
  )
  row = rare.scalars[6]
  assert row['steps_per_second'] > 0 and row['eta_seconds'] > 0
  np.testing.assert_allclose(
    row['images_per_second'], 8 * row['steps_per_second'], rtol=1e-6
  )
  assert 0 <= row['data_wait_fraction'] <= 1


class TurnsNaN(Toy):
  """The loss is NaN where an input is huge."""

  def loss_fn(self, params, batch, rng):
    loss, aux = super().loss_fn(params, batch, rng)
    bad = jnp.abs(batch['image']).max() > 1e3
    return jnp.where(bad, jnp.nan, loss), aux


def poisoned(start, bad=6):
  for i, batch in enumerate(batches_from(start), start + 1):
    if i == bad:
      batch['image'] = batch['image'] + 1e4
    yield batch


@pytest.mark.parametrize(
  'save_every, eval_every, kept', [(2, 0, [2, 4]), (3, 0, [3]), (4, 6, [4])]
)
def test_nan_names_the_step_and_is_never_saved(
  tmp_path, save_every, eval_every, kept
):
  run = Setup(TurnsNaN())
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    with pytest.raises(loop.NotFinite, match='step 6'):
      run.train(
        run.create(),
        20,
        batches_from=poisoned,
        checkpointer=saved,
        save_every=save_every,
        eval_every=eval_every,
        eval_fn=lambda held, i: {'pq': 1.0},
        log_every=10,
      )
    assert saved.steps() == kept


def test_a_loss_that_explodes_stops_the_run_and_its_batch_is_kept(
  setup, tmp_path
):
  def jumps(start):
    for i, batch in enumerate(batches_from(start), start + 1):
      if i == 6:
        batch['semantic'] = batch['semantic'] + 1e3
      yield batch

  def dump(step, batch):
    return bad_batch.dump(
      tmp_path, step, batch, lambda index: [f'{i}.jpg' for i in index]
    )

  with (
    checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved,
    pytest.raises(
      loop.NotFinite, match=r'step 6: the loss .*max_loss=1000.*bad_batch_6'
    ),
  ):
    setup.train(
      setup.create(),
      20,
      batches_from=jumps,
      checkpointer=saved,
      save_every=4,
      max_loss=1000.0,
      dump_fn=dump,
    )
  with np.load(tmp_path / 'bad_batch_6.npz', allow_pickle=False) as held:
    fed = next(itertools.islice(jumps(0), 5, None))
    assert set(held) == {'image', 'semantic', 'index', 'is_real', 'files'}
    for key in set(held) - {'files'}:
      np.testing.assert_array_equal(held[key], fed[key])
    assert held['files'].tolist() == [f'{i}.jpg' for i in fed['index']]
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    assert saved.steps() == [4]


def test_the_ledger_of_a_broken_run_is_the_unbroken_ones(setup, tmp_path):
  def run(name, *ends):
    folder = tmp_path / name
    for end in ends:
      with checkpoint.Checkpointer(folder / 'checkpoints') as saved:
        fresh = saved.latest_step() is None
        held = setup.create() if fresh else saved.restore(setup.abstract())
        with contextlib.closing(ledger.Ledger(folder, int(held.step))) as book:
          setup.train(held, end, ledger=book, checkpointer=saved, save_every=4)
    return folder

  whole, broken = run('whole', 10), run('broken', 4, 7)
  # As after a kill: steps were done, but not saved.
  shutil.rmtree(broken / 'checkpoints' / '7')
  run('broken', 10)
  assert list(ledger.read(broken)) == list(range(1, 11))
  assert ledger.read(whole) == ledger.read(broken)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_stop_after_the_step(setup, tmp_path, number):
  def interrupted(start):
    for i, batch in enumerate(batches_from(start)):
      if i == 4:
        os.kill(os.getpid(), number)
      yield batch

  rows = Rows()
  before = signal.getsignal(number)
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    with (
      pytest.raises(KeyboardInterrupt)
      if number == signal.SIGINT
      else contextlib.nullcontext()
    ):
      stopped = setup.train(
        setup.create(),
        5000,
        batches_from=interrupted,
        checkpointer=saved,
        writer=rows,
      )
    found = saved.restore(setup.abstract())
    at = int(found.step)
    assert 0 < at < 5000
    if number == signal.SIGTERM:
      equal_bytes(found, stopped)
  assert signal.getsignal(number) is before
  [(where, texts)] = rows.texts
  assert where == at and 'same command' in texts['run']


def test_a_second_ctrl_c_aborts():
  with loop.StopSignal() as stop:
    signal.raise_signal(signal.SIGINT)
    assert stop.name == 'SIGINT'
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)


def test_evaluation_saves_the_best(setup, tmp_path):
  values = {2: 0.1, 4: 0.7, 6: 0.3, 8: 0.2, 9: 0.1}
  rows = Rows()
  with checkpoint.Checkpointer(
    tmp_path / 'checkpoints', keep=1, best_metric='pq'
  ) as saved:
    setup.train(
      setup.create(),
      9,
      checkpointer=saved,
      writer=rows,
      eval_every=2,
      eval_fn=lambda held, i: {'pq': values[i], 'seen': int(held.step)},
      panel_fn=lambda held, i: {'panel': np.zeros((1, 2, 2, 3), np.uint8)},
    )
    saved.wait()
    assert (saved.steps(), saved.best_step()) == ([4, 9], 4)
  evaluated = [i for i, row in rows.scalars.items() if 'eval/pq' in row]
  assert evaluated == [2, 4, 6, 8, 9]
  assert all(rows.scalars[i]['eval/seen'] == i for i in evaluated)
  assert rows.images == [(i, ['panel']) for i in evaluated]


def test_data_that_end_are_refused(setup):
  with pytest.raises(ValueError, match='ended before step 4'):
    setup.train(
      setup.create(),
      9,
      batches_from=lambda start: itertools.islice(batches_from(start), 3),
    )


def test_negative_intervals_are_refused(setup):
  with pytest.raises(ValueError, match=r'train\.save_every=-1'):
    setup.train(setup.create(), 9, save_every=-1)


def test_metrics_of_a_run_are_a_line_each(setup, tmp_path):
  writer = log.default_writer(tmp_path, stdout=False)
  setup.train(setup.create(), 4, writer=writer, log_every=2)
  writer.close()
  rows = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').open()]
  assert [row['step'] for row in rows] == [2, 4]
