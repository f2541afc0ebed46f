"""The cohort beside VinDr-CXR."""

import pandas as pd
import pytest

from cliniqure_utils import cohort
from cliniqure_utils.cohort.plan import (
    LEAST_SHARE,
)


def test_cohort_beside_vindr(made):
    table = cohort.compare_with_vindr(made)
    assert list(table.columns) == ["VinDr-CXR", "cohort"] and table["VinDr-CXR"].notna().all()
    assert table.loc["films with Cardiomegaly", "VinDr-CXR"] == pytest.approx(2300 / 15000)
    assert table.loc["films without a finding", "VinDr-CXR"] == pytest.approx(10606 / 15000)
    assert table.loc["reader against reader: box F1 at IoU 0.4", "VinDr-CXR"] == pytest.approx(0.508, abs=0.001)
    truth = pd.read_csv(made / "truth.csv")
    prevalence = cohort.prevalence_table(made)
    assert prevalence.cohort_films.Cardiomegaly == truth[truth.class_name == "Cardiomegaly"].image_id.nunique()
    assert prevalence.vindr.is_monotonic_increasing is False and (prevalence.planned >= LEAST_SHARE).all()
