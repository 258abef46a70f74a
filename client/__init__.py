"""Inside the hospital; the server cannot import it."""

import os

# NumPy reads it when it is loaded. Several vaults may share a machine, and a second thread made a training step slower.
if not {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
