// Which version of a data set a site holds. Budgets belong to data sets by name, so a file that is swapped under a
// name, or offered under two, would get a budget that its records have no right to. The ledger remembers each file by a
// keyed digest: the key stays at the site, so whoever reads the ledger learns nothing about the records, not even by
// guessing.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "common/hash.h"
#include "common/result.h"
#include "privacy/ledger.h"

namespace trib::client {

struct DataSetPolicy;

// What tells, without reading it, that a file is still the same.
struct FileStamp {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t modified_ns = 0, changed_ns = 0;
  bool operator==(const FileStamp&) const = default;
};
Result<FileStamp> stamp_of(const std::filesystem::path& file);

// Thread-safe.
class DataVersions {
 public:
  // Reads the site's secret, or makes it (mode 0600) where there is none yet.
  static Result<std::unique_ptr<DataVersions>> open(const std::filesystem::path& secret_file);

  // Before a job reads the file: it is the newest version that the ledger knows (the first is recorded here), and no
  // other data set's. Returns its stamp, for a look back after the file was read. Errors as Ledger::declare_data.
  Result<FileStamp> check(privacy::Ledger& ledger, const std::string& data_set, const DataSetPolicy& policy) const;

  // The digest that a ledger's entry would have of the file, for who only compares.
  Result<Sha256> digest_of(const std::filesystem::path& file) const;

  // Declares the file as the data set's next version. Errors as Ledger::update_data.
  Status update(privacy::Ledger& ledger, const std::string& data_set, const DataSetPolicy& policy) const;

 private:
  using Secret = std::array<std::uint8_t, 32>;
  explicit DataVersions(const Secret& secret) : secret_(secret) {}
  // HMAC-SHA-256 of the file, which is read only if its stamp is a new one.
  Result<Sha256> digest(const std::filesystem::path& file, const FileStamp& stamp) const;

  Secret secret_;
  mutable std::mutex mutex_;
  mutable std::map<std::filesystem::path, std::pair<FileStamp, Sha256>> digests_;
};

}  // namespace trib::client
