"""The label spaces of published data sets, by name. `find_label_space` finds these, and those in a user's own files.

Cityscapes' `polegroup` has pole's colour but no trainId, so colours and trainIds disagree about it. The released program reads
colours, so `cityscapes` takes polegroup for pole. `cityscapes_strict` takes it for void. Only files of ids show the difference.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from crn_jax.data.labels.generated_colors import palette
from crn_jax.data.labels.label_file import read_label_file
from crn_jax.data.labels.label_space import Color, LabelSpace
from crn_jax.errors import UserError, did_you_mean
from crn_jax.files import expanded

# The table of cityscapesScripts' helpers/labels.py: (labelId, class, colour).
_CITYSCAPES = (
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)), (13, "fence", (190, 153, 153)), (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)), (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)),
)  # fmt: skip

CITYSCAPES = LabelSpace(
    name="cityscapes",
    classes=tuple(name for _, name, _ in _CITYSCAPES) + ("void",),
    colors=tuple(color for _, _, color in _CITYSCAPES) + ((0, 0, 0),),
    # polegroup (18) has pole's colour, and the released program reads colours, so it trains polegroup as pole.
    ids={i: len(_CITYSCAPES) for i in range(-1, 34)} | {i: n for n, (i, _, _) in enumerate(_CITYSCAPES)} | {18: 5},
    void_colors=(
        (20, 20, 20), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
        (150, 120, 90), (0, 0, 90), (0, 0, 110),
    ),
)  # fmt: skip
"""The 19 classes of Cityscapes, and void. Files hold labelIds or the official colours. (20, 20, 20) occurs in GTA5's files."""

_CAMVID = (
    ("sky", (128, 128, 128)), ("building", (128, 0, 0)), ("pole", (192, 192, 128)), ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)), ("tree", (128, 128, 0)), ("sign", (192, 128, 128)), ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)), ("pedestrian", (64, 64, 0)), ("bicyclist", (0, 128, 192)), ("void", (0, 0, 0)),
)  # fmt: skip

CAMVID = LabelSpace(
    name="camvid",
    classes=tuple(name for name, _ in _CAMVID),
    colors=tuple(color for _, color in _CAMVID),
    ids={i: i for i in range(len(_CAMVID))},
)
"""The 11 classes of the SegNet tutorial's split, and void."""


def find_label_space(name_or_file: str) -> LabelSpace:
    """Finds the label space with a name in `LABEL_SPACES`, or reads it from a JSON file, which `label_file.py` explains.

    Raises:
      UserError: if there is no such name or file, with the nearest name, or if something in the file is wrong.
    """
    if name_or_file in LABEL_SPACES:
        return LABEL_SPACES[name_or_file]
    path = Path(expanded(name_or_file))
    if path.suffix.lower() == ".json" or path.is_file():
        return read_label_file(path)
    raise UserError(
        f"{name_or_file}: no label space has this name, nor has a file.{did_you_mean(name_or_file, LABEL_SPACES)} The names: "
        f'{", ".join(LABEL_SPACES)}. For your own, write a file that ends in .json: {{"classes": ["lawn", "path"]}}.'
    )


def _listed(text: str) -> list[str]:
    return " ".join(text.split()).split(", ")


def _color(digits: str) -> Color:
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def _space(name: str, classes: Sequence[str], ids: Mapping[int, int], colors: Sequence[Color] = ()) -> LabelSpace:
    """Makes a label space of these classes and void, which is black."""
    return LabelSpace(name, (*classes, "void"), (*(colors or palette(len(classes))), (0, 0, 0)), dict(ids))


_TRAIN_IDS = {index: index for index in range(19)} | {255: 19, -1: 19}
_POLEGROUP, _LICENSE_PLATE = 18, 34

_CITYSCAPES_LIKE = (
    CITYSCAPES,
    # cityscapesScripts' createTrainIdLabelImgs writes these ids.
    dataclasses.replace(CITYSCAPES, name="cityscapes_trainids", ids=_TRAIN_IDS),
    dataclasses.replace(CITYSCAPES, name="cityscapes_strict", ids=CITYSCAPES.ids | {_POLEGROUP: 19}),
    # GTA5 (Richter et al. 2016) has the labelIds of Cityscapes, but its license plate is 34, in car's colour. It is therefore
    # car here, as in the released program.
    dataclasses.replace(CITYSCAPES, name="gta5", ids=CITYSCAPES.ids | {_LICENSE_PLATE: 13}),
)

# The 32 classes of CamVid's label_colors.txt (Brostow et al. 2009), in its order, without Void, which is the last but one.
_CAMVID32 = """\
Animal 408040, Archway c00080, Bicyclist 0080c0, Bridge 008040, Building 800000, Car 400080, CartLuggagePram 4000c0, Child
c08040, Column_Pole c0c080, Fence 404080, LaneMkgsDriv 8000c0, LaneMkgsNonDriv c00040, Misc_Text 808040, MotorcycleScooter
c000c0, OtherMoving 804040, ParkingBlock 40c080, Pedestrian 404000, Road 804080, RoadShoulder 8080c0, Sidewalk 0000c0,
SignSymbol c08080, Sky 808080, SUVPickupTruck 4080c0, TrafficCone 000040, TrafficLight 004040, Train c04080, Tree 808000,
Truck_Bus c080c0, Tunnel 400040, VegetationMisc c0c000, Wall 40c000
"""

