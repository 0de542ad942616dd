"""What other processes logged, and the configs they get."""

from benchmarks import common, runs
from pix2seqd_jax.experiment import schema


def test_later_lines_count_and_speeds_do_not(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
    '{"step": 1, "time": 1.0, "loss": 3.0}\n'
    '{"step": 2, "time": 2.0, "loss": 2.5, "steps_per_second": 1.0}\n'
    '{"step": 2, "time": 3.0, "loss": 2.0}\n'
    '{"step": 2, "time": 4.0, "eval/pq": 0.5}\n'
    '{"step": 3, "ti'  # killed while it wrote
  )
  assert len(runs.metrics_of(tmp_path)) == 4
  assert runs.numbers_of(tmp_path) == {
    1: {'step': 1, 'loss': 3.0},
    2: {'step': 2, 'loss': 2.0, 'eval/pq': 0.5},
  }
  assert runs.metrics_of(tmp_path / 'nothing') == []


def test_a_written_recipe_is_the_recipe(tmp_path):
  config = common.load_config('configs/pix2seq_d_coco.py:smoke')
  path = runs.write_config(config, tmp_path / 'a' / 'config.py')
  again = common.load_config(str(path))
  assert schema.plain(again) == schema.plain(config)
