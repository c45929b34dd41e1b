// A set of users, items and what users did with items, as the original MovieLens files describe it.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib::tasks::cold_start {

// A user's attributes as indices of the vocabularies below; −1 where nothing is known.
struct UserAttributes {
  std::int32_t gender = -1;      // F, M
  std::int32_t age = -1;         // MovieLens-1M's classes: below 18, from 18, 25, 35, 45, 50, 56
  std::int32_t occupation = -1;  // MovieLens-1M's codes 0 to 20, and three of MovieLens-100k's
  std::int32_t region = -1;      // the first digit of a zip code; 10 for codes that begin otherwise
  bool operator==(const UserAttributes&) const = default;
};
inline constexpr std::int64_t gender_count = 2, age_count = 7, occupation_count = 24, region_count = 11;

struct User {
  std::string id;
  UserAttributes attributes;
};

struct Item {
  std::string id;
  std::string title;                 // UTF-8
  std::vector<std::int32_t> genres;  // indices of Dataset::genres
  std::int32_t year = 0;             // 0: unknown
};

// One user had to do with one item: an implicit interaction, whatever the rating was.
struct Interaction {
  std::int32_t user = 0, item = 0;  // indices
  std::int64_t time = 0;            // seconds since 1970; 0: unknown
};

struct Dataset {
  std::vector<std::string> genres;
  std::vector<User> users;
  std::vector<Item> items;
  std::vector<Interaction> interactions;  // every pair once
};

// Readers of one attribute. Errc::invalid_argument says what was given and what is accepted.
Result<std::int32_t> gender_from(std::string_view text);
Result<std::int32_t> age_from(std::string_view years);
Result<std::int32_t> occupation_from(std::string_view code_or_name);
std::int32_t region_from(std::string_view zip_code);

// MovieLens-1M: users.dat (UserID::Gender::Age::Occupation::Zip), movies.dat (MovieID::Title::Genres) and ratings.dat
// (UserID::MovieID, with or without ::Rating::Timestamp) in `directory`. A file that is not UTF-8 is read as Latin-1,
// which the originals are. A pair that is rated twice counts once, at its first line.
// Errc::invalid_argument names file, line and value: a wrong number of fields, an id that is there twice, a rating by
// an unknown user or of an unknown movie.
Result<Dataset> read_movielens_1m(const std::filesystem::path& directory);
// MovieLens-100k: u.user, u.item, u.genre and u.data. As above.
Result<Dataset> read_movielens_100k(const std::filesystem::path& directory);
// In MovieLens-1M's form, for whoever wants to look at a generated set.
Status write_movielens_1m(const Dataset& dataset, const std::filesystem::path& directory);

// A made-up set that ships with the program. Users and items have latent vectors; genres, title words and year are
// drawn from an item's vector, a user's attributes from the user's, so that content says something of an item that
// nobody has rated, and attributes of a user who has rated nothing. Popularity is skewed. The same seed, the same set.
struct SyntheticOptions {
  std::int64_t users = 600, items = 400, interactions_per_user = 30;
  std::uint64_t seed = 1;
  bool operator==(const SyntheticOptions&) const = default;
};
Dataset make_synthetic(const SyntheticOptions& options);

}  // namespace trib::tasks::cold_start
