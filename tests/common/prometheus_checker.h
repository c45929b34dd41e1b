// Reads a text exposition as Prometheus does, and finds what `promtool check metrics` would: written from the format's
// description (https://prometheus.io/docs/instrumenting/exposition_formats/), not from what this project writes.
#pragma once

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace trib::test {

struct Exposition {
  struct Sample {
    std::string name;
    std::map<std::string, std::string> labels;
    double value = 0.0;
  };
  std::vector<Sample> samples;
  std::map<std::string, std::string> types;  // by family
  std::vector<std::string> problems;

  // The value of the only sample with this name and these labels among others; NaN if there is none or are several.
  double value(const std::string& name, const std::map<std::string, std::string>& labels = {}) const {
    double found = std::nan("");
    int count = 0;
    for (const Sample& sample : samples) {
      bool matches = sample.name == name;
      for (const auto& [key, text] : labels)
        matches = matches && sample.labels.contains(key) && sample.labels.at(key) == text;
      if (matches) found = sample.value, ++count;
    }
    return count == 1 ? found : std::nan("");
  }
};

class ExpositionReader {
 public:
  Exposition read(const std::string& text) {
    if (!text.empty() && text.back() != '\n') problem("the last line has no newline");
    std::istringstream lines(text);
    while (std::getline(lines, line_)) {
      at_ = 0;
      if (line_.empty()) continue;
      line_[0] == '#' ? read_comment() : read_sample();
    }
    check_histograms();
    return std::move(exposition_);
  }

 private:
  void problem(const std::string& what) { exposition_.problems.push_back(what + ": " + line_); }

  std::string name(bool with_colon) {
    const std::size_t begin = at_;
    while (at_ < line_.size()) {
      const auto c = static_cast<unsigned char>(line_[at_]);
      const bool first = at_ == begin;
      if (!(std::isalpha(c) || c == '_' || (with_colon && c == ':') || (!first && std::isdigit(c)))) break;
      ++at_;
    }
    if (at_ == begin) problem("a name is expected at " + std::to_string(at_));
    return line_.substr(begin, at_ - begin);
  }
  bool take(char c) {
    if (at_ >= line_.size() || line_[at_] != c) return false;
    ++at_;
    return true;
  }

  void read_comment() {
    std::istringstream words(line_);
    std::string hash, keyword, family, rest;
    words >> hash >> keyword >> family;
    std::getline(words, rest);
    if (keyword == "HELP") {
      if (!helped_.insert(family).second) problem("a second HELP");
      if (rest.size() < 2) problem("HELP says nothing");
      if (begun_.contains(family)) problem("HELP after samples");
    } else if (keyword == "TYPE") {
      const std::string type = rest.empty() ? "" : rest.substr(1);
      if (type != "counter" && type != "gauge" && type != "histogram") problem("an unknown type");
      if (!exposition_.types.emplace(family, type).second) problem("a second TYPE");
      if (begun_.contains(family)) problem("TYPE after samples");
      if (!helped_.contains(family)) problem("TYPE without HELP");
      if (type == "counter" && !family.ends_with("_total")) problem("a counter's name ends in _total");
      if (type != "counter" && family.ends_with("_total")) problem("_total is for counters");
      family_ = family;
    } else {
      problem("a comment of no use");
    }
  }

  std::string label_value() {
    std::string value;
    if (!take('"')) problem("a label's value must be quoted");
    while (at_ < line_.size() && line_[at_] != '"') {
      if (line_[at_] == '\\') {
        ++at_;
        const char escaped = at_ < line_.size() ? line_[at_] : '\0';
        if (escaped != '\\' && escaped != '"' && escaped != 'n') problem("an unknown escape");
        value += escaped == 'n' ? '\n' : escaped;
      } else {
        value += line_[at_];
      }
      ++at_;
    }
    if (!take('"')) problem("a label's value does not end");
    return value;
  }

  void read_sample() {
    Exposition::Sample sample;
    sample.name = name(true);
    std::string family = sample.name;
    for (const char* suffix : {"_bucket", "_sum", "_count"}) {
      if (!sample.name.ends_with(suffix)) continue;
      const std::string base = sample.name.substr(0, sample.name.size() - std::string(suffix).size());
      if (exposition_.types.contains(base) && exposition_.types.at(base) == "histogram") family = base;
    }
    if (!exposition_.types.contains(family)) problem("a sample without TYPE");
    if (family != family_) problem("a sample outside its family");
    begun_.insert(family);
    if (take('{')) {
      while (at_ < line_.size() && line_[at_] != '}') {
        const std::string label = name(false);
        if (label.starts_with("__")) problem("a reserved label");
        if (!take('=')) return problem("a label without '='");
        if (!sample.labels.emplace(label, label_value()).second) problem("a label twice");
        if (!take(',') && (at_ >= line_.size() || line_[at_] != '}')) return problem("labels are not separated");
      }
      if (!take('}')) problem("labels do not end");
    }
    if (!take(' ')) problem("a space is expected before the value");
    const std::string number = line_.substr(at_);
    char* end = nullptr;
    sample.value = std::strtod(number.c_str(), &end);
    const bool is_special = number == "+Inf" || number == "-Inf" || number == "NaN";
    if (number.empty() || *end != '\0' || (!is_special && !std::isfinite(sample.value))) problem("not a number");
    if (exposition_.types[family] == "counter" && !(sample.value >= 0.0)) problem("a counter below 0");
    std::string identity = sample.name;
    for (const auto& [key, value] : sample.labels) identity += "\x01" + key + "\x02" + value;
    if (!identities_.insert(identity).second) problem("the same series twice");
    exposition_.samples.push_back(std::move(sample));
  }

  void check_histograms() {
    std::map<std::string, std::vector<std::pair<double, double>>> buckets;
    std::map<std::string, double> counts;
    for (const auto& sample : exposition_.samples) {
      auto labels = sample.labels;
      const std::string le = labels.contains("le") ? labels.at("le") : "";
      labels.erase("le");
      std::string series;
      for (const auto& [key, value] : labels) series += "," + key + "=" + value;
      if (sample.name.ends_with("_bucket"))
        buckets[sample.name.substr(0, sample.name.size() - 7) + series].emplace_back(
            le == "+Inf" ? HUGE_VAL : std::strtod(le.c_str(), nullptr), sample.value);
      if (sample.name.ends_with("_count"))
        counts[sample.name.substr(0, sample.name.size() - 6) + series] = sample.value;
    }
    for (const auto& [series, list] : buckets) {
      line_ = series;
      for (std::size_t i = 1; i < list.size(); ++i)
        if (list[i].first <= list[i - 1].first || list[i].second < list[i - 1].second) problem("buckets not in order");
      if (std::isfinite(list.back().first)) problem("no bucket of +Inf");
      if (!counts.contains(series) || counts.at(series) != list.back().second) problem("_count is not the last bucket");
    }
  }

  Exposition exposition_;
  std::string line_, family_;
  std::size_t at_ = 0;
  std::set<std::string> helped_, begun_, identities_;
};

inline Exposition read_exposition(const std::string& text) {
  return ExpositionReader().read(text);
}

}  // namespace trib::test
