#include "tasks/cold_start/split.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <map>

#include "common/random.h"

namespace trib::tasks::cold_start {
namespace {

template <typename T>
void shuffle(std::vector<T>& values, RandomSource& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

// Marks the last share of `members` in random order as cold: the first half of them for validation, the rest for the
// test.
void mark_cold(std::vector<std::int32_t> members, double share, RandomSource& random,
               std::vector<std::uint8_t>& marks) {
  shuffle(members, random);
  const auto warm = static_cast<std::size_t>((1.0 - share) * static_cast<double>(members.size()) + 1e-9);
  const std::size_t cold = members.size() - warm;
  for (std::size_t i = 0; i < cold; ++i) marks[static_cast<std::size_t>(members[warm + i])] = i < cold / 2 ? 1 : 2;
}

void order(std::vector<Interaction>& pairs) {
  std::ranges::sort(pairs, {}, [](const Interaction& pair) { return std::pair(pair.user, pair.item); });
}

}  // namespace

Result<Split> Split::make(const Dataset& dataset, const SplitOptions& options) {
  Split split;
  split.cold_item_.assign(dataset.items.size(), absent);
  split.cold_user_.assign(dataset.users.size(), absent);
  for (const Interaction& pair : dataset.interactions) {
    split.cold_item_[static_cast<std::size_t>(pair.item)] = warm;
    split.cold_user_[static_cast<std::size_t>(pair.user)] = warm;
  }
  const auto present = [](const std::vector<std::uint8_t>& marks) {
    std::vector<std::int32_t> members;
    for (std::size_t i = 0; i < marks.size(); ++i)
      if (marks[i] != absent) members.push_back(static_cast<std::int32_t>(i));
    return members;
  };
  ChaCha20Random random(RandomKey::from_seed(options.seed, 11));
  mark_cold(present(split.cold_item_), options.cold_items, random, split.cold_item_);
  mark_cold(present(split.cold_user_), options.cold_users, random, split.cold_user_);

  std::vector<Interaction> pairs;
  for (const Interaction& pair : dataset.interactions) {
    const bool is_warm = !split.is_cold_item(pair.item) && !split.is_cold_user(pair.user);
    (is_warm ? pairs : split.cold_).push_back(pair);
  }
  if (pairs.empty()) {
    return Error{Errc::invalid_argument,
                 fmt::format("no interaction is left to train on: {} interactions, split.cold_items = {}, "
                             "split.cold_users = {}; smaller shares leave more",
                             dataset.interactions.size(), options.cold_items, options.cold_users)};
  }
  order(pairs);
  shuffle(pairs, random);
  const auto count_of = [&](double share) {
    return static_cast<std::size_t>(share * static_cast<double>(pairs.size()));
  };
  const std::size_t validation_count = count_of(options.validation), test_count = count_of(options.test);
  const std::size_t training_count = pairs.size() - validation_count - test_count;

  // Whoever is warm has something to be trained on.
  std::vector<bool> user_seen(dataset.users.size()), item_seen(dataset.items.size());
  const auto train_on = [&](const Interaction& pair) {
    user_seen[static_cast<std::size_t>(pair.user)] = true;
    item_seen[static_cast<std::size_t>(pair.item)] = true;
    split.training_.push_back(pair);
  };
  for (std::size_t i = 0; i < training_count; ++i) train_on(pairs[i]);
  for (std::size_t i = training_count; i < pairs.size(); ++i) {
    const Interaction& pair = pairs[i];
    if (!user_seen[static_cast<std::size_t>(pair.user)] || !item_seen[static_cast<std::size_t>(pair.item)]) {
      train_on(pair);
    } else {
      (i < training_count + validation_count ? split.validation_ : split.test_).push_back(pair);
    }
  }
  for (auto* part : {&split.training_, &split.validation_, &split.test_, &split.cold_}) order(*part);
  return split;
}

std::vector<std::uint8_t> Split::available() const {
  std::vector<std::uint8_t> result;
  for (const std::uint8_t mark : cold_item_) result.push_back(mark == warm ? 1 : 0);
  return result;
}

std::vector<std::vector<std::int32_t>> Split::training_items() const {
  std::vector<std::vector<std::int32_t>> result(cold_user_.size());
  for (const Interaction& pair : training_) result[static_cast<std::size_t>(pair.user)].push_back(pair.item);
  return result;
}

RankingQueries Split::queries(Setting setting, Part part) const {
  const std::uint8_t wanted = part == Part::validation ? cold_validation : cold_test;
  const bool cold_items = setting == Setting::cold_item || setting == Setting::both_cold;
  const bool cold_users = setting == Setting::cold_user || setting == Setting::both_cold;
  std::map<std::int32_t, std::vector<std::int32_t>> relevant;
  if (setting == Setting::warm) {
    for (const Interaction& pair : part == Part::validation ? validation_ : test_)
      relevant[pair.user].push_back(pair.item);
  } else {
    for (const Interaction& pair : cold_) {
      const std::uint8_t user = cold_user_[static_cast<std::size_t>(pair.user)];
      const std::uint8_t item = cold_item_[static_cast<std::size_t>(pair.item)];
      if (user == (cold_users ? wanted : warm) && item == (cold_items ? wanted : warm))
        relevant[pair.user].push_back(pair.item);
    }
  }
  RankingQueries queries;
  const auto training = training_items();
  for (auto& [user, items] : relevant) {
    queries.users.push_back(user);
    queries.relevant.push_back(std::move(items));
    queries.excluded.push_back(training[static_cast<std::size_t>(user)]);
  }
  for (const std::uint8_t mark : cold_item_)
    queries.candidate.push_back(mark != absent && (mark != warm) == cold_items ? 1 : 0);
  return queries;
}

}  // namespace trib::tasks::cold_start
