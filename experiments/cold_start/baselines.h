// The baselines of the comparison, each by its published form, on the features that our model has too. Every one ends
// in one vector a user and one an item, and scores by their product.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tasks/cold_start/catalogue.h"
#include "tasks/cold_start/split.h"

namespace trib::experiments {

struct BaselineOptions {
  std::int64_t size = 64, epochs = 30, batch = 1024;
  std::int64_t patience = 5;  // epochs without a better validation after which training ends
  double learning_rate = 1e-3, weight_decay = 1e-4;
  std::uint64_t seed = 1;
};

struct Vectors {
  std::int64_t size = 0;
  std::vector<float> users, items;  // (users, size), (items, size)
  std::int64_t epochs = 0;          // that led to them
};

// How good vectors are on the validation part: for warm items, and for cold ones.
struct Validation {
  std::function<double(const Vectors&)> warm, cold;
};

// "popularity", "mf", "content", "dropoutnet" or "clcrec".
//   popularity: the number of training interactions; nothing is known of a cold item.
//   mf: matrix factorization by BPR (Rendel et al. 2009, arXiv 1205.2618); a cold item keeps its initial vector.
//   content: a user's vector against an encoder of the item's content alone, by BPR.
//   dropoutnet: Volkovs et al. 2017: towers over (vector of mf, content) that reproduce mf's scores, with the vector
//     left out at random; a cold item or user has none.
//   clcrec: Wei et al. 2021 (arXiv 2107.05315): λ·InfoNCE(embedding, content) + (1 − λ)·InfoNCE(user, item), where
//     content stands for half of the items' embeddings; temperature 2, 128 negatives, λ = ½.
// Training ends with the epochs, or once `patience` of them brought nothing; the best epoch's vectors are the result.
// mf goes by warm items, the others, which know something of cold ones, by those.
std::vector<std::string_view> baseline_names();
Result<Vectors> train_baseline(std::string_view name, const BaselineOptions& options,
                               const tasks::cold_start::Dataset& dataset, const tasks::cold_start::Split& split,
                               const tasks::cold_start::Catalogue& catalogue, const Validation& validation);

}  // namespace trib::experiments
