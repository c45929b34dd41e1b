#include "common/config.h"

#define TOML_EXCEPTIONS 0
#include <spdlog/fmt/fmt.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <sstream>

#include "common/files.h"

namespace trib {
namespace {

struct DurationUnit {
  std::string_view suffix;
  std::int64_t milliseconds;
};
constexpr DurationUnit duration_units[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}};

std::vector<std::string> split_key(std::string_view key) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t dot = key.find('.');
    parts.emplace_back(key.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    key.remove_prefix(dot + 1);
  }
}

std::string join_key(std::string_view table, std::string_view name) {
  return table.empty() ? std::string(name) : fmt::format("{}.{}", table, name);
}

// A node as TOML text, short enough for a message.
std::string show(const toml::node& node) {
  constexpr std::size_t longest = 60;
  std::ostringstream out;
  node.visit([&](const auto& concrete) { out << concrete; });
  const std::string text = out.str();
  return text.size() <= longest ? text : text.substr(0, longest) + "…";
}

// Levenshtein's distance: insertions, deletions and substitutions of one character.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substitution = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substitution, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// The candidate closest to `name`, if it is close enough to be what was meant; "" otherwise.
template <typename Names>
std::string nearest(std::string_view name, const Names& candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const auto& candidate : candidates) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

template <typename Names>
std::string listing(const Names& names, std::string_view quote = "") {
  std::string text;
  for (const auto& name : names) {
    text += fmt::format("{}{}{}{}", text.empty() ? "" : ", ", quote, name, quote);
  }
  return text;
}

template <typename Number, typename Format>
std::string describe_range(Number minimum, Number maximum, bool has_minimum, bool has_maximum, bool exclude_minimum,
                           bool exclude_maximum, Format format) {
  std::string text;
  if (has_minimum) text += fmt::format(" {} {}", exclude_minimum ? "above" : "at least", format(minimum));
  if (has_minimum && has_maximum) text += " and";
  if (has_maximum) text += fmt::format(" {} {}", exclude_maximum ? "below" : "at most", format(maximum));
  return text;
}

template <typename Format>
std::string describe_range(ConfigReader::IntegerRange range, Format format) {
  using Limits = std::numeric_limits<std::int64_t>;
  return describe_range(range.minimum, range.maximum, range.minimum != Limits::min(), range.maximum != Limits::max(),
                        false, false, format);
}

std::string describe_range(ConfigReader::NumberRange range) {
  return describe_range(range.minimum, range.maximum, std::isfinite(range.minimum), std::isfinite(range.maximum),
                        range.exclude_minimum, range.exclude_maximum, [](double x) { return fmt::format("{}", x); });
}

bool inside(std::int64_t value, ConfigReader::IntegerRange range) {
  return value >= range.minimum && value <= range.maximum;
}

// False for infinities and NaN, whatever the range.
bool inside(double value, ConfigReader::NumberRange range) {
  const bool above = range.exclude_minimum ? value > range.minimum : value >= range.minimum;
  const bool below = range.exclude_maximum ? value < range.maximum : value <= range.maximum;
  return std::isfinite(value) && above && below;
}

// "90s" for 90000: the largest unit that divides it.
std::string show_duration(std::int64_t milliseconds) {
  const DurationUnit* best = &duration_units[0];
  for (const DurationUnit& unit : duration_units) {
    if (milliseconds != 0 && milliseconds % unit.milliseconds == 0) best = &unit;
  }
  return fmt::format("{}{}", milliseconds / best->milliseconds, best->suffix);
}

std::optional<std::int64_t> parse_duration(std::string_view text) {
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || count < 0) return std::nullopt;
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const DurationUnit& unit : duration_units) {
    std::int64_t milliseconds = 0;
    if (suffix == unit.suffix && !__builtin_mul_overflow(count, unit.milliseconds, &milliseconds)) return milliseconds;
  }
  return std::nullopt;
}

// Puts `value`, read as TOML where it is TOML and as a string otherwise, at `key`, making the tables on the way.
Status apply_override(toml::table& document, std::string_view key, std::string_view value) {
  const std::vector<std::string> parts = split_key(key);
  if (std::ranges::any_of(parts, &std::string::empty)) {
    return Error{Errc::invalid_argument, "the key has an empty part; write section.key=value"};
  }
  toml::table* table = &document;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    toml::node& child = table->emplace<toml::table>(parts[i]).first->second;
    table = child.as_table();
    if (table == nullptr) {
      return Error{Errc::invalid_argument, fmt::format("{} is {}, not a table", parts[i], show(child))};
    }
  }
  // Parsed as the one line of a document; a value that would add lines of its own is a string.
  const toml::parse_result parsed = toml::parse(fmt::format("value = {}", value));
  if (parsed && parsed.table().size() == 1) {
    table->insert_or_assign(parts.back(), *parsed.table().get("value"));
  } else {
    table->insert_or_assign(parts.back(), std::string(value));
  }
  return {};
}

}  // namespace

