"""Kernels: numpy arrays in, numpy arrays out; no configs, no disk. Imports only errors, at most."""
