#include "client/outbox.h"

#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <system_error>

#include "common/failpoint.h"
#include "common/files.h"
#include "common/safetensors.h"

namespace trib::client {
namespace {

constexpr std::string_view suffix = ".safetensors";
constexpr std::string_view round_mark = ".round-";
constexpr std::string_view temporary_mark = ".safetensors.tmp-";  // of a durable write that a crash cut short
constexpr std::uint64_t header_allowance = 4096;                  // names, shapes and metadata beside the tensors

std::string in_quotes(const std::filesystem::path& path) {
  return "'" + path.native() + "'";
}

// The weight travels as the sixteen hex digits of its bits: a decimal form would have to be proven exact.
std::string to_text(double weight) {
  return fmt::format("{:016x}", std::bit_cast<std::uint64_t>(weight));
}

std::optional<double> weight_from_text(std::string_view text) {
  std::uint64_t bits = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bits, 16);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return std::bit_cast<double>(bits);
}

// Over everything in the entry, so that no part of it can be exchanged for another entry's.
std::string digest_of(const OutboxEntry& entry) {
  const auto tensors = entry.tensors.digest();
  return to_hex(sha256(fmt::format("{}\n{}\n{}\n{}\n{}", entry.job, entry.round, to_text(entry.weight),
                                   entry.is_private ? "private" : "not private", to_hex(tensors))));
}

SafetensorsMetadata metadata_of(const OutboxEntry& entry) {
  return {{"tributary.job", entry.job},
          {"tributary.round", std::to_string(entry.round)},
          {"tributary.weight_bits", to_text(entry.weight)},
          {"tributary.private", entry.is_private ? "true" : "false"},
          {"tributary.digest", digest_of(entry)}};
}

std::optional<std::pair<std::string, std::int64_t>> key_from_file_name(std::string_view name) {
  if (!name.ends_with(suffix)) return std::nullopt;
  name.remove_suffix(suffix.size());
  const auto mark = name.rfind(round_mark);
  if (mark == std::string_view::npos || mark == 0) return std::nullopt;
  const std::string_view digits = name.substr(mark + round_mark.size());
  std::int64_t round = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), round);
  if (error != std::errc{} || end != digits.data() + digits.size() || round < 1) return std::nullopt;
  return std::pair(std::string(name.substr(0, mark)), round);
}

}  // namespace

bool is_valid_job_id(std::string_view id) {
  constexpr std::size_t longest = 128;
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  return !id.empty() && id.size() <= longest && id.front() != '.' && std::all_of(id.begin(), id.end(), allowed);
}

Result<std::unique_ptr<Outbox>> Outbox::open(std::filesystem::path directory, std::uint64_t byte_limit) {
  TRIB_TRY(make_directories(directory, 0700));
  std::error_code error;
  std::vector<std::filesystem::path> half_written;
  for (const auto& file : std::filesystem::directory_iterator(directory, error)) {
    if (file.path().filename().native().find(temporary_mark) != std::string::npos) half_written.push_back(file.path());
  }
  for (const auto& path : half_written) {
    if (::unlink(path.c_str()) != 0)
      return error_from_errno(errno, "cannot remove the half-written " + in_quotes(path));
  }
  TRIB_ASSIGN(const std::vector<Item> items, list_outbox(directory));
  std::unique_ptr<Outbox> outbox(new Outbox(std::move(directory), byte_limit));
  for (const Item& item : items) outbox->entries_[Key{item.job, item.round}] = item.bytes;
  return outbox;
}

Result<std::vector<Outbox::Item>> list_outbox(const std::filesystem::path& directory) {
  std::vector<Outbox::Item> items;
  std::error_code error;
  if (!std::filesystem::exists(directory, error)) return items;
  std::filesystem::directory_iterator files(directory, error);
  if (error) return error_from_errno(error.value(), "cannot list the outbox " + in_quotes(directory));
  for (const auto& file : files) {
    const std::string name = file.path().filename().string();
    if (name.find(temporary_mark) != std::string::npos) continue;
    const auto key = key_from_file_name(name);
    if (!key) {
      return Error{Errc::corrupt, fmt::format("the outbox holds {}, which is no contribution: move it elsewhere",
                                              in_quotes(file.path()))};
    }
    const std::uint64_t bytes = file.file_size(error);
    if (error) continue;  // its round was closed a moment ago
    items.push_back({key->first, key->second, bytes});
  }
  std::ranges::sort(items, {}, [](const Outbox::Item& item) { return std::pair(item.job, item.round); });
  return items;
}

std::filesystem::path Outbox::path_of(const Key& key) const {
  return directory_ / fmt::format("{}{}{}{}", key.first, round_mark, key.second, suffix);
}