struct ConfigReader::Impl {
  toml::table document;
  std::string name;                                           // of the document, in messages
  std::map<std::string, std::string, std::less<>> overrides;  // by key, as they were written: "section.key=value"
  std::set<std::string> known;                                // the keys that were asked for
  std::optional<Error> first_error;
  std::string missing_key;  // the key that first_error is about, where it says that the key is missing

  // The node at `key`, or null. Notes the key as known, and records an error where a parent is no table.
  const toml::node* find(std::string_view key) {
    known.emplace(key);
    const toml::node* node = &document;
    std::string path;
    for (const std::string& part : split_key(key)) {
      const toml::table* table = node->as_table();
      if (table == nullptr) {
        record(path, fmt::format("must be a table, since {} is read from it", key));
        return nullptr;
      }
      path = join_key(path, part);
      node = table->get(part);
      if (node == nullptr) return nullptr;
    }
    return node;
  }

  const toml::node* find_silently(std::string_view key) const {
    const toml::node* node = &document;
    for (const std::string& part : split_key(key)) {
      const toml::table* table = node->as_table();
      node = table != nullptr ? table->get(part) : nullptr;
      if (node == nullptr) return nullptr;
    }
    return node;
  }

  // The override that put `node` at `key`, or null if the document did (then the node has a line, or is missing).
  const std::string* override_of(std::string_view key, const toml::node* node) const {
    const auto exact = overrides.find(key);
    if (exact != overrides.end()) return &exact->second;
    if (node == nullptr || node->source().begin) return nullptr;
    const auto below = overrides.lower_bound(fmt::format("{}.", key));  // one that made this table on its way
    if (below != overrides.end() && below->first.starts_with(key)) return &below->second;
    for (std::size_t dot = key.rfind('.'); dot != std::string_view::npos; dot = key.substr(0, dot).rfind('.')) {
      const auto above = overrides.find(key.substr(0, dot));  // one whose value is a whole table
      if (above != overrides.end()) return &above->second;
    }
    return nullptr;
  }

  // Where a node stands: "job.toml:12: key = value", "job.toml:12: key" for a table, "--set key=value".
  std::string place(std::string_view key, const toml::node* node) const {
    if (const std::string* written = override_of(key, node)) return fmt::format("--set {}", *written);
    if (node == nullptr) return fmt::format("{}: {}", name, key);
    const std::string line = node->source().begin ? fmt::format(":{}", node->source().begin.line) : "";
    if (node->is_table()) return fmt::format("{}{}: [{}]", name, line, key);
    return fmt::format("{}{}: {} = {}", name, line, key, show(*node));
  }

  Error error(std::string_view key, std::string_view problem) const {
    return {Errc::invalid_argument, fmt::format("{}: {}", place(key, find_silently(key)), problem)};
  }

  void record(std::string_view key, std::string_view problem) {
    if (!first_error) first_error = error(key, problem);
  }

  // Reads `key`: `convert` gives the value of a node, or nothing where `requirement` is not met.
  template <typename T, typename Convert>
  T read(std::string_view key, const std::optional<T>& fallback, std::string_view requirement, T value_on_error,
         Convert convert) {
    const toml::node* node = find(key);
    if (node == nullptr) {
      if (fallback) return *fallback;
      if (!first_error) {
        first_error = {Errc::invalid_argument, fmt::format("{}: {} is missing: it must be {}", name, key, requirement)};
        missing_key = key;
      }
      return value_on_error;
    }
    if (std::optional<T> value = convert(*node)) return *std::move(value);
    record(key, fmt::format("must be {}", requirement));
    return fallback.value_or(value_on_error);
  }

  struct Unknown {
    std::string key;
    std::string meant;  // the nearest known key of its table, or ""
    std::string accepted;
    const toml::node* node;
  };

  std::set<std::string> known_in(std::string_view table) const {
    std::set<std::string> names;
    const std::string prefix = table.empty() ? "" : fmt::format("{}.", table);
    for (const std::string& key : known) {
      if (key.starts_with(prefix)) names.insert(split_key(std::string_view(key).substr(prefix.size())).front());
    }
    return names;
  }

