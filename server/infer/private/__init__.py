"""Inference from one noisy Gram: all intervals and p-values here count the noise; nothing else reads NoisyMoments."""
