// The cold-start split of LLM-InS and ColdRec (README.md), and what is asked of a model on it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "tasks/cold_start/dataset.h"

namespace trib::tasks::cold_start {

struct SplitOptions {
  double cold_items = 0.2;  // of the items that somebody had to do with; half of them for validation, half for the test
  double cold_users = 0.0;  // of the users; likewise
  double validation = 0.1, test = 0.1;  // of the warm users' interactions with warm items
  std::uint64_t seed = 42;
  bool operator==(const SplitOptions&) const = default;
};

enum class Part { validation, test };
enum class Setting { warm, cold_item, cold_user, both_cold };
inline constexpr std::array<std::string_view, 4> setting_names = {"warm", "cold_item", "cold_user", "both_cold"};

// Whom to rank items for, and what should come first. Lists are ascending.
struct RankingQueries {
  std::vector<std::int32_t> users;
  std::vector<std::vector<std::int32_t>> relevant;  // items, by query; never empty
  std::vector<std::vector<std::int32_t>> excluded;  // items that score −∞ for this query besides
  std::vector<std::uint8_t> candidate;              // by item: 0 scores −∞ for everyone
};

class Split {
 public:
  // Errc::invalid_argument if a share leaves no warm item or no warm user, or there is no interaction at all.
  static Result<Split> make(const Dataset& dataset, const SplitOptions& options);

  bool is_cold_item(std::int32_t item) const { return cold_item_[static_cast<std::size_t>(item)] != 0; }
  bool is_cold_user(std::int32_t user) const { return cold_user_[static_cast<std::size_t>(user)] != 0; }
  // Items that were in the catalogue when training began: those that are neither cold nor without any interaction.
  std::vector<std::uint8_t> available() const;
  // What is trained on, ordered by user and item.
  const std::vector<Interaction>& training() const { return training_; }
  std::vector<std::vector<std::int32_t>> training_items() const;  // by user
  RankingQueries queries(Setting setting, Part part) const;

 private:
  static constexpr std::uint8_t warm = 0, cold_validation = 1, cold_test = 2, absent = 3;
  std::vector<std::uint8_t> cold_item_, cold_user_;
  std::vector<Interaction> training_, validation_, test_, cold_;  // cold_: those of cold users or cold items
};

}  // namespace trib::tasks::cold_start
