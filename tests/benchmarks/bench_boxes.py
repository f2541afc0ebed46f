"""Annotations: reading them, merging the readers' boxes, and how the cost grows."""

from common import Bench, cpu_seconds

from cliniqure_utils import boxes, vindr


def main() -> None:
    bench = Bench("boxes")
    bench.state("read and check 67,914 rows", "CPU s", cpu_seconds(lambda: vindr.read_annotations("torchxrayvision")))
    annotations, _ = vindr.read_annotations("torchxrayvision")
    some = annotations[annotations.image_id.isin(sorted(set(annotations.image_id))[:1500])]
    tenth = cpu_seconds(lambda: boxes.merge_reader_boxes(some, no_finding="drop"), 5)
    ours = cpu_seconds(lambda: boxes.merge_reader_boxes(annotations, no_finding="drop"))
    bench.compare("merge of 15,000 films", "CPU s", ours, 10 * tenth, "ten times 1,500 films: linear growth is 1.00")
    for rule in boxes.RULES:
        cost = cpu_seconds(lambda rule=rule: boxes.fuse_reader_boxes(annotations, rule), 2)
        bench.state(f"fuse 15,000 films by {rule}", "CPU s", cost)
    bench.write()
