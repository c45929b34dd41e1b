#include "experiments/cold_start/baselines.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "experiments/cold_start/network.h"

namespace trib::experiments {
namespace {

using namespace tasks::cold_start;

constexpr std::size_t none = static_cast<std::size_t>(-1);

// In 16 sums, which a compiler may keep in vectors.
float dot(const float* x, const float* y, std::size_t size) {
  float sums[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= size; i += 16)
    for (std::size_t j = 0; j < 16; ++j) sums[j] += x[i + j] * y[i + j];
  for (; i < size; ++i) sums[0] += x[i] * y[i];
  for (std::size_t width = 8; width > 0; width /= 2)
    for (std::size_t j = 0; j < width; ++j) sums[j] += sums[j + width];
  return sums[0];
}

void add(float a, const float* __restrict x, float* __restrict y, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) y[i] += a * x[i];
}

// What every baseline trains on.
class Baseline {
 public:
  Baseline(const BaselineOptions& options, const Dataset& dataset, const Split& split, const Catalogue& catalogue,
           const Validation& validation)
      : options_(options), split_(split), validation_(validation), random_(RandomKey::from_seed(options.seed, 21)) {
    user_count_ = std::ssize(dataset.users);
    item_count_ = std::ssize(dataset.items);
    const std::vector<std::uint8_t> available = split.available();
    for (std::size_t i = 0; i < available.size(); ++i)
      if (available[i] != 0) warm_.push_back(static_cast<std::int32_t>(i));
    for (const Interaction& pair : split.training()) known_.insert(key(pair.user, pair.item));
    // All groups of an item's features in one vocabulary.
    std::int64_t offset = 0;
    item_sets_.resize(static_cast<std::size_t>(item_count_));
    for (const FeatureGroup& group : catalogue.groups()) {
      for (std::int64_t item = 0; item < item_count_; ++item)
        for (const std::int32_t feature : group.of(item))
          item_sets_[static_cast<std::size_t>(item)].push_back(static_cast<std::int32_t>(offset + feature));
      offset += group.vocabulary;
    }
    item_features_ = offset;
    const auto records = user_records(dataset, split.training());
    user_features_ = 0;
    user_sets_.resize(records.size());
    for (std::size_t g = 0; g < user_groups.size(); ++g) {
      for (std::size_t u = 0; u < records.size(); ++u)
        for (const std::int32_t feature : records[u].features[g])
          user_sets_[u].push_back(static_cast<std::int32_t>(user_features_ + feature));
      user_features_ += user_groups[g].second;
    }
  }

  Vectors popularity() const {
    Vectors vectors{.size = 1,
                    .users = std::vector<float>(static_cast<std::size_t>(user_count_), 1.0f),
                    .items = std::vector<float>(static_cast<std::size_t>(item_count_), 0.0f)};
    for (const Interaction& pair : split_.training()) vectors.items[static_cast<std::size_t>(pair.item)] += 1.0f;
    return vectors;
  }

  Vectors mf() {
    Weights users(user_count_, options_.size, 0.1, random_), items(item_count_, options_.size, 0.1, random_);
    const auto step = [&](std::span<const Interaction> batch) {
      for (const Interaction& pair : batch) {
        const std::int32_t other = negative(pair.user);
        bpr(users.row(pair.user), items.row(pair.item), items.row(other), batch.size(), users.d_row(pair.user),
            items.d_row(pair.item), items.d_row(other));
      }
      for (Weights* weights : {&users, &items}) weights->update(options_.learning_rate, options_.weight_decay);
    };
    return train(step, validation_.warm, [&]() -> Vectors { return {options_.size, users.values, items.values}; });
  }

