#include "tasks/cold_start/dataset.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "common/files.h"
#include "common/utf8.h"

namespace trib::tasks::cold_start {
namespace {

// MovieLens-1M's codes in their order, then what MovieLens-100k has besides.
constexpr std::array<std::string_view, occupation_count> occupations = {
    "other",      "educator",  "artist",    "administrator", "college student", "customer service",
    "doctor",     "executive", "farmer",    "homemaker",     "student",         "lawyer",
    "programmer", "retired",   "marketing", "scientist",     "self-employed",   "engineer",
    "tradesman",  "none",      "writer",    "librarian",     "technician",      "entertainment"};
constexpr std::array<std::int32_t, 7> age_classes = {1, 18, 25, 35, 45, 50, 56};

std::optional<std::int64_t> integer_of(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string latin1_to_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size() + text.size() / 8);
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte < 0x80) {
      result += character;
    } else {
      result += static_cast<char>(0xC0 | (byte >> 6));
      result += static_cast<char>(0x80 | (byte & 0x3F));
    }
  }
  return result;
}

// A file of lines with separated fields, as MovieLens has them: no quoting.
class Lines {
 public:
  static Result<Lines> open(const std::filesystem::path& path, std::string_view separator) {
    Result<std::string> text = read_file(path);
    if (!text) {
      return Error{text.error().code,
                   text.error().message + "; the folder must hold the original MovieLens files, unpacked"};
    }
    if (find_invalid_utf8(*text)) *text = latin1_to_utf8(*text);
    return Lines(path.string(), std::move(*text), separator);
  }

  // The next line that is not empty; false at the end.
  bool next() {
    while (position_ < text_.size()) {
      const std::size_t end = std::min(text_.find('\n', position_), text_.size());
      std::string_view line = std::string_view(text_).substr(position_, end - position_);
      position_ = end + 1;
      ++line_;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty()) continue;
      fields.clear();
      for (std::size_t first = 0;;) {
        const std::size_t found = line.find(separator_, first);
        fields.push_back(line.substr(first, found - first));
        if (found == std::string_view::npos) break;
        first = found + separator_.size();
      }
      return true;
    }
    return false;
  }
  Error error(std::string_view problem) const {
    return {Errc::invalid_argument, fmt::format("{}:{}: {}", name_, line_, problem)};
  }
  Status expect_fields(std::size_t least, std::size_t most, std::string_view form) const {
    if (fields.size() >= least && fields.size() <= most) return {};
    return error(fmt::format("{} fields where {} are expected: {}", fields.size(), form,
                             fmt::join(fields, std::string_view(separator_))));
  }
  std::int64_t line() const { return line_; }

  std::vector<std::string_view> fields;

 private:
  Lines(std::string name, std::string text, std::string_view separator)
      : name_(std::move(name)), text_(std::move(text)), separator_(separator) {}
  std::string name_, text_, separator_;
  std::size_t position_ = 0;
  std::int64_t line_ = 0;
};

// Where each id was first seen.
class Ids {
 public:
  explicit Ids(std::string_view what) : what_(what) {}
  Result<std::int32_t> add(const Lines& lines, std::string_view id) {
    if (id.empty()) return lines.error(fmt::format("the {} has no id", what_));
    const auto index = static_cast<std::int32_t>(known_.size());
    const auto [found, is_new] = known_.emplace(std::string(id), std::pair(index, lines.line()));
    if (is_new) return index;
    return lines.error(
        fmt::format("{} {} is there twice, first in line {}: remove one of the two", what_, id, found->second.second));
  }
  Result<std::int32_t> find(const Lines& lines, std::string_view id, std::string_view file) const {
    const auto found = known_.find(std::string(id));
    if (found != known_.end()) return found->second.first;
    return lines.error(fmt::format("{} {} is not in {}: the files are not of one data set", what_, id, file));
  }

 private:
  std::string what_;
  std::unordered_map<std::string, std::pair<std::int32_t, std::int64_t>> known_;
};

// With the place, where reading a field failed.
template <typename T>
Result<T> at(const Lines& lines, Result<T> value) {
  if (value) return value;
  return lines.error(value.error().message);
}

// The year in "Toy Story (1995)"; 0 if there is none.
std::int32_t year_in_title(std::string_view title) {
  const std::size_t open = title.rfind('(');
  if (open == std::string_view::npos || open + 5 > title.size()) return 0;
  const auto year = integer_of(title.substr(open + 1, 4));
  return year && *year >= 1880 && *year <= 2100 ? static_cast<std::int32_t>(*year) : 0;
}

