#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "common/random.h"
#include "tasks/cold_start/dataset.h"

namespace trib::tasks::cold_start {
namespace {

constexpr std::size_t latent = 6;
constexpr std::size_t genre_total = 12, word_total = 240;
using Latent = std::array<double, latent>;

double normal(RandomSource& random) {
  return std::sqrt(-2.0 * std::log(random.uniform())) * std::cos(2.0 * std::numbers::pi * random.uniform());
}

Latent draw(RandomSource& random) {
  Latent x;
  for (double& value : x) value = normal(random);
  return x;
}

double dot(const Latent& a, const Latent& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// Gumbel's trick: the index of the largest score plus noise is a draw from the softmax of the scores.
double gumbel(RandomSource& random) {
  return -std::log(-std::log(random.uniform()));
}

// `count` distinct draws with probabilities that grow with sharpness·(direction·x).
std::vector<std::int32_t> choose(const std::vector<Latent>& directions, const Latent& x, double sharpness,
                                 std::size_t count, RandomSource& random) {
  std::vector<std::pair<double, std::int32_t>> scores;
  for (std::size_t i = 0; i < directions.size(); ++i)
    scores.emplace_back(-(sharpness * dot(directions[i], x) + gumbel(random)), static_cast<std::int32_t>(i));
  std::ranges::sort(scores);
  std::vector<std::int32_t> chosen;
  for (std::size_t i = 0; i < std::min(count, scores.size()); ++i) chosen.push_back(scores[i].second);
  std::ranges::sort(chosen);
  return chosen;
}

std::vector<Latent> directions(std::size_t count, RandomSource& random) {
  std::vector<Latent> result(count);
  for (Latent& direction : result) direction = draw(random);
  return result;
}

std::int32_t choose_one(const std::vector<Latent>& among, const Latent& x, double sharpness, RandomSource& random) {
  return choose(among, x, sharpness, 1, random).front();
}

}  // namespace

Dataset make_synthetic(const SyntheticOptions& options) {
  ChaCha20Random random(RandomKey::from_seed(options.seed, 7));
  Dataset dataset;
  for (std::size_t i = 0; i < genre_total; ++i) dataset.genres.push_back(fmt::format("Genre-{}", i + 1));
  const auto genre_directions = directions(genre_total, random), word_directions = directions(word_total, random);
  const auto genders = directions(gender_count, random), ages = directions(age_count, random);
  const auto occupations = directions(occupation_count, random), regions = directions(10, random);
  const Latent era = draw(random);

  std::vector<Latent> item_vectors, user_vectors;
  std::vector<double> popularity;
  for (std::int64_t i = 0; i < options.items; ++i) {
    const Latent& x = item_vectors.emplace_back(draw(random));
    popularity.push_back(0.9 * normal(random));
    Item item{.id = fmt::format("{}", i + 1), .title = "", .genres = {}, .year = 0};
    item.genres = choose(genre_directions, x, 1.5, 1 + random.below(3), random);
    for (const std::int32_t word : choose(word_directions, x, 1.5, 3, random))
      item.title += fmt::format("Word{} ", word);
    item.year =
        1960 + static_cast<std::int32_t>(std::clamp(20.0 + 6.0 * dot(era, x) + 2.0 * normal(random), 0.0, 39.0));
    item.title += fmt::format("({})", item.year);
    dataset.items.push_back(std::move(item));
  }
  for (std::int64_t u = 0; u < options.users; ++u) {
    const Latent& x = user_vectors.emplace_back(draw(random));
    User user{.id = fmt::format("{}", u + 1), .attributes = {}};
    user.attributes = {.gender = choose_one(genders, x, 1.5, random),
                       .age = choose_one(ages, x, 1.5, random),
                       .occupation = choose_one(occupations, x, 1.5, random),
                       .region = choose_one(regions, x, 1.5, random)};
    dataset.users.push_back(std::move(user));
  }
  for (std::int64_t u = 0; u < options.users; ++u) {
    std::vector<std::pair<double, std::int32_t>> scores;
    for (std::int64_t i = 0; i < options.items; ++i) {
      const auto item = static_cast<std::size_t>(i);
      const double score = 1.2 * dot(user_vectors[static_cast<std::size_t>(u)], item_vectors[item]) + popularity[item];
      scores.emplace_back(-(score + gumbel(random)), static_cast<std::int32_t>(i));
    }
    std::ranges::sort(scores);
    const auto half = static_cast<std::uint64_t>(std::max<std::int64_t>(1, options.interactions_per_user / 2));
    const auto count = std::min<std::size_t>(scores.size(), half + random.below(2 * half));
    for (std::size_t i = 0; i < count; ++i)
      dataset.interactions.push_back({static_cast<std::int32_t>(u), scores[i].second, 0});
  }
  return dataset;
}

}  // namespace trib::tasks::cold_start
