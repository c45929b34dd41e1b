#include "tasks/cold_start/catalogue.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <unordered_map>

#include "common/files.h"
#include "tasks/data/delimited.h"

namespace trib::tasks::cold_start {
namespace {

constexpr std::int32_t first_year = 1900, year_count = 150;
constexpr std::array<std::string_view, 6> columns = {"user", "gender", "age", "occupation", "region", "items"};

template <typename T>
HostTensor tensor_of(DType dtype, std::span<const T> values) {
  HostTensor tensor(dtype, {static_cast<std::int64_t>(values.size())});
  std::ranges::copy(values, tensor.as<T>().begin());
  return tensor;
}

// Quarter of the day, UTC, and whether it is a weekend: 1970-01-01 was a Thursday.
std::int32_t context_of(std::int64_t time) {
  const std::int64_t day = time / 86400, weekday = (day + 3) % 7;
  return static_cast<std::int32_t>((time % 86400) / 21600 + (weekday >= 5 ? 4 : 0));
}

}  // namespace

std::vector<std::string> title_words(std::string_view title) {
  if (const std::size_t year = title.rfind('(');
      year != std::string_view::npos && title.ends_with(')') && title.size() - year == 6)
    title = title.substr(0, year);
  std::vector<std::string> words(1);
  for (const char character : title) {
    const bool is_upper = character >= 'A' && character <= 'Z';
    const bool is_word = is_upper || (character >= 'a' && character <= 'z') || (character >= '0' && character <= '9') ||
                         static_cast<unsigned char>(character) >= 0x80;
    if (is_word) {
      words.back() += is_upper ? static_cast<char>(character - 'A' + 'a') : character;
    } else if (character != '\'' && !words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

Catalogue Catalogue::from(const Dataset& dataset, std::vector<std::uint8_t> available, std::int64_t min_word_count) {
  Catalogue catalogue;
  catalogue.available_ = std::move(available);
  std::vector<std::set<std::string>> titles;
  std::map<std::string, std::int32_t> uses;
  for (const Item& item : dataset.items) {
    catalogue.ids_.push_back(item.id);
    const std::vector<std::string> words = title_words(item.title);
    const bool counts = catalogue.available_[titles.size()] != 0;
    for (const std::string& word : titles.emplace_back(words.begin(), words.end())) uses[word] += counts ? 1 : 0;
  }
  std::erase_if(uses, [&](const auto& use) { return use.second < min_word_count; });
  std::int32_t next = 0;
  for (auto& [word, index] : uses) index = next++;

  FeatureGroup title{.name = "title", .vocabulary = std::max<std::int64_t>(1, next)};
  FeatureGroup genre{.name = "genre", .vocabulary = std::max<std::int64_t>(1, std::ssize(dataset.genres))};
  // The year itself, its five years and its decade, one behind the other.
  FeatureGroup year{.name = "year", .vocabulary = year_count + year_count / 5 + year_count / 10};
  for (std::size_t i = 0; i < dataset.items.size(); ++i) {
    const Item& item = dataset.items[i];
    std::vector<std::int32_t> words;
    for (const std::string& word : titles[i])
      if (const auto found = uses.find(word); found != uses.end()) words.push_back(found->second);
    title.add(words);
    genre.add(item.genres);
    const std::int32_t y = item.year - first_year;
    if (y >= 0 && y < year_count) {
      year.add(std::array{y, year_count + y / 5, year_count + year_count / 5 + y / 10});
    } else {
      year.add({});
    }
  }
  catalogue.groups_ = {std::move(title), std::move(genre), std::move(year)};
  catalogue.index();
  return catalogue;
}

TensorMap Catalogue::to_tensors() const {
  TensorMap tensors;
  std::string names;
  for (const std::string& id : ids_) names += id + '\n';
  const std::span bytes(reinterpret_cast<const std::uint8_t*>(names.data()), names.size());
  tensors["catalogue.ids"] = tensor_of(DType::u8, bytes);
  tensors["catalogue.available"] = tensor_of(DType::u8, std::span(available_));
  for (const FeatureGroup& group : groups_) {
    const std::string prefix = "catalogue." + group.name;
    tensors[prefix + ".vocabulary"] = tensor_of(DType::i64, std::span(&group.vocabulary, 1));
    tensors[prefix + ".offsets"] = tensor_of(DType::i32, std::span(group.offsets));
    tensors[prefix + ".features"] = tensor_of(DType::i32, std::span(group.features));
  }
  return tensors;
}

Result<Catalogue> Catalogue::from_tensors(const TensorMap& tensors) {
  const auto wrong = [](std::string_view what) {
    return Error{Errc::invalid_argument, fmt::format("the catalogue that came with the job is damaged: {}", what)};
  };
  const auto find = [&](const std::string& name, DType dtype) -> Result<const HostTensor*> {
    TRIB_ASSIGN(const HostTensor* tensor, tensors.find(name));
    if (tensor->dtype() != dtype || tensor->shape().size() != 1) return wrong(name + " has another type or shape");
    return tensor;
  };
  Catalogue catalogue;
  TRIB_ASSIGN(const HostTensor* names, find("catalogue.ids", DType::u8));
  std::string id;
  for (const std::uint8_t byte : names->as<std::uint8_t>()) {
    if (byte == '\n') {
      catalogue.ids_.push_back(std::exchange(id, {}));
    } else {
      id += static_cast<char>(byte);
    }
  }
  TRIB_ASSIGN(const HostTensor* available, find("catalogue.available", DType::u8));
  catalogue.available_.assign(available->as<std::uint8_t>().begin(), available->as<std::uint8_t>().end());
  if (catalogue.ids_.empty() || catalogue.available_.size() != catalogue.ids_.size())
    return wrong("ids and availability differ in number");
  for (const char* name : {"title", "genre", "year"}) {
    const std::string prefix = std::string("catalogue.") + name;
    TRIB_ASSIGN(const HostTensor* vocabulary, find(prefix + ".vocabulary", DType::i64));
    TRIB_ASSIGN(const HostTensor* offsets, find(prefix + ".offsets", DType::i32));
    TRIB_ASSIGN(const HostTensor* features, find(prefix + ".features", DType::i32));
    if (vocabulary->element_count() != 1) return wrong(prefix + ".vocabulary is not one number");
    FeatureGroup group{.name = name, .vocabulary = vocabulary->as<std::int64_t>()[0]};
    if (group.vocabulary < 1 || group.vocabulary > 100'000'000) return wrong(prefix + " has no vocabulary");
    group.offsets.assign(offsets->as<std::int32_t>().begin(), offsets->as<std::int32_t>().end());
    group.features.assign(features->as<std::int32_t>().begin(), features->as<std::int32_t>().end());
    const bool ends_fit = group.offsets.size() == catalogue.ids_.size() + 1 && group.offsets.front() == 0 &&
                          group.offsets.back() == std::ssize(group.features) && std::ranges::is_sorted(group.offsets);
    const bool features_fit = std::ranges::all_of(
        group.features, [&](std::int32_t feature) { return feature >= 0 && feature < group.vocabulary; });
    if (!ends_fit || !features_fit) return wrong(prefix + " points outside of itself");
    catalogue.groups_.push_back(std::move(group));
  }
  catalogue.index();
  return catalogue;
}

void Catalogue::index() {
  for (std::size_t i = 0; i < ids_.size(); ++i) by_id_.emplace(ids_[i], static_cast<std::int32_t>(i));
}

std::int32_t Catalogue::find(std::string_view id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? -1 : found->second;
}

UserRecord make_user(std::string id, const UserAttributes& attributes, std::vector<std::int32_t> items,
                     std::span<const std::int64_t> times) {
  UserRecord user{.id = std::move(id), .features = {}, .items = std::move(items)};
  const std::array<std::int32_t, 4> known = {attributes.gender, attributes.age, attributes.occupation,
                                             attributes.region};
  for (std::size_t group = 0; group < known.size(); ++group)
    if (known[group] >= 0) user.features[group].push_back(known[group]);
  std::array<std::int64_t, 8> counts{};
  std::int64_t total = 0;
  for (const std::int64_t time : times) {
    if (time <= 0) continue;
    ++counts[static_cast<std::size_t>(context_of(time))];
    ++total;
  }
  // Where at least a sixth of what the user did was done.
  for (std::size_t i = 0; i < counts.size(); ++i)
    if (total > 0 && 6 * counts[i] >= total) user.features[4].push_back(static_cast<std::int32_t>(i));
  std::ranges::sort(user.items);
  user.items.erase(std::unique(user.items.begin(), user.items.end()), user.items.end());
  return user;
}

std::vector<UserRecord> user_records(const Dataset& dataset, std::span<const Interaction> training) {
  std::vector<std::vector<std::int32_t>> items(dataset.users.size());
  std::vector<std::vector<std::int64_t>> times(dataset.users.size());
  for (const Interaction& pair : training) {
    items[static_cast<std::size_t>(pair.user)].push_back(pair.item);
    times[static_cast<std::size_t>(pair.user)].push_back(pair.time);
  }
  std::vector<UserRecord> users;
  for (std::size_t u = 0; u < dataset.users.size(); ++u)
    users.push_back(make_user(dataset.users[u].id, dataset.users[u].attributes, std::move(items[u]), times[u]));
  return users;
}

Status write_site_file(const std::filesystem::path& path, const Dataset& dataset, std::span<const std::int32_t> users,
                       std::span<const Interaction> training) {
  std::unordered_map<std::int32_t, std::string> lists;
  for (const std::int32_t user : users) lists[user];
  for (const Interaction& pair : training) {
    const auto list = lists.find(pair.user);
    if (list == lists.end()) continue;
    if (!list->second.empty()) list->second += ' ';
    list->second += dataset.items[static_cast<std::size_t>(pair.item)].id;
    if (pair.time > 0) list->second += fmt::format(":{}", pair.time);
  }
  constexpr std::array<int, age_count> ages = {1, 18, 25, 35, 45, 50, 56};
  std::string text = "user\tgender\tage\toccupation\tregion\titems\n";
  for (const std::int32_t user : users) {
    const User& entry = dataset.users[static_cast<std::size_t>(user)];
    const UserAttributes& a = entry.attributes;
    const auto number = [](std::int32_t value) { return value < 0 ? std::string() : fmt::format("{}", value); };
    text += fmt::format("{}\t{}\t{}\t{}\t{}\t{}\n", entry.id,
                        a.gender < 0    ? ""
                        : a.gender == 0 ? "F"
                                        : "M",
                        a.age < 0 ? "" : fmt::format("{}", ages[static_cast<std::size_t>(a.age)]), number(a.occupation),
                        a.region == 10 ? "X" : number(a.region), lists[user]);
  }
  return write_file_durably(path, text);
}

Result<std::vector<SiteUser>> read_site_file(const std::filesystem::path& path) {
  TRIB_ASSIGN(const std::string text, read_file(path));
  data::DelimitedReader reader(text, data::DelimitedReader::tsv, path.string());
  const auto wrong = [&](std::string_view problem) {
    return Error{Errc::invalid_argument, fmt::format("{}:{}: {}", path.string(), reader.line(), problem)};
  };
  std::vector<std::string> fields;
  TRIB_ASSIGN(const bool has_header, reader.next(fields));
  if (!has_header || !std::ranges::equal(fields, columns)) {
    return Error{Errc::invalid_argument, fmt::format("{}:1: the header must be the tab-separated columns user, gender, "
                                                     "age, occupation, region, items",
                                                     path.string())};
  }
  std::vector<SiteUser> users;
  std::unordered_map<std::string, std::int64_t> lines;
  for (;;) {
    TRIB_ASSIGN(const bool more, reader.next(fields));
    if (!more) break;
    // A user without interactions may end in a tab or not.
    if (fields.size() == columns.size() - 1) fields.emplace_back();
    if (fields.size() != columns.size()) return wrong(fmt::format("{} fields where 6 are expected", fields.size()));
    SiteUser user{.id = fields[0], .attributes = {}, .items = {}, .times = {}, .line = reader.line()};
    if (user.id.empty()) return wrong("the user has no id");
    if (const auto [known, is_new] = lines.emplace(user.id, user.line); !is_new) {
      return wrong(fmt::format("user {} is there twice, first in line {}: one line a user, with all of their items",
                               user.id, known->second));
    }
    const auto gender = gender_from(fields[1]), age = age_from(fields[2]), occupation = occupation_from(fields[3]);
    for (const auto* attribute : {&gender, &age, &occupation})
      if (!*attribute) return wrong(attribute->error().message);
    user.attributes = {.gender = *gender, .age = *age, .occupation = *occupation, .region = region_from(fields[4])};
    for (std::string_view rest = fields[5]; !rest.empty();) {
      const std::size_t end = std::min(rest.find(' '), rest.size());
      const std::string_view entry = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (entry.empty()) continue;
      const std::size_t colon = std::min(entry.find(':'), entry.size());
      std::int64_t time = 0;
      if (colon < entry.size()) {
        const auto [stop, error] = std::from_chars(entry.data() + colon + 1, entry.data() + entry.size(), time);
        if (error != std::errc() || stop != entry.data() + entry.size() || time < 0)
          return wrong(fmt::format("'{}': what follows ':' must be a time in seconds since 1970", entry));
      }
      user.items.emplace_back(entry.substr(0, colon));
      user.times.push_back(time);
    }
    users.push_back(std::move(user));
  }
  return users;
}

Result<std::vector<UserRecord>> resolve(const std::vector<SiteUser>& users, const Catalogue& catalogue,
                                        std::string_view file_for_errors) {
  std::vector<UserRecord> records;
  for (const SiteUser& user : users) {
    std::vector<std::int32_t> items;
    for (const std::string& id : user.items) {
      const std::int32_t item = catalogue.find(id);
      if (item < 0 || !catalogue.is_available(item)) {
        return Error{Errc::invalid_argument,
                     fmt::format("{}:{}: item {} {}; leave it out, or have the aggregator's catalogue list it",
                                 file_for_errors, user.line, id,
                                 item < 0 ? "is not in the job's catalogue"
                                          : "had not appeared yet when the job's catalogue was made")};
      }
      items.push_back(item);
    }
    records.push_back(make_user(user.id, user.attributes, std::move(items), user.times));
  }
  return records;
}

}  // namespace trib::tasks::cold_start
