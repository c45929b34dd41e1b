#include "tasks/cold_start/recommender.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "common/hash.h"
#include "kernels/host_matrix.h"

namespace trib::tasks::cold_start {
namespace {

using kernels::HostMatrix;
using models::FeatureTower;
using models::FeatureTowerPass;

template <typename T>
void shuffle(std::vector<T>& values, RandomSource& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

// `count` of `from` without repetition, ascending; all of them if there are not more.
std::vector<std::int32_t> sample(const std::vector<std::int32_t>& from, std::int64_t count, RandomSource& random) {
  std::vector<std::int32_t> pool = from;
  const std::size_t wanted = std::min(pool.size(), static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < wanted; ++i) std::swap(pool[i], pool[i + random.below(pool.size() - i)]);
  pool.resize(wanted);
  std::ranges::sort(pool);
  return pool;
}

template <typename T>
T dot(const T* x, const T* y, std::size_t size) {
  T sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum += x[i] * y[i];
  return sum;
}

template <typename T>
void add(T a, const T* x, T* y, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) y[i] += a * x[i];
}

// log(1 + e^x)
template <typename T>
T softplus(T x) {
  return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
}

}  // namespace

// One pass over some users and the items that they meet.
template <typename T>
struct Recommender<T>::Forward {
  std::size_t d = 0;
  std::vector<std::int32_t> items;   // of each row of the item matrices
  std::vector<std::int32_t> row_of;  // by item; −1 if it is not among them
  std::vector<std::int32_t> negative_rows;
  std::vector<std::size_t> content_rows;    // whose content is looked at
  std::vector<std::int32_t> content_place;  // by row: its place among those, or −1
  FeatureTowerPass<T> item_pass, user_pass;
  std::vector<T> z;               // (items, d)
  std::vector<T> history, u;      // (users, d)
  std::vector<T> d_content;       // (content rows, d)
  std::vector<T> d_embedding;     // (items, d)
  std::span<const T> embeddings;  // the table of all items
  std::size_t row(std::int32_t item) const { return static_cast<std::size_t>(row_of[static_cast<std::size_t>(item)]); }
  const T* embedding(std::size_t row) const { return embeddings.data() + static_cast<std::size_t>(items[row]) * d; }
  std::size_t content(std::size_t row) const { return static_cast<std::size_t>(content_place[row]) * d; }
  HostMatrix<const T> item_matrix() const { return {z, std::ssize(items), static_cast<std::int64_t>(d)}; }
  void index(std::int64_t item_count) {
    row_of.assign(static_cast<std::size_t>(item_count), -1);
    for (std::size_t row = 0; row < items.size(); ++row)
      row_of[static_cast<std::size_t>(items[row])] = static_cast<std::int32_t>(row);
  }
};

template <typename T>
Recommender<T>::Recommender(const ModelConfig& config, const Catalogue& catalogue)
    : config_(config), catalogue_(catalogue) {
  for (std::int32_t item = 0; item < catalogue.item_count(); ++item)
    if (catalogue.is_available(item)) available_.push_back(item);
  embedding_ = layout_.add("item.embedding", {catalogue.item_count(), config.size}, /*is_table=*/true);
  models::FeatureTowerConfig items{.prefix = "item",
                                   .groups = {},
                                   .size = config.size,
                                   .hidden = config.hidden,
                                   .gates = config.gates,
                                   .fusion = config.fusion};
  for (const FeatureGroup& group : catalogue.groups())
    items.groups.push_back({group.name, group.vocabulary, config.item_content});
  item_tower_ = std::make_unique<FeatureTower<T>>(std::move(items), layout_);
  history_ = layout_.add("user.history", {config.size, config.size});
  models::FeatureTowerConfig users{.prefix = "user",
                                   .groups = {},
                                   .size = config.size,
                                   .hidden = config.hidden,
                                   .gates = config.gates,
                                   .fusion = config.fusion};
  for (const auto& [name, vocabulary] : user_groups)
    users.groups.push_back({std::string(name), vocabulary, config.user_attributes});
  user_tower_ = std::make_unique<FeatureTower<T>>(std::move(users), layout_);
}

template <typename T>
std::vector<T> Recommender<T>::initial_parameters(RandomSource& random) const {
  std::vector<T> parameters(layout_.size());
  const std::span<T> all(parameters);
  models::fill_normal(block(all, embedding_), 0.1, random);
  models::fill_normal(block(all, history_), 0.1 / std::sqrt(static_cast<double>(config_.size)), random);
  for (std::int64_t i = 0; i < config_.size; ++i)
    block(all, history_)[static_cast<std::size_t>(i * config_.size + i)] += T(1);
  item_tower_->initialize(all, layout_, random);
  user_tower_->initialize(all, layout_, random);
  return parameters;
}

template <typename T>
StepDraw Recommender<T>::draw_step(std::uint64_t seed, std::uint64_t step) const {
  ChaCha20Random random(RandomKey::from_seed(seed, step));
  StepDraw draw;
  draw.negatives = config_.negatives == 0 ? available_ : sample(available_, config_.negatives, random);
  if (config_.contrast_weight > 0.0) draw.contrast_negatives = sample(available_, config_.contrast_negatives, random);
  for (std::int32_t item = 0; item < catalogue_.item_count(); ++item) {
    const bool dropped = random.bernoulli(config_.item_dropout);
    draw.content_only.push_back(dropped || !config_.item_embedding || !catalogue_.is_available(item) ? 1 : 0);
  }
  return draw;
}

template <typename T>
UserDraw Recommender<T>::draw_user(const UserRecord& user, std::uint64_t seed, std::uint64_t step) const {
  const Sha256 name = sha256(std::string_view(user.id));
  std::uint64_t own = seed;
  for (std::size_t i = 0; i < 8; ++i) own ^= static_cast<std::uint64_t>(name[i]) << (8 * i);
  ChaCha20Random random(RandomKey::from_seed(own, step));
  UserDraw draw{.user = &user, .input = user.items, .targets = {}};
  shuffle(draw.input, random);
  const bool dropped = random.bernoulli(config_.user_dropout) || !config_.user_history;
  // Somebody with a single interaction has it for a target.
  const auto input = static_cast<std::size_t>(config_.input_share * static_cast<double>(draw.input.size()));
  draw.targets.assign(draw.input.begin() + static_cast<std::ptrdiff_t>(input), draw.input.end());
  draw.input.resize(input);
  if (dropped) draw.input.clear();
  return draw;
}

template <typename T>
double Recommender<T>::recommendation_loss(const UserDraw& user, const Forward& pass, std::span<T> scores) const {
  // `scores` of every row become the gradient of the loss at them.
  const std::size_t count = user.targets.size();
  if (count == 0) {
    std::ranges::fill(scores, T(0));
    return 0.0;
  }
  const auto own_rows = [&](const auto& visit) {
    for (const std::int32_t item : user.user->items)
      if (pass.row_of[static_cast<std::size_t>(item)] >= 0) visit(pass.row(item));
  };
  std::vector<T> positive;
  for (const std::int32_t item : user.targets) positive.push_back(scores[pass.row(item)]);
  own_rows([&](std::size_t row) { scores[row] = -std::numeric_limits<T>::infinity(); });
  std::vector<T> d_positive(count, T(0));
  std::vector<T> negative;
  for (const std::int32_t row : pass.negative_rows) negative.push_back(scores[static_cast<std::size_t>(row)]);
  std::ranges::fill(scores, T(0));
  double loss = 0.0;
  const T share = T(1) / static_cast<T>(count);
  if (config_.loss == RecommendationLoss::softmax) {
    T largest = -std::numeric_limits<T>::infinity();
    for (const T score : negative) largest = std::max(largest, score);
    for (const T score : positive) largest = std::max(largest, score);
    T sum = 0, pull = 0;
    for (T& score : negative) {
      score = std::exp(score - largest);
      sum += score;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const T own = std::exp(positive[i] - largest);
      const T missing = sum / (own + sum);  // 1 − the probability of the target
      loss += static_cast<double>(share * (std::log(own + sum) + largest - positive[i]));
      d_positive[i] = -share * missing;
      // Σ over targets of share·1/(own + sum): what each negative's e^s is multiplied with.
      pull += share / (own + sum);
    }
    for (std::size_t j = 0; j < negative.size(); ++j)
      scores[static_cast<std::size_t>(pass.negative_rows[j])] += pull * negative[j];
  } else {
    std::size_t pairs = 0;
    for (const T score : negative) pairs += std::isinf(score) ? 0 : count;
    const T weight = T(1) / static_cast<T>(std::max<std::size_t>(1, pairs));
    for (std::size_t j = 0; j < negative.size(); ++j) {
      if (std::isinf(negative[j])) continue;
      for (std::size_t i = 0; i < count; ++i) {
        const T difference = negative[j] - positive[i];
        loss += static_cast<double>(weight * softplus(difference));
        const T slope = weight / (T(1) + std::exp(-difference));
        d_positive[i] -= slope;
        scores[static_cast<std::size_t>(pass.negative_rows[j])] += slope;
      }
    }
  }
  for (std::size_t i = 0; i < count; ++i) scores[pass.row(user.targets[i])] += d_positive[i];
  return loss;
}

template <typename T>
double Recommender<T>::contrast_loss(const UserDraw& user, const StepDraw& step, Forward& pass) const {
  const std::size_t d = pass.d;
  const std::size_t anchors = anchor_count(user);
  if (anchors == 0) return 0.0;
  std::vector<std::size_t> keys;  // rows whose content is a candidate: the anchors' own first
  for (std::size_t i = 0; i < anchors; ++i) keys.push_back(pass.row(user.targets[i]));
  for (const std::int32_t item : step.contrast_negatives) {
    const std::size_t row = pass.row(item);
    if (std::find(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(anchors), row) ==
        keys.begin() + static_cast<std::ptrdiff_t>(anchors))
      keys.push_back(row);
  }
  const auto normalized = [&](const T* x, T* y) {
    const T norm = std::sqrt(dot(x, x, d)) + T(1e-12);
    for (std::size_t j = 0; j < d; ++j) y[j] = x[j] / norm;
    return norm;
  };
  std::vector<T> content(keys.size() * d), content_norms(keys.size()), d_content(keys.size() * d, T(0));
  for (std::size_t k = 0; k < keys.size(); ++k)
    content_norms[k] = normalized(pass.item_pass.output.data() + pass.content(keys[k]), content.data() + k * d);
  // x̂ = x/‖x‖: dx = (dx̂ − x̂ (x̂·dx̂))/‖x‖
  const auto add_through_norm = [&](const T* unit, const T* d_unit, T norm, T* dx) {
    const T along = dot(unit, d_unit, d);
    for (std::size_t j = 0; j < d; ++j) dx[j] += (d_unit[j] - unit[j] * along) / norm;
  };
  const T temperature = static_cast<T>(config_.contrast_temperature);
  const T weight = static_cast<T>(config_.contrast_weight) / static_cast<T>(anchors);
  std::vector<T> unit(d), d_unit(d), logits(keys.size());
  double loss = 0.0;
  for (std::size_t a = 0; a < anchors; ++a) {
    const T norm = normalized(pass.embedding(keys[a]), unit.data());
    T largest = -std::numeric_limits<T>::infinity();
    for (std::size_t k = 0; k < keys.size(); ++k) {
      logits[k] = dot(unit.data(), content.data() + k * d, d) / temperature;
      largest = std::max(largest, logits[k]);
    }
    T sum = 0;
    const T own = logits[a];
    for (T& logit : logits) {
      logit = std::exp(logit - largest);
      sum += logit;
    }
    loss += static_cast<double>(weight * (std::log(sum) + largest - own));
    std::ranges::fill(d_unit, T(0));
    for (std::size_t k = 0; k < keys.size(); ++k) {
      const T slope = weight * (logits[k] / sum - (k == a ? T(1) : T(0))) / temperature;
      add(slope, content.data() + k * d, d_unit.data(), d);
      add(slope, unit.data(), d_content.data() + k * d, d);
    }
    add_through_norm(unit.data(), d_unit.data(), norm, pass.d_embedding.data() + keys[a] * d);
  }
  for (std::size_t k = 0; k < keys.size(); ++k)
    add_through_norm(content.data() + k * d, d_content.data() + k * d, content_norms[k],
                     pass.d_content.data() + pass.content(keys[k]));
  return loss;
}

template <typename T>
void Recommender<T>::fit_private(const Forward& pass, std::span<const UserDraw> users, std::vector<T>& fitted) const {
  const auto rows = static_cast<std::int64_t>(users.size()), d = static_cast<std::int64_t>(pass.d);
  const HostMatrix<const T> items = pass.item_matrix();
  fitted.assign(users.size() * pass.d, T(0));
  std::vector<T> shifted(fitted.size()), scores(users.size() * pass.items.size()), slope(fitted.size());
  const HostMatrix<T> score_matrix{scores, rows, items.rows};
  for (std::int64_t step = 0; step < config_.private_steps; ++step) {
    for (std::size_t i = 0; i < fitted.size(); ++i) shifted[i] = pass.u[i] + fitted[i];
    kernels::host_product_bt<T>({shifted, rows, d}, items, false, score_matrix);
    for (std::size_t b = 0; b < users.size(); ++b) {
      const UserDraw own{.user = users[b].user, .input = {}, .targets = users[b].input};
      recommendation_loss(own, pass, score_matrix.row(static_cast<std::int64_t>(b)));
    }
    kernels::host_product<T>(score_matrix, items, false, {slope, rows, d});
    for (std::size_t i = 0; i < fitted.size(); ++i) fitted[i] -= static_cast<T>(config_.private_rate) * slope[i];
  }
}

template <typename T>
void Recommender<T>::embed_users(std::span<const T> parameters, std::span<const UserDraw> users, Forward& pass) const {
  const std::size_t d = pass.d;
  const auto rows = static_cast<std::int64_t>(users.size());
  pass.user_pass.rows = rows;
  pass.user_pass.features.clear();
  pass.history.assign(users.size() * d, T(0));
  for (std::size_t b = 0; b < users.size(); ++b) {
    for (const auto& set : users[b].user->features) pass.user_pass.features.emplace_back(set);
    if (users[b].input.empty()) continue;
    const T share = T(1) / std::sqrt(static_cast<T>(users[b].input.size()));
    for (const std::int32_t item : users[b].input)
      add(share, pass.z.data() + pass.row(item) * d, pass.history.data() + b * d, d);
  }
  user_tower_->forward(parameters, layout_, pass.user_pass);
  pass.u = pass.user_pass.output;
  kernels::host_product_bt<T>({pass.history, rows, config_.size},
                              {block(parameters, history_), config_.size, config_.size}, true,
                              {pass.u, rows, config_.size});
}

template <typename T>
std::vector<double> Recommender<T>::add_gradient(std::span<const T> parameters, const StepDraw& step,
                                                 std::span<const UserDraw> users, std::span<T> gradients,
                                                 const std::vector<T>* fixed_private,
                                                 std::vector<T>* fitted_private) const {
  Forward pass;
  const auto d = pass.d = static_cast<std::size_t>(config_.size);
  pass.embeddings = block(parameters, embedding_);
  pass.items = step.negatives;
  pass.items.insert(pass.items.end(), step.contrast_negatives.begin(), step.contrast_negatives.end());
  for (const UserDraw& user : users) {
    pass.items.insert(pass.items.end(), user.input.begin(), user.input.end());
    pass.items.insert(pass.items.end(), user.targets.begin(), user.targets.end());
  }
  std::ranges::sort(pass.items);
  pass.items.erase(std::unique(pass.items.begin(), pass.items.end()), pass.items.end());
  pass.index(catalogue_.item_count());
  for (const std::int32_t item : step.negatives)
    pass.negative_rows.push_back(static_cast<std::int32_t>(pass.row(item)));

  // Items. Their content costs the most: it is computed where it stands for an embedding or is contrasted with one.
  const std::int64_t item_rows = std::ssize(pass.items), user_rows = std::ssize(users);
  std::vector<std::uint8_t> looked_at(pass.items.size());
  for (std::size_t row = 0; row < pass.items.size(); ++row)
    looked_at[row] = step.content_only[static_cast<std::size_t>(pass.items[row])];
  if (config_.contrast_weight > 0.0) {
    for (const std::int32_t item : step.contrast_negatives) looked_at[pass.row(item)] = 1;
    for (const UserDraw& user : users)
      for (std::size_t i = 0; i < anchor_count(user); ++i) looked_at[pass.row(user.targets[i])] = 1;
  }
  pass.content_place.assign(pass.items.size(), -1);
  for (std::size_t row = 0; row < pass.items.size(); ++row) {
    if (looked_at[row] == 0) continue;
    pass.content_place[row] = static_cast<std::int32_t>(pass.content_rows.size());
    pass.content_rows.push_back(row);
    for (const FeatureGroup& group : catalogue_.groups()) pass.item_pass.features.push_back(group.of(pass.items[row]));
  }
  pass.item_pass.rows = std::ssize(pass.content_rows);
  item_tower_->forward(parameters, layout_, pass.item_pass);
  pass.z.resize(pass.items.size() * d);
  for (std::size_t row = 0; row < pass.items.size(); ++row) {
    const bool is_content = step.content_only[static_cast<std::size_t>(pass.items[row])] != 0;
    std::copy_n(is_content ? pass.item_pass.output.data() + pass.content(row) : pass.embedding(row), d,
                pass.z.data() + row * d);
  }

  // Users.
  embed_users(parameters, users, pass);
  if (config_.private_steps > 0) {
    std::vector<T> fitted;
    if (fixed_private == nullptr) fit_private(pass, users, fitted);
    const std::vector<T>& own = fixed_private != nullptr ? *fixed_private : fitted;
    for (std::size_t i = 0; i < pass.u.size(); ++i) pass.u[i] += own[i];
    if (fitted_private != nullptr) *fitted_private = own;
  }

  // Losses, and back.
  std::vector<T> scores(users.size() * pass.items.size());
  const HostMatrix<T> score_matrix{scores, user_rows, item_rows};
  kernels::host_product_bt<T>({pass.u, user_rows, config_.size}, pass.item_matrix(), false, score_matrix);
  std::vector<double> losses(users.size());
  kernels::host_parallel_for(user_rows, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const auto user = static_cast<std::size_t>(b);
      losses[user] = recommendation_loss(users[user], pass, score_matrix.row(b));
    }
  });
  pass.d_content.assign(pass.item_pass.output.size(), T(0));
  pass.d_embedding.assign(pass.z.size(), T(0));
  if (config_.contrast_weight > 0.0)
    for (std::size_t b = 0; b < users.size(); ++b) losses[b] += contrast_loss(users[b], step, pass);

  std::vector<T> d_u(pass.u.size()), d_z(pass.z.size()), d_history(pass.u.size());
  const HostMatrix<const T> dy{d_u, user_rows, config_.size};
  kernels::host_product<T>(score_matrix, pass.item_matrix(), false, {d_u, user_rows, config_.size});
  kernels::host_product_at<T>(score_matrix, {pass.u, user_rows, config_.size}, false, {d_z, item_rows, config_.size});
  user_tower_->backward(parameters, layout_, pass.user_pass, d_u, gradients);
  kernels::host_product_at<T>(dy, {pass.history, user_rows, config_.size}, true,
                              {block(gradients, history_), config_.size, config_.size});
  kernels::host_product<T>(dy, {block(parameters, history_), config_.size, config_.size}, false,
                           {d_history, user_rows, config_.size});
  for (std::size_t b = 0; b < users.size(); ++b) {
    if (users[b].input.empty()) continue;
    const T share = T(1) / std::sqrt(static_cast<T>(users[b].input.size()));
    for (const std::int32_t item : users[b].input)
      add(share, d_history.data() + b * d, d_z.data() + pass.row(item) * d, d);
  }
  const std::span<T> d_table = block(gradients, embedding_);
  for (std::size_t row = 0; row < pass.items.size(); ++row) {
    const auto item = static_cast<std::size_t>(pass.items[row]);
    T* d_view =
        step.content_only[item] != 0 ? pass.d_content.data() + pass.content(row) : pass.d_embedding.data() + row * d;
    add(T(1), d_z.data() + row * d, d_view, d);
    add(T(1), pass.d_embedding.data() + row * d, d_table.data() + item * d, d);
  }
  item_tower_->backward(parameters, layout_, pass.item_pass, pass.d_content, gradients);
  return losses;
}