Status Outbox::put(const OutboxEntry& entry) {
  if (!is_valid_job_id(entry.job)) {
    return Error{Errc::invalid_argument, fmt::format("'{}' cannot be the id of a job", entry.job)};
  }
  std::lock_guard lock(mutex_);
  const Key key{entry.job, entry.round};
  if (entries_.contains(key)) {
    return Error{Errc::already_exists,
                 fmt::format("the outbox holds a contribution to round {} of job {} already", entry.round, entry.job)};
  }
  TRIB_TRY(check_room_locked(entry.tensors.byte_count()));
  const std::filesystem::path path = path_of(key);
  TRIB_FAILPOINT("outbox.before_write");
  if (const Status written = write_safetensors(path, entry.tensors, metadata_of(entry)); !written) {
    // The write may have failed after the rename, at the directory: an entry of unknown durability must not be sent.
    ::unlink(path.c_str());
    return written.error().with_context("the contribution could not be kept");
  }
  TRIB_FAILPOINT("outbox.after_write");
  std::error_code error;
  const std::uint64_t bytes = std::filesystem::file_size(path, error);
  if (error) return error_from_errno(error.value(), "cannot read " + in_quotes(path));
  entries_[key] = bytes;
  return {};
}

Status Outbox::check_room(std::uint64_t tensor_bytes) const {
  std::lock_guard lock(mutex_);
  return check_room_locked(tensor_bytes);
}

Status Outbox::check_room_locked(std::uint64_t tensor_bytes) const {
  std::uint64_t held = 0;
  for (const auto& [key, bytes] : entries_) held += bytes;
  const std::uint64_t wanted = tensor_bytes + header_allowance;
  if (wanted > byte_limit_ || held > byte_limit_ - wanted) {
    return Error{
        Errc::limit_exceeded,
        fmt::format("a contribution of {} bytes does not fit into the outbox: {} bytes in {} entries of at most {} "
                    "(limits.outbox_bytes); they go when the aggregator closes their rounds",
                    tensor_bytes, held, entries_.size(), byte_limit_)};
  }
  std::error_code error;
  const auto space = std::filesystem::space(directory_, error);
  if (!error && space.available < wanted) {
    return Error{Errc::no_space, fmt::format("the disk of the outbox '{}' has {} bytes left, a contribution needs {}",
                                             directory_.native(), space.available, wanted)};
  }
  return {};
}

bool Outbox::contains(std::string_view job, std::int64_t round) const {
  std::lock_guard lock(mutex_);
  return entries_.contains(Key{std::string(job), round});
}

Result<OutboxEntry> Outbox::get(std::string_view job, std::int64_t round) const {
  std::lock_guard lock(mutex_);
  const Key key{std::string(job), round};
  if (!entries_.contains(key)) {
    return Error{Errc::not_found, fmt::format("the outbox holds no contribution to round {} of job {}", round, job)};
  }
  const std::filesystem::path path = path_of(key);
  TRIB_ASSIGN(SafetensorsFile file, read_safetensors(path));
  const auto field = [&](const char* name) {
    const auto found = file.metadata.find(name);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  const auto weight = weight_from_text(field("tributary.weight_bits"));
  OutboxEntry entry{.job = key.first,
                    .round = round,
                    .weight = weight.value_or(0.0),
                    .is_private = field("tributary.private") == "true",
                    .tensors = std::move(file.tensors)};
  if (!weight || field("tributary.digest") != digest_of(entry)) {
    return Error{Errc::corrupt, fmt::format("{} is not what was written there: its digest differs", in_quotes(path))};
  }
  return entry;
}

Status Outbox::remove(std::string_view job, std::int64_t round) {
  std::lock_guard lock(mutex_);
  return remove_locked(Key{std::string(job), round});
}

Status Outbox::remove_job(std::string_view job) {
  std::lock_guard lock(mutex_);
  std::vector<Key> keys;
  for (const auto& [key, bytes] : entries_) {
    if (key.first == job) keys.push_back(key);
  }
  for (const Key& key : keys) TRIB_TRY(remove_locked(key));
  return {};
}

// Not fsynced: an entry that a crash brings back is removed again the next time its round is heard of.
Status Outbox::remove_locked(const Key& key) {
  if (!entries_.contains(key)) return {};
  const std::filesystem::path path = path_of(key);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return error_from_errno(errno, "cannot remove " + in_quotes(path));
  entries_.erase(key);
  return {};
}

std::vector<Outbox::Item> Outbox::list() const {
  std::lock_guard lock(mutex_);
  std::vector<Item> items;
  for (const auto& [key, bytes] : entries_) items.push_back({key.first, key.second, bytes});
  return items;
}

Status Outbox::remove_older_than(std::filesystem::file_time_type time) {
  std::lock_guard lock(mutex_);
  std::vector<Key> keys;
  for (const auto& [key, bytes] : entries_) {
    std::error_code error;
    const auto written = std::filesystem::last_write_time(path_of(key), error);
    if (!error && written < time) keys.push_back(key);
  }
  for (const Key& key : keys) TRIB_TRY(remove_locked(key));
  return {};
}

}  // namespace trib::client
