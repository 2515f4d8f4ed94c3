"""Triton kernels and their launchers, one file per op. Importing one needs Triton."""