Status read_interactions(Lines& lines, const Ids& users, const Ids& items, std::string_view user_file,
                         std::string_view item_file, Dataset& dataset) {
  std::unordered_set<std::int64_t> pairs;
  while (lines.next()) {
    TRIB_TRY(lines.expect_fields(2, 4, "user, movie, and perhaps rating and time"));
    TRIB_ASSIGN(const std::int32_t user, users.find(lines, lines.fields[0], user_file));
    TRIB_ASSIGN(const std::int32_t item, items.find(lines, lines.fields[1], item_file));
    std::int64_t time = 0;
    if (lines.fields.size() == 4) {
      const auto seconds = integer_of(lines.fields[3]);
      if (!seconds || *seconds < 0)
        return lines.error(fmt::format("'{}' is no time in seconds since 1970", lines.fields[3]));
      time = *seconds;
    }
    if (pairs.insert((static_cast<std::int64_t>(user) << 32) | item).second)
      dataset.interactions.push_back({user, item, time});
  }
  return {};
}

}  // namespace

Result<std::int32_t> gender_from(std::string_view text) {
  if (text == "F") return 0;
  if (text == "M") return 1;
  if (text.empty()) return -1;
  return Error{Errc::invalid_argument, fmt::format("gender '{}': accepted are F, M, and nothing for unknown", text)};
}

Result<std::int32_t> age_from(std::string_view years) {
  if (years.empty()) return -1;
  const auto age = integer_of(years);
  if (!age || *age < 0 || *age > 150)
    return Error{Errc::invalid_argument, fmt::format("age '{}': a number of years, 0 to 150, or nothing", years)};
  std::int32_t chosen = 0;
  for (std::size_t i = 0; i < age_classes.size(); ++i)
    if (*age >= age_classes[i]) chosen = static_cast<std::int32_t>(i);
  return chosen;
}

Result<std::int32_t> occupation_from(std::string_view text) {
  if (text.empty()) return -1;
  if (const auto code = integer_of(text); code && *code >= 0 && *code < occupation_count)
    return static_cast<std::int32_t>(*code);
  const auto found = std::ranges::find(occupations, text);
  if (found != occupations.end()) return static_cast<std::int32_t>(found - occupations.begin());
  if (text == "healthcare") return 6;
  if (text == "salesman") return 14;
  return Error{Errc::invalid_argument,
               fmt::format("occupation '{}': a code 0 to 23, nothing, or one of {}, healthcare, "
                           "salesman",
                           text, fmt::join(occupations, ", "))};
}

std::int32_t region_from(std::string_view zip_code) {
  if (zip_code.empty()) return -1;
  return zip_code[0] >= '0' && zip_code[0] <= '9' ? zip_code[0] - '0' : 10;
}