_camvid_rows = [row.rsplit(" ", 1) for row in _listed(_CAMVID32)]
_CAMVID_ORIGINAL = _space(
    "camvid32",
    [name for name, _ in _camvid_rows],
    # If a file holds ids, these number the lines of label_colors.txt.
    {index: index for index in range(30)} | {30: 31, 31: 30},
    [_color(digits) for _, digits in _camvid_rows],
)

# The first name of each class in objectInfo150.txt of CSAILVision/sceneparsing; id 0 is "other".
_ADE20K = """\
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence,
desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door,
stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove, palm,
kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier,
awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle,
buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel,
basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle,
lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen,
plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""

# The colours of sceneparsing's visualizationCode/color150.mat, except that it has (140, 140, 140) for road and for skyscraper.
# Here these two differ from it by one, in blue. A pixel of (140, 140, 140) could be either, so it is an error that names both.
_ADE20K_COLORS = """\
787878 b47878 06e6e6 503232 04c803 787850 8c8c8b cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c
ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47
ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8d fa0a0f 14ff00
1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300
ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8
001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff
a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00
ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc
2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""

_ADE = _space(
    "ade20k",
    _listed(_ADE20K),
    {0: 150} | {index + 1: index for index in range(150)},
    [_color(digits) for digits in _ADE20K_COLORS.split()],
)

# labels.txt of nightrome/cocostuff numbers from 1 (person) to 182 (wood); 11 of these never occur. The layouts that its README
# recommends, stuffthingmaps_trainval2017.zip ("Caffe-compatible"), hold 0 (person) to 181 (wood), and 255 for unlabeled.
# The ids here are those of the layouts. In files that number as labels.txt does (COCO-Stuff 10K), subtract one from each id,
# and turn 0 into 255.
_COCOSTUFF = """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe,
eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, mirror, dining table, window,
desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator,
blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush, banner, blanket, branch, bridge,
building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter,
cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood,
flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield,
railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other,
stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete,
wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""

COCOSTUFF_NEVER = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""The ids of those classes that never occur in COCO-Stuff's layouts: street sign, hat, shoe, ... hair brush."""

_COCO = _space("cocostuff", _listed(_COCOSTUFF), {index: index for index in range(182)} | {255: 182})

# The 40 classes of Gupta et al. 2013, as classMapping40.mat spells them.
_NYU40 = """\
wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves, curtain,
dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, television, paper, towel, shower curtain, box,
whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, otherstructure, otherfurniture, otherprop
"""

# The 13 classes of Couprie et al. 2013, and which of these (from 1) each of the 40 classes belongs to, by map40to13.m of
# howard-mahe/nyudv2_class_mapping.
_NYU13 = "bed, books, ceiling, chair, floor, furniture, objects, picture, sofa, table, tv, wall, window"
_NYU13_OF_40 = (
    12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5,
    7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7,
)  # fmt: skip


def _nyu() -> list[LabelSpace]:
    """Makes the label spaces of NYU Depth v2, where id 0 is unlabelled.

    nyu894, nyu40 and nyu13 read the ids 1 ... 894 of nyu_depth_v2_labeled.mat. nyu40_mapped and nyu13_mapped read files that
    hold the 40 or the 13 classes themselves. The lines of nyu894.txt have the `names` of the MATLAB file, in its order, each
    after the number of its class among the 40 (classMapping40.mat).
    """
    lines = Path(__file__).with_name("nyu894.txt").read_text(encoding="utf-8").splitlines()
    of_raw = [int(line[:2]) for line in lines]
    classes = {40: _listed(_NYU40), 13: _listed(_NYU13)}
    to_40 = {0: 40} | {i: mapped - 1 for i, mapped in enumerate(of_raw, 1)}
    to_13 = {0: 13} | {i: _NYU13_OF_40[mapped - 1] - 1 for i, mapped in enumerate(of_raw, 1)}
    return [
        _space("nyu894", [line[3:] for line in lines], {0: 894} | {i: i - 1 for i in range(1, 895)}),
        _space("nyu40", classes[40], to_40),
        _space("nyu13", classes[13], to_13),
        *(_space(f"nyu{n}_mapped", classes[n], {0: n} | {i: i - 1 for i in range(1, n + 1)}) for n in (40, 13)),
    ]


LABEL_SPACES: dict[str, LabelSpace] = {
    space.name: space for space in (*_CITYSCAPES_LIKE, CAMVID, _CAMVID_ORIGINAL, _ADE, *_nyu(), _COCO)
}
"""All published label spaces by the name that --data.labels takes."""
