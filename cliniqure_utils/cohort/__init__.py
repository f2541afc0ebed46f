"""The demo cohort: a chest X-ray data set that anyone may have, in the layout of VinDr-CXR.

Films are simulated physically from one chest CT (`anatomy`), with findings built into the body (`lesions`), one
geometry and exposure per patient (`projection`, `patient`), three readers who disagree (`readers`), reports and
clinical context (`report_text`), written as the DICOM files that scanners write (`files`). `data/demo_cohort.md` is the
data sheet.
"""

from cliniqure_utils.cohort.making import CohortError, ensure_cohort, image_ids
from cliniqure_utils.cohort.prevalence import compare_with_vindr, prevalence_table

__all__ = ["CohortError", "compare_with_vindr", "ensure_cohort", "image_ids", "prevalence_table"]
