"""Public data sets of semantic maps, as tables: names, numbers, colours.

Cityscapes (cityscapes-dataset.com), CamVid as SegNet prepared it (11 classes),
COCO-Stuff (arXiv 1612.03716), SceneParse150 of ADE20K (arXiv 1608.05442) and
CelebAMask-HQ (arXiv 1907.11922), whose masks data.celeb_masks merges.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pix2seqd_jax.types import Category


class Layout(NamedTuple):
  """How a data set names its files and numbers its classes.

  Attributes:
    categories: the classes; `id` is their number in the files.
    values: {number in the files: class 1..C, or 0 for void}.
    image_ending: of image names; '' for any suffix.
    label_ending: what stands in its place in the name of the label map.
  """

  categories: tuple[Category, ...]
  values: Mapping[int, int]
  image_ending: str = ''
  label_ending: str = '.png'


class CityscapesLabel(NamedTuple):
  """One of the 19 evaluated classes, in the order of their train ids."""

  label_id: int
  name: str
  is_thing: bool
  color: tuple[int, int, int]


CITYSCAPES = tuple(
  CityscapesLabel(*label)
  for label in (
    (7, 'road', False, (128, 64, 128)),
    (8, 'sidewalk', False, (244, 35, 232)),
    (11, 'building', False, (70, 70, 70)),
    (12, 'wall', False, (102, 102, 156)),
    (13, 'fence', False, (190, 153, 153)),
    (17, 'pole', False, (153, 153, 153)),
    (19, 'traffic light', False, (250, 170, 30)),
    (20, 'traffic sign', False, (220, 220, 0)),
    (21, 'vegetation', False, (107, 142, 35)),
    (22, 'terrain', False, (152, 251, 152)),
    (23, 'sky', False, (70, 130, 180)),
    (24, 'person', True, (220, 20, 60)),
    (25, 'rider', True, (255, 0, 0)),
    (26, 'car', True, (0, 0, 142)),
    (27, 'truck', True, (0, 0, 70)),
    (28, 'bus', True, (0, 60, 100)),
    (31, 'train', True, (0, 80, 100)),
    (32, 'motorcycle', True, (0, 0, 230)),
    (33, 'bicycle', True, (119, 11, 32)),
  )
)

_CAMVID = (
  ('sky', (128, 128, 128)),
  ('building', (128, 0, 0)),
  ('pole', (192, 192, 128)),
  ('road', (128, 64, 128)),
  ('sidewalk', (0, 0, 192)),
  ('tree', (128, 128, 0)),
  ('sign', (192, 128, 128)),
  ('fence', (64, 64, 128)),
  ('car', (64, 0, 128)),
  ('pedestrian', (64, 64, 0)),
  ('bicyclist', (0, 128, 192)),
)


def _names(text):
  return tuple(text.split(','))


# CelebAMask-HQ by its own names of parts; the order is that in which they are
# drawn over each other. Left and right are the face's, not the image's.
CELEB_PARTS = _names(
  'skin,nose,eye_g,l_eye,r_eye,l_brow,r_brow,l_ear,r_ear,mouth,u_lip,l_lip,'
  'hair,hat,ear_r,neck_l,neck,cloth'
)
_CELEB = ('background', *CELEB_PARTS)

# COCO's things by their ids 1..91; those that are empty are not in use.
_COCO_THINGS = _names(
  'person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,'
  'fire hydrant,,stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,'
  'elephant,bear,zebra,giraffe,,backpack,umbrella,,,handbag,tie,suitcase,'
  'frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,'
  'skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,knife,spoon,'
  'bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,'
  'chair,couch,potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,'
  'remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,,book,'
  'clock,vase,scissors,teddy bear,hair drier,toothbrush,'
)
# And its stuff, 92..182.
_COCO_STUFF = _names(
  'banner,blanket,branch,bridge,building-other,bush,cabinet,cage,cardboard,'
  'carpet,ceiling-other,ceiling-tile,cloth,clothes,clouds,counter,cupboard,'
  'curtain,desk-stuff,dirt,door-stuff,fence,floor-marble,floor-other,'
  'floor-stone,floor-tile,floor-wood,flower,fog,food-other,fruit,'
  'furniture-other,grass,gravel,ground-other,hill,house,leaves,light,mat,'
  'metal,mirror-stuff,moss,mountain,mud,napkin,net,paper,pavement,pillow,'
  'plant-other,plastic,platform,playingfield,railing,railroad,river,road,rock,'
  'roof,rug,salad,sand,sea,shelf,sky-other,skyscraper,snow,solid-other,stairs,'
  'stone,straw,structural-other,table,tent,textile-other,towel,tree,vegetable,'
  'wall-brick,wall-concrete,wall-other,wall-panel,wall-stone,wall-tile,'
  'wall-wood,water-other,waterdrops,window-blind,window-other,wood'
)

_ADE20K = _names(
  'wall,building,sky,floor,tree,ceiling,road,bed,windowpane,grass,cabinet,'
  'sidewalk,person,earth,door,table,mountain,plant,curtain,chair,car,water,'
  'painting,sofa,shelf,house,sea,mirror,rug,field,armchair,seat,fence,desk,'
  'rock,wardrobe,lamp,bathtub,railing,cushion,base,box,column,signboard,'
  'chest of drawers,counter,sand,sink,skyscraper,fireplace,refrigerator,'
  'grandstand,path,stairs,runway,case,pool table,pillow,screen door,stairway,'
  'river,bridge,bookcase,blind,coffee table,toilet,flower,book,hill,bench,'
  'countertop,stove,palm,kitchen island,computer,swivel chair,boat,bar,'
  'arcade machine,hovel,bus,towel,light,truck,tower,chandelier,awning,'
  'streetlight,booth,television receiver,airplane,dirt track,apparel,pole,'
  'land,bannister,escalator,ottoman,bottle,buffet,poster,stage,van,ship,'
  'fountain,conveyer belt,canopy,washer,plaything,swimming pool,stool,barrel,'
  'basket,waterfall,tent,bag,minibike,cradle,oven,ball,food,step,tank,'
  'trade name,microwave,pot,animal,bicycle,lake,dishwasher,screen,blanket,'
  'sculpture,hood,sconce,vase,traffic light,tray,ashcan,fan,pier,crt screen,'
  'plate,monitor,bulletin board,shower,radiator,glass,clock,flag'
)


def table(numbered, void=(), colors=None):
  """[(number in the files, name)] -> (categories, values): all are stuff."""
  numbered = list(numbered)
  colors = colors or [None] * len(numbered)
  categories = tuple(
    Category(number, name, False, color)
    for (number, name), color in zip(numbered, colors, strict=True)
  )
  values = dict.fromkeys(void, 0)
  values |= {number: i for i, (number, _) in enumerate(numbered, 1)}
  return categories, values


def _cityscapes(numbers, void, ending):
  names = [label.name for label in CITYSCAPES]
  colors = [label.color for label in CITYSCAPES]
  return Layout(
    *table(zip(numbers, names, strict=True), void, colors),
    '_leftImg8bit.png',
    ending,
  )


def _layouts():
  evaluated = [label.label_id for label in CITYSCAPES]
  coco = [
    (i, name) for i, name in enumerate([*_COCO_THINGS, *_COCO_STUFF]) if name
  ]
  return {
    'camvid': Layout(
      *table(
        enumerate(name for name, _ in _CAMVID),
        (11, 255),
        [color for _, color in _CAMVID],
      )
    ),
    # labelIds: 34 kinds, of which 19 are evaluated; 255 is the licence plate.
    'cityscapes': _cityscapes(
      evaluated,
      [i for i in (*range(34), 255) if i not in evaluated],
      '_gtFine_labelIds.png',
    ),
    'cityscapes_train_ids': _cityscapes(
      range(19), (255,), '_gtFine_labelTrainIds.png'
    ),
    # Pixel maps: COCO's id less one, 0..181, of which 171 are in use.
    'coco_stuff': Layout(*table(coco, (255,))),
    # Renumbered without gaps, 0..170.
    'coco_stuff_171': Layout(
      *table(enumerate(name for _, name in coco), (255,))
    ),
    # Merged: 0 is the background, a class too; there is no void.
    'celeb': Layout(*table(enumerate(_CELEB))),
    # Without the 0 of "other"; 1..150.
    'ade20k': Layout(*table(enumerate(_ADE20K, 1), (0,))),
  }


LAYOUTS = _layouts()
