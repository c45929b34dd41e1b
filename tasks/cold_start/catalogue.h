// What is public of users and items: the features that towers embed.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "tasks/cold_start/dataset.h"

namespace trib::tasks::cold_start {

// One group of features: which of `vocabulary` are set for each of a number of entities.
struct FeatureGroup {
  std::string name;
  std::int64_t vocabulary = 0;
  std::vector<std::int32_t> offsets = {0};  // entities + 1
  std::vector<std::int32_t> features = {};
  std::span<const std::int32_t> of(std::int64_t entity) const {
    const auto first = static_cast<std::size_t>(offsets[static_cast<std::size_t>(entity)]);
    const auto last = static_cast<std::size_t>(offsets[static_cast<std::size_t>(entity) + 1]);
    return std::span(features).subspan(first, last - first);
  }
  std::int64_t entities() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  void add(std::span<const std::int32_t> set) {
    features.insert(features.end(), set.begin(), set.end());
    offsets.push_back(static_cast<std::int32_t>(features.size()));
  }
};

// The words of a title, lower case, without its year.
std::vector<std::string> title_words(std::string_view title);

// Every item with its features (groups title, genre, year), and whether it was there when training began.
class Catalogue {
 public:
  // `available` by item. Words that stand in fewer than `min_word_count` available titles are left out: a word of few
  // titles learns those items by heart, and says nothing of another that has it.
  static Catalogue from(const Dataset& dataset, std::vector<std::uint8_t> available, std::int64_t min_word_count);
  // Errc::invalid_argument if the tensors are not what to_tensors() gives.
  static Result<Catalogue> from_tensors(const TensorMap& tensors);
  TensorMap to_tensors() const;

  std::int64_t item_count() const { return static_cast<std::int64_t>(ids_.size()); }
  const std::vector<FeatureGroup>& groups() const { return groups_; }
  bool is_available(std::int32_t item) const { return available_[static_cast<std::size_t>(item)] != 0; }
  // The index of an item, or −1.
  std::int32_t find(std::string_view id) const;

 private:
  void index();
  std::vector<std::string> ids_;
  std::vector<FeatureGroup> groups_;
  std::vector<std::uint8_t> available_;
  std::map<std::string, std::int32_t, std::less<>> by_id_;
};

// The groups of a user's features: gender, age, occupation, region, and the context in which the user was active.
inline constexpr std::array<std::pair<std::string_view, std::int64_t>, 5> user_groups = {
    {{"gender", gender_count},
     {"age", age_count},
     {"occupation", occupation_count},
     {"region", region_count},
     {"context", 8}}};  // quarters of a day, on weekdays and on weekends

// One user with everything that they did: one record.
struct UserRecord {
  std::string id;
  std::array<std::vector<std::int32_t>, user_groups.size()> features;
  std::vector<std::int32_t> items;  // indices of the catalogue, ascending, each once
};

// `times` of the interactions, in seconds since 1970; 0 where unknown.
UserRecord make_user(std::string id, const UserAttributes& attributes, std::vector<std::int32_t> items,
                     std::span<const std::int64_t> times);

// All users of a data set, by index, with their interactions of `training`.
std::vector<UserRecord> user_records(const Dataset& dataset, std::span<const Interaction> training);

// A site's file: TSV, UTF-8, with the header "user gender age occupation region items"; items are ids of the catalogue
// separated by spaces, each perhaps with ":" and its time. Attributes as dataset.h reads them.
Status write_site_file(const std::filesystem::path& path, const Dataset& dataset, std::span<const std::int32_t> users,
                       std::span<const Interaction> training);
// A row of it. Items are resolved once the catalogue is known.
struct SiteUser {
  std::string id;
  UserAttributes attributes;
  std::vector<std::string> items;
  std::vector<std::int64_t> times;
  std::int64_t line = 0;
};
// Errc::invalid_argument names file, line and value; a user may be there once, and may have no items.
Result<std::vector<SiteUser>> read_site_file(const std::filesystem::path& path);
// Errc::invalid_argument names the first item that the catalogue lacks, or did not have when training began.
Result<std::vector<UserRecord>> resolve(const std::vector<SiteUser>& users, const Catalogue& catalogue,
                                        std::string_view file_for_errors);

}  // namespace trib::tasks::cold_start
