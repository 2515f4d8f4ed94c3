"""CPU kernels of rankdistill. Addresses and sizes only; rankdistill.ops checks everything first."""

def isa() -> str: ...
def supported_isas() -> list[str]: ...
def openmp() -> bool: ...
def max_threads() -> int: ...
def flush_denormals(on: bool, /) -> None: ...
def compiler() -> str: ...
def first_out_of_range(indices: int, count: int, low: int, high: int, /) -> int: ...
def multiply_adds(what: int, steps: int, /) -> int: ...
def gathered_inner_product_forward(
    dtype: int,
    users: int,
    user_ids: int,
    items: int,
    item_ids: int,
    item_bias: int,
    scores: int,
    B: int,
    K: int,
    D: int,
    /,
) -> None: ...
def gathered_inner_product_row_grads(
    dtype: int, grad_scores: int, items: int, item_ids: int, row_grads: int, B: int, K: int, D: int, /
) -> None: ...
def gathered_inner_product_user_grads(
    dtype: int, row_grads: int, user_ids: int, grad_users: int, U: int, B: int, D: int, /
) -> None: ...
def gathered_inner_product_item_grads(
    dtype: int,
    grad_scores: int,
    users: int,
    user_ids: int,
    item_ids: int,
    grad_items: int,
    N: int,
    B: int,
    K: int,
    D: int,
    /,
) -> None: ...
def gathered_inner_product_bias_grads(
    dtype: int, grad_scores: int, item_ids: int, grad_bias: int, N: int, listed: int, /
) -> None: ...
def gathered_inner_product_touched_grads(
    dtype: int,
    grad_scores: int,
    users: int,
    user_ids: int,
    order: int,
    starts: int,
    grads: int,
    M: int,
    K: int,
    D: int,
    /,
) -> None: ...
def touched_rows(ids: int, count: int, N: int, order: int, touched: int, starts: int, /) -> int: ...
def sum_touched_rows(
    dtype: int, rows: int, order: int, starts: int, sums: int, M: int, D: int, /
) -> None: ...
def lazy_adam_step(
    dtype: int,
    table: int,
    means: int,
    squares: int,
    ids: int,
    grads: int,
    M: int,
    D: int,
    beta1: float,
    beta2: float,
    step_size: float,
    eps: float,
    /,
) -> None: ...
def lazy_sgd_step(
    dtype: int,
    table: int,
    marks: int,
    ids: int,
    grads: int,
    M: int,
    D: int,
    rate: float,
    kept: float,
    log_decay: float,
    log_decay_after: float,
    /,
) -> None: ...
def decay_catch_up(
    dtype: int, table: int, marks: int, ids: int, M: int, D: int, log_decay: float, /
) -> None: ...
def position_sample(
    users: int,
    lengths: int,
    positions: int,
    R: int,
    K: int,
    longest: int,
    temperature: float,
    seed: int,
    epoch: int,
    stream: int,
    /,
) -> bool: ...
def dropout_mask(
    ids: int,
    kept: int,
    M: int,
    n: int,
    W: int,
    least: int,
    seed: int,
    epoch: int,
    last_word: int,
    /,
) -> None: ...
def gumbel_noise(
    ids: int, parts: int, noise: int, B: int, count: int, seed: int, epoch: int, last_word: int, /
) -> None: ...
def pair_sample(
    users: int,
    positions: int,
    lengths: int,
    pairs: int,
    R: int,
    K: int,
    temperature: float,
    distinct: bool,
    seed: int,
    epoch: int,
    stream: int,
    /,
) -> None: ...
def weighted_sample(
    dtype: int,
    users: int,
    weights: int,
    samples: int,
    R: int,
    K: int,
    M: int,
    seed: int,
    epoch: int,
    stream: int,
    /,
) -> bool: ...
def complement_sample(
    users: int,
    positions: int,
    indptr: int,
    indices: int,
    listed: int,
    listed_count: int,
    n_items: int,
    samples: int,
    R: int,
    L: int,
    seed: int,
    epoch: int,
    stream: int,
    /,
) -> None: ...
def inner_product_topk(
    dtype: int,
    users: int,
    items: int,
    biases: int,
    indptr: int,
    indices: int,
    scores: int,
    ids: int,
    lengths: int,
    B: int,
    N: int,
    K: int,
    D: int,
    prepared: int,
    prepared_bytes: int,
    filter: int,
    /,
) -> None: ...
def prepared_items_bytes(dtype: int, N: int, D: int, has_bias: bool, /) -> int: ...
def prepare_items(dtype: int, items: int, biases: int, order: int, N: int, D: int, out: int, /) -> None: ...
def first_not_ascending(indptr: int, indices: int, rows: int, /) -> int: ...
def plackett_luce_forward(
    dtype: int,
    scores: int,
    stride_scores: int,
    tail: int,
    stride_tail: int,
    lengths: int,
    losses: int,
    slopes: int,
    tail_terms: int,
    B: int,
    K: int,
    L: int,
    /,
) -> None: ...
def plackett_luce_backward(
    dtype: int,
    grad_losses: int,
    tail: int,
    stride_tail: int,
    lengths: int,
    slopes: int,
    tail_terms: int,
    grad_scores: int,
    grad_tail: int,
    B: int,
    K: int,
    L: int,
    /,
) -> None: ...
def embedding_plackett_luce_forward(
    dtype: int,
    users: int,
    user_ids: int,
    items: int,
    item_ids: int,
    item_bias: int,
    lengths: int,
    losses: int,
    slopes: int,
    user_slopes: int,
    B: int,
    K: int,
    L: int,
    D: int,
    /,
) -> None: ...
def masked_topk(
    dtype: int,
    given: int,
    stride: int,
    indptr: int,
    indices: int,
    mask: int,
    mask_stride: int,
    scores: int,
    ids: int,
    lengths: int,
    B: int,
    N: int,
    K: int,
    /,
) -> None: ...
def masked_rank(
    dtype: int,
    given: int,
    stride: int,
    item_ids: int,
    indptr: int,
    indices: int,
    mask: int,
    mask_stride: int,
    ranks: int,
    B: int,
    N: int,
    K: int,
    /,
) -> None: ...
def inner_product_rank(
    dtype: int,
    users: int,
    items: int,
    bias: int,
    item_ids: int,
    indptr: int,
    indices: int,
    ranks: int,
    B: int,
    N: int,
    K: int,
    D: int,
    /,
) -> None: ...
def grouped_relation_distance(
    teacher: int,
    teacher_width: int,
    student: int,
    student_width: int,
    bounds: int,
    n_groups: int,
    positive_only: bool,
    slopes: int,
    /,
) -> float: ...
def pair_distance_huber(
    teacher: int,
    teacher_width: int,
    student: int,
    student_width: int,
    B: int,
    single: bool,
    slopes: int,
    /,
) -> float: ...
def triplet_angle_huber(
    teacher: int,
    teacher_width: int,
    student: int,
    student_width: int,
    B: int,
    anchors: int,
    n_anchors: int,
    single: bool,
    slopes: int,
    /,
) -> float: ...
def weighted_layer(
    dtype: int,
    layer: int,
    bias: int,
    shares: int,
    weighted: int,
    rows: int,
    M: int,
    H: int,
    /,
) -> None: ...
def weighted_layer_backward(
    dtype: int,
    slopes: int,
    layer: int,
    shares: int,
    weighted: int,
    grad_shares: int,
    grad_bias: int,
    rows: int,
    M: int,
    H: int,
    /,
) -> None: ...
def keep_where(dtype: int, x: int, kept: int, n: int, /) -> None: ...
def dropped_layer(dtype: int, layer: int, kept: int, n: int, /) -> None: ...
def catalogue_block_items() -> int: ...
def catalogue_log_mass_forward(
    dtype: int,
    users: int,
    items: int,
    bias: int,
    indptr: int,
    indices: int,
    log_masses: int,
    tops: int,
    sums: int,
    kept: int,
    kept_tops: int,
    B: int,
    N: int,
    D: int,
    log_share: float,
    /,
) -> None: ...
def catalogue_log_mass_backward(
    dtype: int,
    grad: int,
    users: int,
    items: int,
    bias: int,
    indptr: int,
    indices: int,
    tops: int,
    sums: int,
    kept: int,
    kept_tops: int,
    grad_users: int,
    grad_items: int,
    grad_bias: int,
    B: int,
    N: int,
    D: int,
    log_share: float,
    fresh: bool,
    /,
) -> None: ...
