"""What others ship for exact top-K on the CPU, tuned as well as they can be: optional (`pip install rankdistill[bench]`).

Each is a variant for `harness.measure`, or `Missing`. Their OpenMP and BLAS pools are their own copies, so each gets
its number of threads from `limit_threads`.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch

from benchmarks.harness import Missing, Options, PerShape


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def faiss_index(selection: str, options: Options) -> PerShape | Missing:
    """IndexFlatIP through its matrix products, selecting by "heap" or "reservoir"; it cannot mask.

    Left alone faiss 1.15 takes the products only where B·D >= 128,000, and the reservoir where K >= 100.
    """
    if not installed("faiss"):
        return Missing("faiss-cpu is not installed")
    import faiss

    def make(users, items, k, exclude):
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items.numpy())
        queries = users.numpy()

        def call():
            faiss.omp_set_num_threads(options.threads)
            faiss.cvar.distance_compute_blas_threshold = 0
            faiss.cvar.distance_compute_min_k_reservoir = 0 if selection == "reservoir" else 1 << 30
            return tuple(map(torch.from_numpy, index.search(queries, k)))

        return call

    return PerShape(make)


def implicit_topk(options: Options) -> PerShape | Missing:
    """implicit.cpu.topk with its filter: numpy's product of 100 users at a time, then a heap per row."""
    if not installed("implicit"):
        return Missing("implicit is not installed")
    from implicit.cpu.topk import topk
    from scipy.sparse import csr_matrix
    from threadpoolctl import ThreadpoolController

    # Batches on threads of their own want one BLAS thread each, as implicit advises; a single batch wants them all.
    pools = ThreadpoolController().select(internal_api="openblas").lib_controllers

    def make(users, items, k, exclude):
        indptr, indices = (part.numpy() for part in exclude)
        seen = csr_matrix(
            (np.ones(len(indices), np.float32), indices, indptr), shape=(len(users), len(items))
        )
        queries, table = users.numpy(), items.numpy()
        blas_threads = options.threads if len(users) <= 100 else 1

        def call():
            for pool in pools:
                pool.set_num_threads(blas_threads)
            ids, scores = topk(table, queries, k, filter_query_items=seen, num_threads=options.threads)
            for pool in pools:
                pool.set_num_threads(options.threads)
            return torch.from_numpy(scores), torch.from_numpy(ids).long()

        return call

    return PerShape(make)


def limit_threads(options: Options) -> list[str]:
    """Gives every OpenMP and BLAS pool of this process its number of threads; says which BLAS kernels run."""
    if not installed("threadpoolctl"):
        return ["threadpoolctl is not installed: BLAS kernels unknown"]
    from threadpoolctl import ThreadpoolController

    said = []
    for pool in ThreadpoolController().lib_controllers:
        pool.set_num_threads(options.threads)
        if pool.user_api == "blas":
            library = pool.filepath.split("/")[-2].removesuffix(".libs")
            said.append(f"{library}: {pool.internal_api} {pool.version}, kernels for {pool.architecture}")
    return said
