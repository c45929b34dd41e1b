#include "tasks/data/dirichlet_split.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

namespace trib::tasks::data {
namespace {

constexpr double smallest_alpha = 1e-6, largest_alpha = 1e9;

// Fisher–Yates. std::shuffle leaves the use of the bits to the library, and so the split.
void shuffle(std::vector<std::size_t>& values, RandomSource& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

double sample_normal(RandomSource& random) {
  const double radius = std::sqrt(-2.0 * std::log(random.uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * random.uniform());
}

// The logarithm of a Gamma(shape, 1) variate (Marsaglia and Tsang 2000). For shape < 1 it is that of shape + 1 times
// U^(1/shape), which underflows for small shapes unless it stays a logarithm.
double sample_log_gamma(double shape, RandomSource& random) {
  if (shape < 1.0) return sample_log_gamma(shape + 1.0, random) + std::log(random.uniform()) / shape;
  const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  while (true) {
    const double x = sample_normal(random);
    const double v = std::pow(1.0 + c * x, 3.0);
    if (v <= 0.0) continue;
    if (std::log(random.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v);
  }
}

std::vector<double> sample_dirichlet(std::size_t count, double alpha, RandomSource& random) {
  std::vector<double> values(count);
  for (double& value : values) value = sample_log_gamma(alpha, random);
  const double largest = std::ranges::max(values);
  double sum = 0.0;
  for (double& value : values) sum += value = std::exp(value - largest);
  for (double& value : values) value /= sum;
  return values;
}

// Moves random records from the largest site to those with fewer than `minimum`.
void fill_up(std::vector<std::vector<std::size_t>>& sites, std::size_t minimum, RandomSource& random) {
  for (std::vector<std::size_t>& site : sites) {
    while (site.size() < minimum) {
      std::vector<std::size_t>& largest = *std::ranges::max_element(sites, {}, &std::vector<std::size_t>::size);
      std::swap(largest[random.below(largest.size())], largest.back());
      site.push_back(largest.back());
      largest.pop_back();
    }
  }
}

}  // namespace

Result<std::vector<std::vector<std::size_t>>> dirichlet_split(std::span<const std::int32_t> labels, std::size_t sites,
                                                              double alpha, std::size_t minimum_per_site,
                                                              RandomSource& random) {
  if (sites == 0) return Error{Errc::invalid_argument, "a split needs at least one site"};
  if (!(alpha >= smallest_alpha && alpha <= largest_alpha)) {
    return Error{Errc::invalid_argument,
                 fmt::format("Dirichlet alpha = {}: must be from {} to {}", alpha, smallest_alpha, largest_alpha)};
  }
  if (minimum_per_site > labels.size() / sites) {
    return Error{Errc::invalid_argument, fmt::format("{} records are too few for {} sites of at least {} each",
                                                     labels.size(), sites, minimum_per_site)};
  }
  std::map<std::int32_t, std::vector<std::size_t>> records_of_label;
  for (std::size_t i = 0; i < labels.size(); ++i) records_of_label[labels[i]].push_back(i);

  std::vector<std::vector<std::size_t>> result(sites);
  for (auto& [label, records] : records_of_label) {
    shuffle(records, random);
    const std::vector<double> proportions = sample_dirichlet(sites, alpha, random);
    double cumulative = 0.0;
    std::size_t begin = 0;
    for (std::size_t site = 0; site < sites; ++site) {
      cumulative += proportions[site];
      const auto cut = static_cast<std::size_t>(std::llround(cumulative * static_cast<double>(records.size())));
      const std::size_t end = site + 1 == sites ? records.size() : std::clamp(cut, begin, records.size());
      result[site].insert(result[site].end(), records.begin() + static_cast<std::ptrdiff_t>(begin),
                          records.begin() + static_cast<std::ptrdiff_t>(end));
      begin = end;
    }
  }
  fill_up(result, minimum_per_site, random);
  for (std::vector<std::size_t>& site : result) std::ranges::sort(site);
  return result;
}

}  // namespace trib::tasks::data