  Vectors content() {
    Weights users(user_count_, options_.size, 0.1, random_);
    Encoder encoder(item_features_, 0, 256, options_.size, false, random_);
    const auto d = static_cast<std::size_t>(options_.size);
    const auto step = [&](std::span<const Interaction> batch) {
      // Every item once, however many pairs have it.
      std::vector<std::int32_t> others;
      for (const Interaction& pair : batch) others.push_back(negative(pair.user));
      std::vector<std::size_t> place(static_cast<std::size_t>(item_count_), none);
      std::vector<std::span<const std::int32_t>> sets;
      const auto place_of = [&](std::int32_t item) {
        std::size_t& found = place[static_cast<std::size_t>(item)];
        if (found == none) {
          found = sets.size() * d;
          sets.push_back(item_sets_[static_cast<std::size_t>(item)]);
        }
        return found;
      };
      for (std::size_t i = 0; i < batch.size(); ++i) place_of(batch[i].item), place_of(others[i]);
      const std::vector<float>& items = encoder.forward(sets, {});
      std::vector<float> d_items(items.size(), 0.0f);
      for (std::size_t i = 0; i < batch.size(); ++i) {
        const std::size_t own = place_of(batch[i].item), other = place_of(others[i]);
        bpr(users.row(batch[i].user), &items[own], &items[other], batch.size(), users.d_row(batch[i].user),
            &d_items[own], &d_items[other]);
      }
      encoder.backward(d_items);
      users.update(options_.learning_rate, options_.weight_decay);
      encoder.update(options_.learning_rate, options_.weight_decay);
    };
    return train(step, cold_or_warm(), [&]() -> Vectors {
      return {options_.size, users.values, all_items(encoder, {})};
    });
  }

  Vectors dropoutnet() {
    const Vectors teacher = mf();
    const auto d = static_cast<std::size_t>(options_.size);
    Encoder user_tower(user_features_, options_.size, 2 * options_.size, options_.size, true, random_);
    Encoder item_tower(item_features_, options_.size, 2 * options_.size, options_.size, true, random_);
    const auto step = [&](std::span<const Interaction> batch) {
      std::vector<std::span<const std::int32_t>> user_sets, item_sets;
      std::vector<float> user_input, item_input, targets;
      for (const Interaction& pair : batch) {
        for (const std::int32_t item : {pair.item, warm_[random_.below(warm_.size())]}) {
          const float* u = &teacher.users[static_cast<std::size_t>(pair.user) * d];
          const float* v = &teacher.items[static_cast<std::size_t>(item) * d];
          targets.push_back(dot(u, v, d));
          user_sets.push_back(user_sets_[static_cast<std::size_t>(pair.user)]);
          item_sets.push_back(item_sets_[static_cast<std::size_t>(item)]);
          append(user_input, u, random_.bernoulli(0.2));
          append(item_input, v, random_.bernoulli(0.5));
        }
      }
      const std::vector<float>&users = user_tower.forward(user_sets, user_input),
            &items = item_tower.forward(item_sets, item_input);
      std::vector<float> d_users(users.size()), d_items(items.size());
      const float scale = 2.0f / static_cast<float>(targets.size());
      for (std::size_t i = 0; i < targets.size(); ++i) {
        const float error = dot(&users[i * d], &items[i * d], d) - targets[i];
        for (std::size_t j = 0; j < d; ++j) {
          d_users[i * d + j] = scale * error * items[i * d + j];
          d_items[i * d + j] = scale * error * users[i * d + j];
        }
      }
      user_tower.backward(d_users);
      item_tower.backward(d_items);
      for (Encoder* tower : {&user_tower, &item_tower}) tower->update(options_.learning_rate, options_.weight_decay);
    };
    std::vector<std::span<const std::int32_t>> sets(user_sets_.begin(), user_sets_.end());
    std::vector<float> user_input, item_input;
    for (std::int64_t user = 0; user < user_count_; ++user)
      append(user_input, &teacher.users[static_cast<std::size_t>(user) * d],
             split_.is_cold_user(static_cast<std::int32_t>(user)));
    std::vector<bool> is_warm(static_cast<std::size_t>(item_count_));
    for (const std::int32_t item : warm_) is_warm[static_cast<std::size_t>(item)] = true;
    for (std::size_t item = 0; item < is_warm.size(); ++item)
      append(item_input, &teacher.items[item * d], !is_warm[item]);
    return train(step, cold_or_warm(), [&]() -> Vectors {
      return {options_.size, user_tower.forward(sets, user_input), all_items(item_tower, item_input)};
    });
  }

