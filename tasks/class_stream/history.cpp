#include "tasks/class_stream/history.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "tasks/class_stream/metrics.h"

namespace trib::tasks::class_stream {
namespace {

constexpr std::size_t round_width = 3;
constexpr double none = -1.0;  // states hold finite numbers alone

std::vector<Evaluated> rounds_of(const TensorMap& state) {
  const auto stored = state.at("history").as<double>();
  std::vector<Evaluated> rounds;
  for (std::size_t i = 0; i + round_width <= stored.size(); i += round_width)
    rounds.push_back({.accuracy = stored[i], .records = stored[i + 1], .ends_phase = stored[i + 2] > 0.5});
  return rounds;
}

std::vector<double> numbers_of(const HostTensor& tensor) {
  const auto stored = tensor.as<double>();
  std::vector<double> values(stored.begin(), stored.end());
  std::ranges::replace(values, none, std::numeric_limits<double>::quiet_NaN());
  return values;
}

}  // namespace

void begin_history(TensorMap& state, std::int64_t classes) {
  state["history"] = HostTensor(DType::f64, {0, static_cast<std::int64_t>(round_width)});
  for (const char* name : {"class_accuracy", "class_best"}) {
    state[name] = HostTensor(DType::f64, {classes});
    std::ranges::fill(state[name].as<double>(), none);
  }
}

void add_to_history(TensorMap& state, const Judgement& judged, double records, bool ends_phase) {
  const auto best = state["class_best"].as<double>();
  const auto now = state["class_accuracy"].as<double>();
  for (std::size_t c = 0; c < now.size(); ++c) {
    best[c] = std::max(best[c], now[c]);
    now[c] = std::isnan(judged.of_class[c]) ? none : judged.of_class[c];
  }
  const auto stored = std::as_const(state).at("history").as<double>();
  std::vector<double> values(stored.begin(), stored.end());
  values.insert(values.end(), {judged.accuracy, records, ends_phase ? 1.0 : 0.0});
  state["history"] = HostTensor::from_f64(
      {static_cast<std::int64_t>(values.size() / round_width), static_cast<std::int64_t>(round_width)}, values);
}

std::map<std::string, double> history_metrics(const TensorMap& state, const std::vector<std::string>& labels) {
  const std::vector<Evaluated> rounds = rounds_of(state);
  std::map<std::string, double> metrics = stream_metrics(rounds);
  if (rounds.empty()) return metrics;
  metrics["accuracy"] = rounds.back().accuracy;
  const Forgetting lost = forgetting(numbers_of(state.at("class_best")), numbers_of(state.at("class_accuracy")));
  metrics["forgetting"] = lost.mean;
  for (std::size_t c = 0; c < lost.of_class.size(); ++c)
    if (!std::isnan(lost.of_class[c])) metrics["forgetting/" + labels[c]] = lost.of_class[c];
  return metrics;
}

}  // namespace trib::tasks::class_stream
