"""The table of COCO's classes against a JSON of COCO's own."""

from pix2seqd_jax.data.formats.categories import categories_from_json, read_json
from pix2seqd_jax.data.readers.coco_categories import COCO_PANOPTIC


def test_they_are_those_of_the_official_json(shared):
  path = shared / 'data/coco_mini/annotations/panoptic_full.json'
  official = categories_from_json(read_json(path)['categories'])
  assert [c[:3] for c in COCO_PANOPTIC] == [c[:3] for c in official]


def test_there_are_eighty_things_and_53_kinds_of_stuff():
  assert [c.is_thing for c in COCO_PANOPTIC] == [True] * 80 + [False] * 53
