#include "client/data_versions.h"

#include <spdlog/fmt/fmt.h>
#include <sys/stat.h>

#include <cerrno>

#include "client/job_runner.h"
#include "common/files.h"
#include "common/random.h"

namespace trib::client {

Result<FileStamp> stamp_of(const std::filesystem::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) return error_from_errno(errno, "cannot read '" + file.native() + "'");
  const auto nanoseconds = [](const timespec& time) {
    return time.tv_sec * std::int64_t{1'000'000'000} + time.tv_nsec;
  };
  return FileStamp{status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size),
                   nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

Result<std::unique_ptr<DataVersions>> DataVersions::open(const std::filesystem::path& secret_file) {
  auto text = read_file(secret_file);
  if (!text && text.error().code == Errc::not_found) {
    text = to_hex(RandomKey::from_system().bytes()) + "\n";
    TRIB_TRY(write_file_durably(secret_file, *text, 0600));
  }
  if (!text) return text.error();
  const auto secret = sha256_from_hex(std::string_view(*text).substr(0, text->find('\n')));
  if (!secret) {
    return Error{Errc::corrupt,
                 fmt::format("'{}' is not the secret of this site's data sets: restore it from a backup; without it no "
                             "data set is known to be the one that it was, and each has to be declared anew with "
                             "`trib-client data update`",
                             secret_file.native())};
  }
  return std::unique_ptr<DataVersions>(new DataVersions(*secret));
}

Result<Sha256> DataVersions::digest(const std::filesystem::path& file, const FileStamp& stamp) const {
  const std::lock_guard guard(mutex_);
  const auto known = digests_.find(file);
  if (known != digests_.end() && known->second.first == stamp) return known->second.second;
  TRIB_ASSIGN(const Sha256 digest, hmac_sha256_file(secret_, file));
  digests_[file] = {stamp, digest};
  return digest;
}

Result<FileStamp> DataVersions::check(privacy::Ledger& ledger, const std::string& data_set,
                                      const DataSetPolicy& policy) const {
  TRIB_ASSIGN(const FileStamp stamp, stamp_of(policy.file));
  TRIB_ASSIGN(const Sha256 value, digest(policy.file, stamp));
  TRIB_TRY(ledger.declare_data(data_set, policy.declared_records, value));
  return stamp;
}

Result<Sha256> DataVersions::digest_of(const std::filesystem::path& file) const {
  TRIB_ASSIGN(const FileStamp stamp, stamp_of(file));
  return digest(file, stamp);
}

Status DataVersions::update(privacy::Ledger& ledger, const std::string& data_set, const DataSetPolicy& policy) const {
  TRIB_ASSIGN(const FileStamp stamp, stamp_of(policy.file));
  TRIB_ASSIGN(const Sha256 value, digest(policy.file, stamp));
  return ledger.update_data(data_set, policy.declared_records, value);
}

}  // namespace trib::client
