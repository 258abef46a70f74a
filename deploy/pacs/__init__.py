"""Orthanc and dcmqrscp on a loopback of their own, for tests and for trying `motet-hospital receive` and `pull`."""
