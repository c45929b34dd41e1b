// Features kept on disk, by the SHA-256 of each record's content. Features tell a lot about a record: whoever decides
// where the file is keeps it with the site's own data. It holds no text and no picture, and its mode is 0600.
//
// File: a header of 96 bytes (magic, extractor's identity, width, SHA-256 of these), then records of one size: key (32
// bytes), `width` float32 (little-endian), and the first 16 bytes of a SHA-256 over both. Records are only appended.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>

#include "common/files.h"
#include "common/hash.h"
#include "common/result.h"
#include "tasks/features/extractor.h"

namespace trib::tasks::features {

class FeatureCache {
 public:
  // Opens or makes the extractor's file in `directory` (made if absent). Every record's checksum is verified: after a
  // crash in the middle of a write the incomplete end is cut off, and damaged records elsewhere are left out, with a
  // warning. Errc::corrupt if the file is another kind of file; unavailable if another process has it open; io_error,
  // no_space, permission_denied.
  static Result<std::unique_ptr<FeatureCache>> open(const std::filesystem::path& directory,
                                                    const FeatureExtractor& extractor);
  static std::filesystem::path file_of(const std::filesystem::path& directory, const FeatureExtractor& extractor);

  std::size_t size() const { return places_.size(); }  // records that are known
  bool contains(const Sha256& key) const { return places_.contains(key); }
  // Fills `features` (width). False if the key is not known. Errc::io_error, or corrupt where the disk no longer gives
  // what open() verified.
  Result<bool> find(const Sha256& key, std::span<float> features) const;
  // Appends records that are not known yet: `features` (keys, width). Durable once it returns ok. After an error the
  // file is as before.
  Status append(std::span<const Sha256> keys, std::span<const float> features);

 private:
  struct KeyHash {
    std::size_t operator()(const Sha256& key) const;
  };
  FeatureCache(std::filesystem::path path, FileLock lock, FileDescriptor file, std::int64_t width)
      : path_(std::move(path)), lock_(std::move(lock)), file_(std::move(file)), width_(width) {}
  std::size_t record_size() const;
  Status load();

  std::filesystem::path path_;
  FileLock lock_;
  FileDescriptor file_;
  std::int64_t width_;
  std::uint64_t end_ = 0;                                      // of the last record
  std::unordered_map<Sha256, std::uint64_t, KeyHash> places_;  // key → offset of its record
};

// The cache of an extractor in `directory`, opened once in a process.
Result<std::shared_ptr<FeatureCache>> shared_cache(const std::filesystem::path& directory,
                                                   const FeatureExtractor& extractor, SharedResources& shared);

}  // namespace trib::tasks::features
