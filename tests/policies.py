"""A hospital's policy as `init` writes it, with a small budget; a test names what it changes."""

from decimal import Decimal

from client import config


def policy(**changes):
    given = {
        "epsilon_cap": Decimal(1),
        "delta_cap": Decimal("1e-5"),
        "hospitals_min": 3,
        "colluders_min": 0,
        "patients_min": 5,
        "exact_releases_max": 9,
        "cell_min": config.CELL_MIN,
        "parameters_share_max": config.PARAMETERS_SHARE_MAX,
        "share_max": config.SHARE_MAX,
        "site_aggregates": False,
        "cluster_sums": False,
        "local_steps_max": config.LOCAL_STEPS_MAX,
        "allowed_studies": (),
    }
    return config.Policy(**(given | changes))