template <typename T>
std::vector<T> Recommender<T>::item_vectors(std::span<const T> parameters) const {
  FeatureTowerPass<T> pass;
  pass.rows = catalogue_.item_count();
  for (std::int32_t item = 0; item < catalogue_.item_count(); ++item)
    for (const FeatureGroup& group : catalogue_.groups()) pass.features.push_back(group.of(item));
  item_tower_->forward(parameters, layout_, pass);
  if (config_.item_embedding) {
    const auto d = config_.size;
    for (const std::int32_t item : available_)
      std::copy_n(block(parameters, embedding_).begin() + item * d, d, pass.output.begin() + item * d);
  }
  return std::move(pass.output);
}

template <typename T>
std::vector<T> Recommender<T>::user_vectors(std::span<const T> parameters, std::span<const T> items,
                                            std::span<const UserRecord* const> users) const {
  Forward pass;
  pass.d = static_cast<std::size_t>(config_.size);
  for (std::int32_t item = 0; item < catalogue_.item_count(); ++item) pass.items.push_back(item);
  pass.index(catalogue_.item_count());
  pass.negative_rows = available_;
  pass.z.assign(items.begin(), items.end());
  std::vector<T> vectors;
  constexpr std::size_t block_size = 256;
  for (std::size_t first = 0; first < users.size(); first += block_size) {
    std::vector<UserDraw> draws;
    for (const UserRecord* user : users.subspan(first, std::min(block_size, users.size() - first))) {
      draws.push_back({.user = user, .input = {}, .targets = {}});
      if (config_.user_history) draws.back().input = user->items;
    }
    embed_users(parameters, draws, pass);
    if (config_.private_steps > 0) {
      std::vector<T> fitted;
      fit_private(pass, draws, fitted);
      for (std::size_t i = 0; i < pass.u.size(); ++i) pass.u[i] += fitted[i];
    }
    vectors.insert(vectors.end(), pass.u.begin(), pass.u.end());
  }
  return vectors;
}

template class Recommender<float>;
template class Recommender<double>;

}  // namespace trib::tasks::cold_start
