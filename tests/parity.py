"""How near our numbers come to the original's, collected as a table.

`check` compares, asserts and writes one JSON line a comparison; running
`python tests/parity.py` prints the worst of each oracle as Markdown.
"""

import json
import os
import pathlib
import sys

import numpy as np

# A key's bound is four times the noise floor where the oracle's authors
# measured one (the original against itself on other kernels), else this.
DEFAULT_BOUND = 3e-6
FLOOR_FACTOR = 4.0


def table_path() -> pathlib.Path:
  """Where the lines go: PIX2SEQD_PARITY_TABLE, or .cache/parity.jsonl."""
  repo = pathlib.Path(__file__).resolve().parents[1]
  return pathlib.Path(
    os.environ.get('PIX2SEQD_PARITY_TABLE', repo / '.cache' / 'parity.jsonl')
  )


def read_floors(path: pathlib.Path) -> dict[tuple[str, str], float]:
  """{(oracle, key): noise relative to the largest magnitude}."""
  floors = {}
  for oracle, keys in json.loads(pathlib.Path(path).read_text()).items():
    for key, row in keys.items():
      if isinstance(row, dict) and row.get('max_abs'):
        name = row.get('key', key)
        floors[oracle, name] = row['max_abs_diff'] / row['max_abs']
  return floors


def relative_error(ours, theirs) -> float:
  """max |ours - theirs| / max |theirs|, in float64; inf where not finite."""
  ours = np.asarray(ours, np.float64)
  theirs = np.asarray(theirs, np.float64)
  if ours.shape != theirs.shape:
    raise AssertionError(f'shapes differ: {ours.shape} and {theirs.shape}')
  if not theirs.size:
    return 0.0
  difference = np.max(np.abs(ours - theirs))
  if not np.isfinite(difference):
    return float('inf')
  return float(difference / (np.max(np.abs(theirs)) or 1.0))


def check(
  oracle: str,
  key: str,
  ours,
  theirs,
  bound: float | None = None,
  floor: float | None = None,
) -> float:
  """Asserts that the relative error keeps its bound, and writes it down.

  Args:
    oracle: the file compared with ('pix2seq/pure/bits.npz').
    key: the entry in it.
    ours: our array.
    theirs: the original's.
    bound: the largest error allowed; by default 4 x floor, else 3e-6.
    floor: the original's own noise, relative to the largest magnitude.

  Returns:
    The error.
  """
  if bound is None:
    bound = DEFAULT_BOUND if floor is None else FLOOR_FACTOR * floor
  error = relative_error(ours, theirs)
  record(oracle, key, error, bound)
  if not error <= bound:
    raise AssertionError(f'{oracle} {key}: error {error:.3g} > {bound:.3g}')
  return error


def record(oracle: str, key: str, error: float, bound: float) -> None:
  """Appends one comparison to the table."""
  path = table_path()
  path.parent.mkdir(parents=True, exist_ok=True)
  row = {'oracle': oracle, 'key': key, 'error': error, 'bound': bound}
  with path.open('a') as f:
    f.write(json.dumps(row) + '\n')


class ReferenceSchedule:
  """A schedule with the rounding of the original, which computes in float32.

  The original makes gamma in float32 and then sqrt(1 - gamma): at t = 0 of
  the plain cosine that is 3.45e-4, where sigma is 3.14e-4. Ours is right, and
  so differs in the steps that land on t = 0; the sampler is compared on the
  original's own numbers.
  """

  def __init__(self, schedule):
    self.schedule = schedule

  def gamma(self, t):
    """The schedule's, rounded to float32."""
    gamma = self.schedule.gamma(t)
    return np.float64(np.float32(gamma)) if _is_numpy(t) else gamma

  def alpha(self, t):
    """sqrt(gamma)."""
    return self.gamma(t) ** 0.5

  def sigma(self, t):
    """sqrt(1 - gamma)."""
    return (1 - self.gamma(t)) ** 0.5

  def alpha_dot(self, t):
    """The schedule's."""
    return self.schedule.alpha_dot(t)

  def sigma_dot(self, t):
    """The schedule's."""
    return self.schedule.sigma_dot(t)


def _is_numpy(t) -> bool:
  return isinstance(t, (np.ndarray, np.generic, float, int))


def markdown(path: pathlib.Path) -> str:
  """The worst key of each oracle (by error over bound) as a table.

  A comparison that ran several times counts with its last error.
  """
  last = {}
  for line in path.read_text().splitlines():
    row = json.loads(line)
    last[row['oracle'], row['key']] = row
  worst, counts = {}, {}
  for (oracle, _), row in last.items():
    counts[oracle] = counts.get(oracle, 0) + 1
    if oracle not in worst or _strain(row) > _strain(worst[oracle]):
      worst[oracle] = row
  lines = [
    '| oracle | keys | worst key | relative error | bound |',
    '|---|---|---|---|---|',
  ]
  for oracle, row in sorted(worst.items()):
    lines.append(
      f'| {oracle} | {counts[oracle]} | {row["key"]} | {row["error"]:.2g}'
      f' | {row["bound"]:.2g} |'
    )
  return '\n'.join(lines)


def _strain(row) -> float:
  return row['error'] / row['bound'] if row['bound'] else row['error']


if __name__ == '__main__':
  source = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else table_path()
  if not source.exists():
    sys.exit(f'{source} does not exist: run the tests first')
  print(markdown(source))
