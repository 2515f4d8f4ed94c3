// Every csrc/<op>.cpp defines one of these; csrc/bind.cpp calls them all.
#pragma once
#include <pybind11/pybind11.h>

void bind_ops(pybind11::module_& m);

void bind_index_check(pybind11::module_& m);
void bind_peak(pybind11::module_& m);
void bind_gathered_inner_product(pybind11::module_& m);
void bind_embedding_plackett_luce(pybind11::module_& m);
void bind_inner_product_topk(pybind11::module_& m);
void bind_catalogue_log_mass(pybind11::module_& m);
void bind_inner_product_rank(pybind11::module_& m);
void bind_plackett_luce(pybind11::module_& m);
void bind_masked_rank(pybind11::module_& m);
void bind_masked_topk(pybind11::module_& m);
void bind_position_sample(pybind11::module_& m);
void bind_gumbel_noise(pybind11::module_& m);
void bind_dropout_mask(pybind11::module_& m);
void bind_complement_sample(pybind11::module_& m);
void bind_grouped_relation_distance(pybind11::module_& m);
void bind_pair_distance_huber(pybind11::module_& m);
void bind_triplet_angle_huber(pybind11::module_& m);
void bind_pair_sample(pybind11::module_& m);
void bind_weighted_sample(pybind11::module_& m);
void bind_touched_rows(pybind11::module_& m);
void bind_lazy_update(pybind11::module_& m);
void bind_hidden_layer(pybind11::module_& m);