  Vectors clcrec() {
    constexpr std::size_t negatives = 128, candidates = 1 + negatives;
    constexpr float temperature = 2.0f, lambda = 0.5f;
    const auto d = static_cast<std::size_t>(options_.size);
    Weights users(user_count_, options_.size, 0.1, random_), items(item_count_, options_.size, 0.1, random_);
    Encoder encoder(item_features_, 0, 256, options_.size, false, random_);
    std::vector<std::span<const std::int32_t>> sets;
    std::vector<std::size_t> place(static_cast<std::size_t>(item_count_));
    for (std::size_t i = 0; i < warm_.size(); ++i) {
      place[static_cast<std::size_t>(warm_[i])] = i * d;
      sets.push_back(item_sets_[static_cast<std::size_t>(warm_[i])]);
    }
    std::vector<std::int32_t> chosen(candidates);
    std::vector<const float*> views(candidates);
    std::vector<float*> d_views(candidates);
    const auto step = [&](std::span<const Interaction> batch) {
      // The content of every warm item once a batch, and both views of it at length 1 once too; a pair's candidates are
      // its item and random ones.
      const std::vector<float>& content = encoder.forward(sets, {});
      std::vector<float> d_content(content.size(), 0.0f);
      const Normalized unit_content(content.data(), warm_.size(), d);
      Normalized unit_items(items.values.data(), static_cast<std::size_t>(item_count_), d);
      std::vector<float> d_unit_content(content.size(), 0.0f), d_unit_items(items.values.size(), 0.0f);
      const float share = 1.0f / static_cast<float>(batch.size());
      for (const Interaction& pair : batch) {
        chosen[0] = pair.item;
        for (std::size_t k = 1; k < candidates; ++k) chosen[k] = warm_[random_.below(warm_.size())];
        for (std::size_t k = 0; k < candidates; ++k) {
          const std::size_t row = place[static_cast<std::size_t>(chosen[k])];
          views[k] = &unit_content.values[row];
          d_views[k] = &d_unit_content[row];
        }
        const std::size_t own = static_cast<std::size_t>(pair.item) * d;
        contrast(&unit_items.values[own], &d_unit_items[own], views, d_views, lambda * share, temperature);
        for (std::size_t k = 0; k < candidates; ++k) {
          const std::size_t row = place[static_cast<std::size_t>(chosen[k])];
          const bool is_content = random_.bernoulli(0.5);
          views[k] = is_content ? &content[row] : items.row(chosen[k]);
          d_views[k] = is_content ? &d_content[row] : items.d_row(chosen[k]);
        }
        contrast(users.row(pair.user), users.d_row(pair.user), views, d_views, (1.0f - lambda) * share, temperature);
      }
      unit_content.add_gradient(d_unit_content, d_content.data());
      unit_items.add_gradient(d_unit_items, items.gradient.data());
      encoder.backward(d_content);
      for (Weights* weights : {&users, &items}) weights->update(options_.learning_rate, options_.weight_decay);
      encoder.update(options_.learning_rate, options_.weight_decay);
    };
    return train(step, cold_or_warm(), [&]() -> Vectors {
      std::vector<float> vectors = all_items(encoder, {});
      for (const std::int32_t item : warm_)
        std::copy_n(items.row(item), d, vectors.begin() + static_cast<std::ptrdiff_t>(item) * options_.size);
      return {options_.size, users.values, std::move(vectors)};
    });
  }

 private:
  static std::int64_t key(std::int32_t user, std::int32_t item) {
    return (static_cast<std::int64_t>(user) << 32) | item;
  }

  std::int32_t negative(std::int32_t user) {
    for (;;) {
      const std::int32_t item = warm_[random_.below(warm_.size())];
      if (!known_.contains(key(user, item))) return item;
    }
  }

  // Epochs of step(pairs of a batch) until `score` of vectors() has not grown for a while: the best there were.
  template <typename Step, typename VectorsOf>
  Vectors train(const Step& step, const std::function<double(const Vectors&)>& score, const VectorsOf& vectors) {
    std::vector<Interaction> pairs = split_.training();
    const auto batch = static_cast<std::size_t>(options_.batch);
    Vectors best;
    double best_score = -1.0;
    for (std::int64_t epoch = 1; epoch <= options_.epochs && epoch - best.epochs <= options_.patience; ++epoch) {
      for (std::size_t i = pairs.size(); i > 1; --i) std::swap(pairs[i - 1], pairs[random_.below(i)]);
      for (std::size_t first = 0; first < pairs.size(); first += batch)
        step(std::span<const Interaction>(pairs).subspan(first, std::min(batch, pairs.size() - first)));
      Vectors now = vectors();
      const double now_score = score(now);
      if (now_score <= best_score) continue;
      best_score = now_score;
      best = std::move(now);
      best.epochs = epoch;
    }
    return best;
  }

  const std::function<double(const Vectors&)>& cold_or_warm() const {
    return split_.queries(Setting::cold_item, Part::validation).users.empty() ? validation_.warm : validation_.cold;
  }