  void collect_unknown(const toml::table& table, const std::string& path, std::vector<Unknown>& unknown) const {
    const std::set<std::string> names = known_in(path);
    for (const auto& [key, node] : table) {
      const std::string name_here(key.str());
      const std::string child = join_key(path, name_here);
      if (!names.contains(name_here)) {
        const std::string close = nearest(name_here, names);
        unknown.push_back({child, close.empty() ? "" : join_key(path, close), listing(names), &node});
      } else if (const toml::table* inner = node.as_table()) {
        collect_unknown(*inner, child, unknown);
      }
    }
  }

  // Overrides first, then by line.
  std::vector<Unknown> unknown_keys() const {
    std::vector<Unknown> unknown;
    collect_unknown(document, "", unknown);
    std::ranges::stable_sort(unknown, {}, [](const Unknown& key) { return key.node->source().begin.line; });
    return unknown;
  }

  Error unknown_error(const Unknown& unknown) const {
    const std::size_t dot = unknown.key.rfind('.');
    const std::string table = dot == std::string::npos ? "" : unknown.key.substr(0, dot);
    std::string problem = "unknown key";
    if (!unknown.meant.empty()) problem += fmt::format("; did you mean {}?", unknown.meant);
    const std::string where = table.empty() ? "at the top" : fmt::format("in [{}]", table);
    if (unknown.meant.empty()) problem += '.';
    problem += unknown.accepted.empty() ? fmt::format(" No key is accepted {}", where)
                                        : fmt::format(" Accepted {}: {}", where, unknown.accepted);
    return {Errc::invalid_argument, fmt::format("{}: {}", place(unknown.key, unknown.node), problem)};
  }
};

ConfigReader::ConfigReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ConfigReader::ConfigReader(ConfigReader&&) noexcept = default;
ConfigReader& ConfigReader::operator=(ConfigReader&&) noexcept = default;
ConfigReader::~ConfigReader() = default;

Result<ConfigReader> ConfigReader::from_file(const std::filesystem::path& path,
                                             const std::vector<std::string>& overrides) {
  TRIB_ASSIGN(const std::string text, read_file(path));
  return from_text(text, path.native(), overrides);
}

Result<ConfigReader> ConfigReader::from_text(std::string_view text, std::string_view name_for_errors,
                                             const std::vector<std::string>& overrides) {
  auto impl = std::make_unique<Impl>();
  impl->name = name_for_errors;
  toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return Error{Errc::invalid_argument,
                 fmt::format("{}:{}: {}", name_for_errors, error.source().begin.line, error.description())};
  }
  impl->document = std::move(parsed).table();
  for (const std::string& entry : overrides) {
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Error{Errc::invalid_argument, fmt::format("--set {}: must be section.key=value", entry)};
    }
    const std::string key = entry.substr(0, equals);
    const Status applied = apply_override(impl->document, key, std::string_view(entry).substr(equals + 1));
    if (!applied) return applied.error().with_context(fmt::format("--set {}", entry));
    impl->overrides[key] = entry;
  }
  return ConfigReader(std::move(impl));
}

bool ConfigReader::has(std::string_view key) const {
  return impl_->find(key) != nullptr;
}

std::string ConfigReader::text(std::string_view key, const std::optional<std::string>& fallback) {
  return impl_->read<std::string>(key, fallback, "text in quotes", "",
                                  [](const toml::node& node) { return node.value_exact<std::string>(); });
}

std::string ConfigReader::choice(std::string_view key, std::span<const std::string_view> accepted,
                                 const std::optional<std::string>& fallback) {
  const std::string requirement = fmt::format("one of {}", listing(accepted, "\""));
  const std::string on_error(accepted.empty() ? "" : accepted.front());
  return impl_->read<std::string>(key, fallback, requirement, on_error, [&](const toml::node& node) {
    auto value = node.value_exact<std::string>();
    if (value && std::ranges::find(accepted, *value) == accepted.end()) value.reset();
    return value;
  });
}

std::int64_t ConfigReader::integer(std::string_view key, IntegerRange range, std::optional<std::int64_t> fallback) {
  std::string bounds = describe_range(range, [](std::int64_t x) { return std::to_string(x); });
  const std::int64_t on_error = std::clamp<std::int64_t>(0, range.minimum, range.maximum);
  const auto convert = [&](const toml::node& node) {
    auto value = node.value_exact<std::int64_t>();
    if (value && !inside(*value, range)) value.reset();
    return value;
  };
  return impl_->read<std::int64_t>(key, fallback, fmt::format("a whole number{}", bounds), on_error, convert);
}

