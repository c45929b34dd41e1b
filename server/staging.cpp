#include "server/staging.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "common/files.h"

namespace trib::server {

Staging::Units Staging::Units::take(std::shared_ptr<Quota> quota, std::uint64_t bytes) {
  Units units;
  if (bytes > quota->limit - quota->used) return units;
  quota->used += bytes;
  units.quota_ = std::move(quota);
  units.bytes_ = bytes;
  return units;
}

Staging::Units::~Units() {
  if (quota_) quota_->used -= bytes_;
}

class Staging::InMemory final : public StagedContribution {
 public:
  InMemory(net::TensorReceiver receiver, Units units) : units_(std::move(units)), receiver_(std::move(receiver)) {}
  Result<bool> add(const net::Chunk& chunk) override { return receiver_.add(chunk); }
  Result<TensorMap> finish() override { return receiver_.finish(); }
  bool is_on_disk() const override { return false; }

 private:
  Units units_;
  net::TensorReceiver receiver_;
};

class Staging::OnDisk final : public StagedContribution {
 public:
  OnDisk(tributary::proto::Transfer transfer, TensorSchema schema, std::filesystem::path path, FileDescriptor file,
         Units units)
      : transfer_(std::move(transfer)),
        schema_(std::move(schema)),
        path_(std::move(path)),
        file_(std::move(file)),
        units_(std::move(units)) {}
  ~OnDisk() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  OnDisk(const OnDisk&) = delete;
  OnDisk& operator=(const OnDisk&) = delete;

  Result<bool> add(const net::Chunk& chunk) override {
    TRIB_TRY(net::check_chunk(chunk, transfer_.id(), received_, transfer_.byte_count()));
    TRIB_TRY(write_all(file_.get(), chunk.bytes, "staging a contribution in " + path_.string()));
    received_ += chunk.bytes.size();
    return received_ == transfer_.byte_count();
  }

  Result<TensorMap> finish() override {
    TRIB_ASSIGN(net::TensorReceiver receiver,
                net::TensorReceiver::begin(transfer_, schema_, static_cast<std::size_t>(transfer_.byte_count())));
    std::vector<std::byte> buffer(1u << 20);
    for (std::uint64_t at = 0; at < received_;) {
      const ssize_t count = ::pread(file_.get(), buffer.data(), buffer.size(), static_cast<off_t>(at));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return error_from_errno(count < 0 ? errno : EIO, "reading back " + path_.string());
      const auto bytes = std::span<const std::byte>(buffer).first(static_cast<std::size_t>(count));
      TRIB_TRY(receiver.add({transfer_.id(), at, bytes}));
      at += bytes.size();
    }
    return receiver.finish();
  }

  bool is_on_disk() const override { return true; }

 private:
  tributary::proto::Transfer transfer_;
  TensorSchema schema_;
  std::filesystem::path path_;
  FileDescriptor file_;
  Units units_;
  std::uint64_t received_ = 0;
};

Result<std::unique_ptr<Staging>> Staging::open(std::filesystem::path directory, std::uint64_t memory_bytes,
                                               std::uint64_t disk_bytes) {
  TRIB_TRY(make_directories(directory, 0700));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error))
    std::filesystem::remove_all(entry.path(), error);
  if (error) return Error{Errc::io_error, "emptying " + directory.string() + ": " + error.message()};
  std::unique_ptr<Staging> staging(new Staging());
  staging->directory_ = std::move(directory);
  staging->memory_->limit = memory_bytes;
  staging->disk_->limit = disk_bytes;
  return staging;
}

Result<std::unique_ptr<StagedContribution>> Staging::begin(const tributary::proto::Transfer& transfer,
                                                           const TensorSchema& schema, std::size_t byte_limit) {
  TRIB_TRY(net::check_announcement(transfer, schema, byte_limit));
  if (Units units = Units::take(memory_, transfer.byte_count())) {
    TRIB_ASSIGN(net::TensorReceiver receiver, net::TensorReceiver::begin(transfer, schema, byte_limit));
    return std::unique_ptr<StagedContribution>(new InMemory(std::move(receiver), std::move(units)));
  }
  Units units = Units::take(disk_, transfer.byte_count());
  if (!units)
    return Error{Errc::unavailable, "the aggregator has no room for " + std::to_string(transfer.byte_count()) +
                                        " more bytes of contributions (limits.staging_memory_bytes and "
                                        "limits.staging_disk_bytes): come back later"};
  const std::filesystem::path path = directory_ / (std::to_string(files_made_++) + ".part");
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return error_from_errno(errno, "creating " + path.string());
  tributary::proto::Transfer announced = transfer;
  announced.clear_schema();
  return std::unique_ptr<StagedContribution>(
      new OnDisk(std::move(announced), schema, path, std::move(file), std::move(units)));
}

}  // namespace trib::server
