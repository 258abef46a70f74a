"""Inside the hospital; the server cannot import it."""