double ConfigReader::number(std::string_view key, NumberRange range, std::optional<double> fallback) {
  const double on_error = std::clamp(0.0, range.minimum, range.maximum);
  const auto convert = [&](const toml::node& node) -> std::optional<double> {
    auto value = node.value_exact<double>();
    if (const auto whole = node.value_exact<std::int64_t>()) value = static_cast<double>(*whole);
    if (value && !inside(*value, range)) value.reset();
    return value;
  };
  return impl_->read<double>(key, fallback, fmt::format("a number{}", describe_range(range)), on_error, convert);
}

bool ConfigReader::boolean(std::string_view key, std::optional<bool> fallback) {
  return impl_->read<bool>(key, fallback, "true or false", false,
                           [](const toml::node& node) { return node.value_exact<bool>(); });
}

std::vector<std::string> ConfigReader::texts(std::string_view key,
                                             const std::optional<std::vector<std::string>>& fallback) {
  using Texts = std::vector<std::string>;
  const auto convert = [](const toml::node& node) -> std::optional<Texts> {
    const toml::array* array = node.as_array();
    if (array == nullptr) return std::nullopt;
    Texts texts;
    for (const toml::node& element : *array) {
      auto text = element.value_exact<std::string>();
      if (!text) return std::nullopt;
      texts.push_back(*std::move(text));
    }
    return texts;
  };
  return impl_->read<Texts>(key, fallback, "a list of texts, such as [\"a\", \"b\"]", {}, convert);
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view key, IntegerRange range,
                                                 const std::optional<std::vector<std::int64_t>>& fallback) {
  using Integers = std::vector<std::int64_t>;
  const std::string bounds = describe_range(range, [](std::int64_t value) { return std::to_string(value); });
  const auto convert = [&](const toml::node& node) -> std::optional<Integers> {
    const toml::array* array = node.as_array();
    if (array == nullptr) return std::nullopt;
    Integers integers;
    for (const toml::node& element : *array) {
      const auto value = element.value_exact<std::int64_t>();
      if (!value || !inside(*value, range)) return std::nullopt;
      integers.push_back(*value);
    }
    return integers;
  };
  return impl_->read<Integers>(key, fallback, fmt::format("a list of whole numbers{}, such as [1, 2]", bounds), {},
                               convert);
}

std::int64_t ConfigReader::duration_ms(std::string_view key, IntegerRange range, std::optional<std::int64_t> fallback) {
  const std::string bounds = describe_range(range, show_duration);
  const std::int64_t on_error = std::clamp<std::int64_t>(0, range.minimum, range.maximum);
  const auto convert = [&](const toml::node& node) -> std::optional<std::int64_t> {
    const auto text = node.value_exact<std::string>();
    auto value = text ? parse_duration(*text) : std::nullopt;
    if (value && !inside(*value, range)) value.reset();
    return value;
  };
  return impl_->read<std::int64_t>(key, fallback,
                                   fmt::format("a duration{}{} such as \"250ms\", \"30s\", \"5m\", \"2h\" or \"30d\"",
                                               bounds, bounds.empty() ? "" : ","),
                                   on_error, convert);
}

std::vector<std::string> ConfigReader::tables(std::string_view key) const {
  std::vector<std::string> names;
  const toml::node* node = impl_->find(key);
  if (node == nullptr) return names;
  const toml::table* table = node->as_table();
  if (table == nullptr) {
    impl_->record(key, fmt::format("must be a table of tables, such as [{}.NAME]", key));
    return names;
  }
  for (const auto& [name, child] : *table) {
    if (!child.is_table()) continue;
    if (name.str().find('.') != std::string_view::npos) {
      impl_->record(key, fmt::format("the name \"{}\" holds a dot; choose one without", name.str()));
      continue;
    }
    impl_->known.insert(join_key(key, name.str()));
    names.emplace_back(name.str());
  }
  return names;
}

Error ConfigReader::error_at(std::string_view key, std::string_view problem) const {
  return impl_->error(key, problem);
}

void ConfigReader::fail(std::string_view key, std::string_view problem) {
  impl_->record(key, problem);
}

Status ConfigReader::finish() const {
  const std::vector<Impl::Unknown> unknown = impl_->unknown_keys();
  if (impl_->first_error) {
    // A required key that is missing because it was misspelled: the misspelling is the better message.
    for (const Impl::Unknown& key : unknown) {
      if (!impl_->missing_key.empty() && key.meant == impl_->missing_key) return impl_->unknown_error(key);
    }
    return *impl_->first_error;
  }
  if (!unknown.empty()) return impl_->unknown_error(unknown.front());
  return {};
}

std::string ConfigReader::to_toml() const {
  std::ostringstream out;
  out << impl_->document << '\n';
  return out.str();
}

}  // namespace trib
