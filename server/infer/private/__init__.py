"""Inference from one noisy Gram: all intervals and p-values here count the noise; nothing else reads NoisyMoments."""

from server.infer.private.family import read

__all__ = ["read"]
