"""CUDA kernels of rankdistill. Addresses, sizes and a stream only; each launch returns an error text, empty on success."""

def runtime_version() -> int: ...
def architectures() -> str: ...
def device_count() -> int: ...
def unusable() -> str: ...
def position_sample(
    users: int,
    lengths: int,
    keys: int,
    samples: int,
    R: int,
    K: int,
    longest: int,
    temperature: float,
    seed: int,
    epoch: int,
    stream: int,
    cuda_stream: int,
    /,
) -> str: ...
def complement_sample(
    users: int,
    positions: int,
    indptr: int,
    indices: int,
    nonzeros: int,
    listed: int,
    listed_count: int,
    n_users: int,
    n_items: int,
    samples: int,
    R: int,
    L: int,
    seed: int,
    epoch: int,
    stream: int,
    cuda_stream: int,
    /,
) -> str: ...
