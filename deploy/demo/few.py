"""The demo's study for a handful of patients: fewer columns, since a policy refuses a Gram in which one patient stands out."""

import re

from common.errors import ConfigError

CHANGES = (
    (r"correlation = \[.*?\]", 'correlation = ["longest_diameter_mm", "mean_hu", "age_years", "malignancy"]'),
    (r"predictors = \[.*?\]", 'predictors = ["longest_diameter_mm", "age_years"]'),
    (r"models = [^\n]*\n", ""),
    (r"descriptive = [^\n]*\n", ""),
    (
        r"\[\[statistics\.groups\]\].*?(?=\[recipe\])",
        '[[statistics.analyses]]\nkind = "fixed-site"\nformula = "malignancy ~ longest_diameter_mm"\n\n',
    ),
    (r"patients_declared = 190", "patients_declared = 44"),
    (r"held_out_fraction = 0\.28", "held_out_fraction = 0.5"),
)


def few(text: str) -> str:
    """Return deploy/demo/study.toml with these changes; raises ConfigError when it no longer says what they expect."""
    for old, new in CHANGES:
        text, changed = re.subn(old, new, text, count=1, flags=re.DOTALL)
        if changed != 1:
            raise ConfigError(f"deploy/demo/study.toml no longer says {old!r}.", action="Mend deploy/demo/few.py.")
    return text
