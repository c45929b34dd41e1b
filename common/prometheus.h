// Metrics in Prometheus' text exposition format, version 0.0.4: what a scrape reads.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trib {

inline constexpr std::string_view prometheus_content_type = "text/plain; version=0.0.4; charset=utf-8";

// Counts of observations at or below each bound, and their sum.
class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size()) {}
  void observe(double value);
  const std::vector<double>& bounds() const { return bounds_; }
  const std::vector<std::uint64_t>& counts() const { return counts_; }  // cumulative, as they are exposed
  std::uint64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::vector<double> bounds_;
  std::vector<std::uint64_t> counts_;
  std::uint64_t count_ = 0;
  double sum_ = 0.0;
};

// From a millisecond to a minute, for requests; from a tenth of a second to a day, for rounds.
extern const std::span<const double> request_seconds;
extern const std::span<const double> round_seconds;

// Writes families one after the other: the samples that follow family() are of it. Names and types are the caller's to
// choose well (https://prometheus.io/docs/practices/naming); label values may hold anything.
class PrometheusText {
 public:
  using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;
  // `type`: "counter", "gauge" or "histogram".
  void family(std::string_view name, std::string_view type, std::string_view help);
  void sample(double value, Labels labels = {});
  void histogram(const Histogram& histogram, Labels labels = {});
  // A family of one sample without labels.
  void gauge(std::string_view name, std::string_view help, double value);
  void counter(std::string_view name, std::string_view help, double value);
  const std::string& text() const { return text_; }

 private:
  void line(std::string_view suffix, Labels labels, std::string_view bound, double value);
  std::string name_;
  std::string text_;
};

}  // namespace trib
