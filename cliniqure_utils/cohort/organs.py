"""Label values of the organs in every volume: those of TotalSegmentator v2, which the phantom uses too."""

LOBES = {"left upper": 10, "left lower": 11, "right upper": 12, "right middle": 13, "right lower": 14}
HEART, AORTA = 51, 52
BONES = (*range(25, 51), *range(69, 75), *range(92, 117), 118)
VESSELS = tuple(range(52, 64))
CONTRAST_VEINS = (54, 55, 59, 60, 62)  # vessels of the neck and arms that held undiluted contrast agent
