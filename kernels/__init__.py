"""Kernel sources: cpu (C++ headers), cuda (CUDA C++), triton (Python)."""
