// Contributions under way: received piece by piece, whole before anything is believed, bounded over all sessions.
//
// As many as fit into the memory quota are received straight into their tensors. The others go to files, and come back
// into memory one at a time when they are whole: so memory is bounded by the quota and one contribution, however many
// sites send at once. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "common/net/transfer.h"
#include "common/result.h"
#include "common/tensor_map.h"

namespace trib::server {

// One contribution. What it holds of the quotas goes back when it is destroyed.
class StagedContribution {
 public:
  virtual ~StagedContribution() = default;
  // As TensorReceiver's: in order and without gaps (Errc::protocol_error); true when the last byte is in.
  // Errc::no_space or io_error if it goes to a file.
  virtual Result<bool> add(const net::Chunk& chunk) = 0;
  // After the last chunk: checks checksum and finiteness (Errc::protocol_error).
  virtual Result<TensorMap> finish() = 0;
  virtual bool is_on_disk() const = 0;
};

class Staging {
 public:
  // Creates the directory, and empties it: contributions that a crash cut off are sent again.
  static Result<std::unique_ptr<Staging>> open(std::filesystem::path directory, std::uint64_t memory_bytes,
                                               std::uint64_t disk_bytes);
  // Errc::protocol_error or limit_exceeded as TensorReceiver::begin; unavailable if both quotas are used up: the site
  // should come back later; no_space or io_error.
  Result<std::unique_ptr<StagedContribution>> begin(const tributary::proto::Transfer& transfer,
                                                    const TensorSchema& schema, std::size_t byte_limit);
  std::uint64_t memory_in_use() const { return memory_->used; }
  std::uint64_t disk_in_use() const { return disk_->used; }
  const std::filesystem::path& directory() const { return directory_; }

 private:
  // Shared with the contributions, which may outlive this object.
  struct Quota {
    std::uint64_t limit = 0;
    std::uint64_t used = 0;
  };
  class [[nodiscard]] Units {
   public:
    Units() = default;
    static Units take(std::shared_ptr<Quota> quota, std::uint64_t bytes);  // empty if they are not there
    Units(Units&& other) noexcept : quota_(std::move(other.quota_)), bytes_(std::exchange(other.bytes_, 0)) {}
    Units& operator=(Units&&) = delete;
    ~Units();
    explicit operator bool() const { return quota_ != nullptr; }

   private:
    std::shared_ptr<Quota> quota_;
    std::uint64_t bytes_ = 0;
  };
  class InMemory;
  class OnDisk;
  Staging() = default;

  std::filesystem::path directory_;
  std::shared_ptr<Quota> memory_ = std::make_shared<Quota>();
  std::shared_ptr<Quota> disk_ = std::make_shared<Quota>();
  std::uint64_t files_made_ = 0;
};

}  // namespace trib::server
