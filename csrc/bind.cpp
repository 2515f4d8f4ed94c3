#include "csrc/bind.h"

void bind_ops(pybind11::module_& m) {
  bind_index_check(m);
  bind_peak(m);
  bind_gathered_inner_product(m);
  bind_inner_product_topk(m);
  bind_inner_product_rank(m);
  bind_catalogue_log_mass(m);
  bind_masked_topk(m);
  bind_masked_rank(m);
  bind_plackett_luce(m);
  bind_embedding_plackett_luce(m);
  bind_position_sample(m);
  bind_gumbel_noise(m);
  bind_dropout_mask(m);
  bind_complement_sample(m);
  bind_grouped_relation_distance(m);
  bind_pair_distance_huber(m);
  bind_triplet_angle_huber(m);
  bind_pair_sample(m);
  bind_weighted_sample(m);
  bind_touched_rows(m);
  bind_lazy_update(m);
  bind_hidden_layer(m);
}
