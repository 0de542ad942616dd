"""The notebooks run from their first cell to their last, at reduced size."""

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

REPO = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPO / 'colabs').glob('*.ipynb'))


def patched(notebook, values):
  """The notebook with its `#@param` lines set; each must be there once."""
  for name, value in values.items():
    count = 0
    for cell in notebook.cells:
      if cell.cell_type == 'code':
        pattern = rf'^{name} = .* (?=#@param)'
        line = f'{name} = {value!r} '
        cell.source, n = re.subn(pattern, line, cell.source, flags=re.M)
        count += n
    assert count == 1, f'{name} is set {count} times'
  return notebook


def outputs_of(notebook):
  return [
    output
    for cell in notebook.cells
    if cell.cell_type == 'code'
    for output in cell.outputs
  ]


def test_pix2seq_d(tmp_path):
  notebook = nbformat.read(REPO / 'colabs' / 'pix2seq_d.ipynb', as_version=4)
  values = {
    'VARIANT': 'smoke',
    'WORKDIR': str(tmp_path / 'run'),
    'SAMPLE_STEPS': 2,
    'NUM_IMAGES': 1,
  }
  client = NotebookClient(
    patched(notebook, values),
    timeout=580,
    kernel_name='python3',
    resources={'metadata': {'path': str(REPO / 'colabs')}},
  )
  client.execute()  # raises what a cell raises
  outputs = outputs_of(notebook)
  images = [o for o in outputs if 'image/png' in o.get('data', {})]
  assert len(images) == 3  # two scenes, one prediction
  text = ''.join(o.get('text', '') for o in outputs)
  assert 'steps done: 6' in text and 'pq_things' in text
  assert (tmp_path / 'run' / 'checkpoints' / '6').is_dir()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert not outputs_of(notebook)
  first = next(c for c in notebook.cells if c.cell_type == 'code')
  assert "'google.colab' in sys.modules" in first.source
