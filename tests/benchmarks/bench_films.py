"""Wide films of `cliniqure pretrain` beside films of the cohort's kind, on CT and phantom; 192 pixels, one core.

`make bench ONLY=films`, 1 minute.
"""

from pathlib import Path

import numpy as np
import torch
from common import Bench, cost

from cliniqure_utils.cohort.patient import simulate
from cliniqure_utils.cohort.plan import plan_patient
from cliniqure_utils.pretraining import films, simulation

ANATOMY = Path(__file__).parents[2] / "data" / "pretraining" / "anatomy"
N_FILMS = 40
SEED = 7


def main() -> None:
    bench = Bench("films")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size = films.SIZE
    grid = int(simulation.GRID_SHARE * size)
    plans = [plan_patient(SEED, index)[0] for index in range(N_FILMS)]
    found = {}
    for name, number in (("CT", 0), ("phantom", 1)):
        body = films.load_body(films.body_path(ANATOMY, number))

        def wide(body=body):
            return [simulation.simulate_wide(body, plan, [SEED, k], size) for k, plan in enumerate(plans)]

        def narrow(body=body):
            return [simulate(body.anatomy, plan, [SEED, k], size, grid) for k, plan in enumerate(plans)]

        found[name] = cost(wide, narrow, repeats=2)
        ours, plain = (type(one)(one.cpu / N_FILMS, one.wall / N_FILMS) for one in found[name])
        bench.compare_cost(f"a wide film of the {name}", ours, plain, "a film of the cohort's kind")
    share = {kind: films.KINDS.count(kind) / len(films.KINDS) for kind in films.KINDS}
    (wide_ct, narrow_ct), (wide_phantom, _) = found["CT"], found["phantom"]
    mean = np.dot([share["cohort"], share["wide"], share["phantom"]], [narrow_ct.cpu, wide_ct.cpu, wide_phantom.cpu])
    bench.state("films of the mix, per core", "films/s", 1000 * N_FILMS / mean)
    torch.set_num_threads(threads)
    bench.write()
