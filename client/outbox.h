// Contributions that a site has made and not yet seen committed: trained once, sent as often as it takes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/hash.h"
#include "common/result.h"
#include "common/tensor_map.h"

namespace trib::client {

// Whether a job may be called so: its id comes from outside and becomes part of file names. Letters, digits, '-', '_'
// and
// '.', not first; at most 128.
bool is_valid_job_id(std::string_view id);

// One contribution, ready to send: tensors already multiplied by their weight, noised and charged for.
struct OutboxEntry {
  std::string job;
  std::int64_t round = 0;
  double weight = 0.0;
  bool is_private = true;
  TensorMap tensors = {};
};

// A directory with one safetensors file for each (job, round), written whole, fsynced and renamed, so that a crash at
// any point leaves an entry complete or absent. The file's metadata holds the rest of the entry (the weight bit for
// bit) and the digest of all of it, which reading checks. Thread-safe; one process at a time (the caller holds the lock
// of the site's directory).
class Outbox {
 public:
  // Opens or creates the directory and sweeps what a crash left half-written. `byte_limit` bounds the sum of all files.
  static Result<std::unique_ptr<Outbox>> open(std::filesystem::path directory, std::uint64_t byte_limit);

  // Returns once the entry is durable. Errc::already_exists if (job, round) is there: an entry is never replaced;
  // limit_exceeded (names the limit and what fills it); no_space or io_error. After an error nothing of it is there.
  Status put(const OutboxEntry& entry);
  // Whether `put` would find room for an entry of so many tensor bytes, asked before anything is spent on it.
  Status check_room(std::uint64_t tensor_bytes) const;

  bool contains(std::string_view job, std::int64_t round) const;
  // Errc::not_found; corrupt, with the path, if the file is not what was written.
  Result<OutboxEntry> get(std::string_view job, std::int64_t round) const;

  // The round is committed or abandoned, the job has ended: these may go. Removing what is not there is not an error.
  Status remove(std::string_view job, std::int64_t round);
  Status remove_job(std::string_view job);

  // Removes entries written before `time`: their rounds were closed while this site was away, and nobody will say so.
  Status remove_older_than(std::filesystem::file_time_type time);

  struct Item {
    std::string job;
    std::int64_t round = 0;
    std::uint64_t bytes = 0;
  };
  std::vector<Item> list() const;  // ordered by job and round

 private:
  using Key = std::pair<std::string, std::int64_t>;
  Outbox(std::filesystem::path directory, std::uint64_t byte_limit)
      : directory_(std::move(directory)), byte_limit_(byte_limit) {}
  std::filesystem::path path_of(const Key& key) const;
  Status check_room_locked(std::uint64_t bytes) const;
  Status remove_locked(const Key& key);

  std::filesystem::path directory_;
  std::uint64_t byte_limit_;
  mutable std::mutex mutex_;
  std::map<Key, std::uint64_t> entries_;  // to the size of the file
};

// What is in the outbox in `directory`, without opening it: for reports beside a running client. A directory that does
// not exist holds nothing.
Result<std::vector<Outbox::Item>> list_outbox(const std::filesystem::path& directory);

}  // namespace trib::client
