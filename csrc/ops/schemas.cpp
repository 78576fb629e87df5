#include <torch/csrc/stable/library.h>

// The signature and the shapes of each op; implementations are in cpu/ and cuda/ under the
// same names, the meaning in words is in starr_engine/ops.py.
STABLE_TORCH_LIBRARY(starr_engine, ops) {
  // key, value [T, K, D] -> k_cache, v_cache [P, G, K, D] at slot_mapping [T]
  ops.def(
      "store_kv(Tensor key, Tensor value, Tensor(a!) k_cache, Tensor(b!) v_cache, "
      "Tensor slot_mapping) -> ()");
  // k_cache, v_cache [P, G, K, D] at slots [S] -> key, value [S, K, D]
  ops.def("gather_kv(Tensor k_cache, Tensor v_cache, Tensor slots) -> (Tensor key, Tensor value)");
  // rows [T, F] -> pages [P, G, F] at slots [T]
  ops.def("store_rows(Tensor rows, Tensor(a!) pages, Tensor slots) -> ()");
  // pages [P, G, F] at slots [S] -> [S, F]
  ops.def("gather_rows(Tensor pages, Tensor slots) -> Tensor");
  // pages [L, C, P, G, K, D]: page source[i] -> page target[i] in all L * C
  ops.def("copy_pages(Tensor(a!) pages, int[] source, int[] target) -> ()");
  // rows [T, K, D] and cache [P, G, K, D] at slots [T] -> cosines [T]
  ops.def("row_similarity(Tensor rows, Tensor cache, Tensor slots) -> Tensor");
  // values [T] in R segments, bounds [R+1], counts [R] -> indices [sum of counts]
  ops.def("select_lowest(Tensor values, int[] cu_rows, int[] counts) -> Tensor");
  // logits [M, V] -> five vectors [M]
  ops.def(
      "logits_statistics(Tensor logits, int forbidden_token) -> (Tensor candidate, Tensor top1, "
      "Tensor top2, Tensor entropy, Tensor log_normalizer)");
  // logits [M, V]; rows and keys [D], options [D, 4] -> tokens [D]
  ops.def(
      "gumbel_argmax(Tensor logits, int forbidden_token, Tensor rows, Tensor keys, "
      "Tensor options) -> Tensor");
  // Blocks of n requests, [n, L] but for num_left [n] and ring [n, L, window]; 15 numbers of rule
  ops.def(
      "starr_decide(Tensor candidates, Tensor confidence, Tensor? signal, Tensor? deviance, "
      "Tensor masked, Tensor num_left, Tensor ring, Tensor seen, Tensor run, "
      "Tensor last_candidate, Tensor revoked, float[] rule) -> (Tensor unmask, Tensor revoke, "
      "Tensor new_ring, Tensor new_seen, Tensor new_run, Tensor new_revoked, Tensor threshold, "
      "Tensor variance, Tensor new_deviance, Tensor stability)");
  // logits [M, V], the rest as in starr_decide
  ops.def(
      "starr_step(Tensor logits, int forbidden_token, Tensor row_of, Tensor present, "
      "Tensor masked, Tensor num_left, Tensor ring, Tensor seen, Tensor run, "
      "Tensor last_candidate, Tensor revoked, float[] rule, bool logit_signal) -> "
      "(Tensor candidates, Tensor confidence, Tensor logit, Tensor top1, Tensor top2, "
      "Tensor entropy, Tensor unmask, Tensor revoke, Tensor new_ring, Tensor new_seen, "
      "Tensor new_run, Tensor new_revoked, Tensor threshold, Tensor variance, "
      "Tensor new_deviance, Tensor stability)");
}