Result<Dataset> read_movielens_1m(const std::filesystem::path& directory) {
  Dataset dataset;
  Ids users("user"), items("movie");
  TRIB_ASSIGN(Lines user_lines, Lines::open(directory / "users.dat", "::"));
  while (user_lines.next()) {
    const auto& fields = user_lines.fields;
    TRIB_TRY(user_lines.expect_fields(5, 5, "UserID::Gender::Age::Occupation::Zip"));
    TRIB_TRY(users.add(user_lines, fields[0]));
    User user{.id = std::string(fields[0]), .attributes = {}};
    TRIB_ASSIGN(user.attributes.gender, at(user_lines, gender_from(fields[1])));
    TRIB_ASSIGN(user.attributes.age, at(user_lines, age_from(fields[2])));
    TRIB_ASSIGN(user.attributes.occupation, at(user_lines, occupation_from(fields[3])));
    user.attributes.region = region_from(fields[4]);
    dataset.users.push_back(std::move(user));
  }
  TRIB_ASSIGN(Lines item_lines, Lines::open(directory / "movies.dat", "::"));
  while (item_lines.next()) {
    const auto& fields = item_lines.fields;
    TRIB_TRY(item_lines.expect_fields(3, 3, "MovieID::Title::Genres"));
    TRIB_TRY(items.add(item_lines, fields[0]));
    Item item{.id = std::string(fields[0]), .title = std::string(fields[1]), .genres = {}, .year = 0};
    item.year = year_in_title(item.title);
    for (std::string_view rest = fields[2]; !rest.empty();) {
      const std::size_t end = std::min(rest.find('|'), rest.size());
      const std::string name(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
      auto found = std::ranges::find(dataset.genres, name);
      if (found == dataset.genres.end()) found = dataset.genres.insert(dataset.genres.end(), name);
      item.genres.push_back(static_cast<std::int32_t>(found - dataset.genres.begin()));
    }
    dataset.items.push_back(std::move(item));
  }
  TRIB_ASSIGN(Lines rating_lines, Lines::open(directory / "ratings.dat", "::"));
  TRIB_TRY(read_interactions(rating_lines, users, items, "users.dat", "movies.dat", dataset));
  return dataset;
}

Result<Dataset> read_movielens_100k(const std::filesystem::path& directory) {
  Dataset dataset;
  Ids users("user"), items("movie");
  TRIB_ASSIGN(Lines genre_lines, Lines::open(directory / "u.genre", "|"));
  while (genre_lines.next()) dataset.genres.emplace_back(genre_lines.fields[0]);
  TRIB_ASSIGN(Lines user_lines, Lines::open(directory / "u.user", "|"));
  while (user_lines.next()) {
    const auto& fields = user_lines.fields;
    TRIB_TRY(user_lines.expect_fields(5, 5, "user|age|gender|occupation|zip"));
    TRIB_TRY(users.add(user_lines, fields[0]));
    User user{.id = std::string(fields[0]), .attributes = {}};
    TRIB_ASSIGN(user.attributes.age, at(user_lines, age_from(fields[1])));
    TRIB_ASSIGN(user.attributes.gender, at(user_lines, gender_from(fields[2])));
    TRIB_ASSIGN(user.attributes.occupation, at(user_lines, occupation_from(fields[3])));
    user.attributes.region = region_from(fields[4]);
    dataset.users.push_back(std::move(user));
  }
  TRIB_ASSIGN(Lines item_lines, Lines::open(directory / "u.item", "|"));
  while (item_lines.next()) {
    const auto& fields = item_lines.fields;
    const std::size_t expected = 5 + dataset.genres.size();
    TRIB_TRY(item_lines.expect_fields(expected, expected, fmt::format("{} (5, and one a line of u.genre)", expected)));
    TRIB_TRY(items.add(item_lines, fields[0]));
    Item item{.id = std::string(fields[0]), .title = std::string(fields[1]), .genres = {}, .year = 0};
    item.year = year_in_title(item.title);
    if (item.year == 0 && fields[2].size() == 11)
      item.year = static_cast<std::int32_t>(integer_of(fields[2].substr(7)).value_or(0));
    for (std::size_t genre = 0; genre < dataset.genres.size(); ++genre) {
      const std::string_view flag = fields[5 + genre];
      if (flag != "0" && flag != "1")
        return item_lines.error(fmt::format("'{}' for genre {}: accepted are 0 and 1", flag, dataset.genres[genre]));
      if (flag == "1") item.genres.push_back(static_cast<std::int32_t>(genre));
    }
    dataset.items.push_back(std::move(item));
  }
  TRIB_ASSIGN(Lines rating_lines, Lines::open(directory / "u.data", "\t"));
  TRIB_TRY(read_interactions(rating_lines, users, items, "u.user", "u.item", dataset));
  return dataset;
}

Status write_movielens_1m(const Dataset& dataset, const std::filesystem::path& directory) {
  TRIB_TRY(make_directories(directory));
  std::string users, items, ratings;
  for (const User& user : dataset.users) {
    const UserAttributes& a = user.attributes;
    users += fmt::format("{}::{}::{}::{}::{}\n", user.id,
                         a.gender < 0    ? ""
                         : a.gender == 0 ? "F"
                                         : "M",
                         a.age < 0 ? "" : fmt::format("{}", age_classes[static_cast<std::size_t>(a.age)]),
                         a.occupation < 0 ? "" : fmt::format("{}", a.occupation),
                         a.region < 0     ? ""
                         : a.region == 10 ? "X"
                                          : fmt::format("{}0000", a.region));
  }
  for (const Item& item : dataset.items) {
    std::vector<std::string> genres;
    for (const std::int32_t genre : item.genres) genres.push_back(dataset.genres[static_cast<std::size_t>(genre)]);
    items += fmt::format("{}::{}::{}\n", item.id, item.title, fmt::join(genres, "|"));
  }
  for (const Interaction& pair : dataset.interactions) {
    ratings += fmt::format("{}::{}\n", dataset.users[static_cast<std::size_t>(pair.user)].id,
                           dataset.items[static_cast<std::size_t>(pair.item)].id);
  }
  TRIB_TRY(write_file_durably(directory / "users.dat", users));
  TRIB_TRY(write_file_durably(directory / "movies.dat", items));
  return write_file_durably(directory / "ratings.dat", ratings);
}

}  // namespace trib::tasks::cold_start