  // Gradients of softplus(u·(j − i))/count.
  void bpr(const float* u, const float* i, const float* j, std::size_t count, float* d_u, float* d_i,
           float* d_j) const {
    const auto d = static_cast<std::size_t>(options_.size);
    float difference = 0.0f;
    for (std::size_t k = 0; k < d; ++k) difference += u[k] * (j[k] - i[k]);
    const float slope = 1.0f / (1.0f + std::exp(-difference)) / static_cast<float>(count);
    for (std::size_t k = 0; k < d; ++k) {
      d_u[k] += slope * (j[k] - i[k]);
      d_i[k] -= slope * u[k];
      d_j[k] += slope * u[k];
    }
  }

  void append(std::vector<float>& input, const float* vector, bool drop) const {
    for (std::int64_t k = 0; k < options_.size; ++k) input.push_back(drop ? 0.0f : vector[k]);
  }

  // Vectors at length 1: x̂ = x/‖x‖, dx = (dx̂ − x̂ (x̂·dx̂))/‖x‖.
  struct Normalized {
    std::size_t d;
    std::vector<float> values, norms;
    Normalized(const float* x, std::size_t rows, std::size_t columns) : d(columns), values(x, x + rows * columns) {
      for (std::size_t row = 0; row < rows; ++row) {
        float* unit = values.data() + row * d;
        norms.push_back(std::sqrt(dot(unit, unit, d)) + 1e-12f);
        for (std::size_t j = 0; j < d; ++j) unit[j] /= norms.back();
      }
    }
    void add_gradient(const std::vector<float>& d_values, float* dx) const {
      for (std::size_t row = 0; row < norms.size(); ++row) {
        const float *unit = values.data() + row * d, *d_unit = d_values.data() + row * d;
        const float along = dot(unit, d_unit, d), inverse = 1.0f / norms[row];
        for (std::size_t j = 0; j < d; ++j) dx[row * d + j] += inverse * (d_unit[j] - unit[j] * along);
      }
    }
  };

  // InfoNCE of an anchor against candidates, the first of them the positive: gradients times `weight`.
  void contrast(const float* anchor, float* d_anchor, const std::vector<const float*>& views,
                const std::vector<float*>& d_views, float weight, float temperature) const {
    const auto d = static_cast<std::size_t>(options_.size);
    std::vector<float> p(views.size());
    float largest = -1e30f, sum = 0.0f;
    for (std::size_t k = 0; k < views.size(); ++k)
      largest = std::max(largest, p[k] = dot(anchor, views[k], d) / temperature);
    for (float& value : p) sum += value = std::exp(value - largest);
    for (std::size_t k = 0; k < views.size(); ++k) {
      const float slope = weight / temperature * (p[k] / sum - (k == 0 ? 1.0f : 0.0f));
      add(slope, views[k], d_anchor, d);
      add(slope, anchor, d_views[k], d);
    }
  }

  std::vector<float> all_items(Encoder& encoder, const std::vector<float>& dense) const {
    return encoder.forward({item_sets_.begin(), item_sets_.end()}, dense);
  }

  BaselineOptions options_;
  const Split& split_;
  const Validation& validation_;
  ChaCha20Random random_;
  std::int64_t user_count_ = 0, item_count_ = 0, item_features_ = 0, user_features_ = 0;
  std::vector<std::int32_t> warm_;
  std::unordered_set<std::int64_t> known_;
  std::vector<std::vector<std::int32_t>> item_sets_, user_sets_;
};

}  // namespace

std::vector<std::string_view> baseline_names() {
  return {"popularity", "mf", "content", "dropoutnet", "clcrec"};
}

Result<Vectors> train_baseline(std::string_view name, const BaselineOptions& options, const Dataset& dataset,
                               const Split& split, const Catalogue& catalogue, const Validation& validation) {
  Baseline baseline(options, dataset, split, catalogue, validation);
  if (name == "popularity") return baseline.popularity();
  if (name == "mf") return baseline.mf();
  if (name == "content") return baseline.content();
  if (name == "dropoutnet") return baseline.dropoutnet();
  if (name == "clcrec") return baseline.clcrec();
  return Error{Errc::invalid_argument,
               fmt::format("there is no baseline \"{}\"; there are {}", name, fmt::join(baseline_names(), ", "))};
}

}  // namespace trib::experiments
