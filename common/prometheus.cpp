#include "common/prometheus.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

namespace trib {
namespace {

constexpr double kRequestSeconds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0};
constexpr double kRoundSeconds[] = {0.1,  0.5,   1.0,   2.5,   5.0,    10.0,   30.0,
                                    60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0, 86400.0};

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0.0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

// In a label's value: backslash, quote and newline; in HELP: backslash and newline.
std::string escaped(std::string_view text, bool is_label) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\\\";
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '"' && is_label) {
      out += "\\\"";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

const std::span<const double> request_seconds(kRequestSeconds);
const std::span<const double> round_seconds(kRoundSeconds);

void Histogram::observe(double value) {
  ++count_;
  sum_ += value;
  for (std::size_t i = 0; i < bounds_.size(); ++i)
    if (value <= bounds_[i]) ++counts_[i];
}

void PrometheusText::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, escaped(help, false), name, type);
}

void PrometheusText::line(std::string_view suffix, Labels labels, std::string_view bound, double value) {
  text_ += name_;
  text_ += suffix;
  std::string inside;
  for (const auto& [name, label] : labels)
    inside += fmt::format("{}{}=\"{}\"", inside.empty() ? "" : ",", name, escaped(label, true));
  if (!bound.empty()) inside += fmt::format("{}le=\"{}\"", inside.empty() ? "" : ",", bound);
  if (!inside.empty()) text_.append(1, '{').append(inside).append(1, '}');
  text_.append(1, ' ').append(number(value)).append(1, '\n');
}

void PrometheusText::sample(double value, Labels labels) {
  line("", labels, "", value);
}

void PrometheusText::histogram(const Histogram& histogram, Labels labels) {
  for (std::size_t i = 0; i < histogram.bounds().size(); ++i)
    line("_bucket", labels, number(histogram.bounds()[i]), static_cast<double>(histogram.counts()[i]));
  line("_bucket", labels, "+Inf", static_cast<double>(histogram.count()));
  line("_sum", labels, "", histogram.sum());
  line("_count", labels, "", static_cast<double>(histogram.count()));
}

void PrometheusText::gauge(std::string_view name, std::string_view help, double value) {
  family(name, "gauge", help);
  sample(value);
}

void PrometheusText::counter(std::string_view name, std::string_view help, double value) {
  family(name, "counter", help);
  sample(value);
}

}  // namespace trib
