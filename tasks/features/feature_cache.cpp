#include "tasks/features/feature_cache.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "common/failpoint.h"

namespace trib::tasks::features {
namespace {

static_assert(std::endian::native == std::endian::little, "the file's numbers are little-endian");

constexpr std::string_view magic = "tributary features 1\n\0\0\0";  // 24 characters with the zeros
constexpr std::size_t header_size = 96, checksum_size = 16;
constexpr unsigned file_mode = 0600;

using Header = std::array<std::byte, header_size>;

std::span<const std::byte> bytes_of(const Sha256& hash) {
  return std::as_bytes(std::span(hash));
}

// Magic (24), identity (32), width (8), SHA-256 of these (32).
Result<Header> make_header(const FeatureExtractor& extractor) {
  TRIB_ASSIGN(const Sha256 identity, sha256_from_hex(extractor.identity()));
  Header header{};
  std::memcpy(header.data(), magic.data(), std::min<std::size_t>(magic.size(), 24));
  std::memcpy(header.data() + 24, identity.data(), identity.size());
  const std::int64_t width = extractor.width();
  std::memcpy(header.data() + 56, &width, sizeof width);
  const Sha256 checksum = sha256(std::span<const std::byte>(header).first(64));
  std::memcpy(header.data() + 64, checksum.data(), checksum.size());
  return header;
}

// Reads up to `bytes`, fewer at the end of the file.
Result<std::size_t> read_at(int fd, std::span<std::byte> bytes, std::uint64_t offset,
                            const std::filesystem::path& path) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return error_from_errno(errno, fmt::format("cannot read {}", path.native()));
    done += static_cast<std::size_t>(got);
  }
  return done;
}

// Whether a record's checksum is that of its key and values.
bool is_whole(std::span<const std::byte> record) {
  const Sha256 expected = sha256(record.first(record.size() - checksum_size));
  return std::memcmp(record.data() + record.size() - checksum_size, expected.data(), checksum_size) == 0;
}

Sha256 key_of(std::span<const std::byte> record) {
  Sha256 key;
  std::memcpy(key.data(), record.data(), key.size());
  return key;
}

}  // namespace

std::size_t FeatureCache::KeyHash::operator()(const Sha256& key) const {
  std::size_t hash;  // the key is as good as random
  std::memcpy(&hash, key.data(), sizeof hash);
  return hash;
}

std::size_t FeatureCache::record_size() const {
  return sizeof(Sha256) + static_cast<std::size_t>(width_) * sizeof(float) + checksum_size;
}

std::filesystem::path FeatureCache::file_of(const std::filesystem::path& directory, const FeatureExtractor& extractor) {
  return directory / fmt::format("features-{}.cache", extractor.identity());
}

Result<std::unique_ptr<FeatureCache>> FeatureCache::open(const std::filesystem::path& directory,
                                                         const FeatureExtractor& extractor) {
  TRIB_TRY(make_directories(directory, 0700));
  const std::filesystem::path path = file_of(directory, extractor);
  TRIB_ASSIGN(FileLock lock, FileLock::acquire(path.native() + ".lock"));
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, file_mode));
  if (!file.valid()) return error_from_errno(errno, fmt::format("cannot open the feature cache {}", path.native()));
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  if (size < 0) return error_from_errno(errno, fmt::format("cannot read {}", path.native()));

  TRIB_ASSIGN(const Header expected, make_header(extractor));
  Header found{};
  TRIB_ASSIGN(const std::size_t got, read_at(file.get(), found, 0, path));
  // A file whose making was interrupted has the beginning of a header and nothing behind it.
  const bool is_new = got < header_size && std::memcmp(found.data(), expected.data(), got) == 0;
  if (!is_new && found != expected) {
    return Error{
        Errc::corrupt,
        fmt::format("{} is not a feature cache of this backbone: its header differs. Remove the file; features "
                    "are then made again",
                    path.native())};
  }
  std::unique_ptr<FeatureCache> cache(new FeatureCache(path, std::move(lock), std::move(file), extractor.width()));
  if (is_new) {
    if (::lseek(cache->file_.get(), 0, SEEK_SET) < 0)
      return error_from_errno(errno, fmt::format("cannot write {}", path.native()));
    TRIB_TRY(write_all(cache->file_.get(), expected, fmt::format("cannot write {}", path.native())));
    TRIB_TRY(fsync_file(cache->file_.get(), fmt::format("cannot write {}", path.native())));
    TRIB_TRY(fsync_directory(directory));
  }
  TRIB_TRY(cache->load());
  return cache;
}

Status FeatureCache::load() {
  const std::size_t size = record_size(), at_once = std::max<std::size_t>(1, (std::size_t{1} << 22) / size);
  std::vector<std::byte> buffer(at_once * size);
  std::uint64_t offset = header_size;
  std::size_t damaged = 0;
  end_ = header_size;
  for (;;) {
    TRIB_ASSIGN(const std::size_t got, read_at(file_.get(), buffer, offset, path_));
    for (std::size_t first = 0; first + size <= got; first += size) {
      const auto record = std::span<const std::byte>(buffer).subspan(first, size);
      if (is_whole(record)) {
        places_.emplace(key_of(record), offset + first);
        end_ = offset + first + size;
      } else {
        ++damaged;
      }
    }
    offset += got;
    if (got < buffer.size()) break;
  }
  if (offset > end_) {
    if (::ftruncate(file_.get(), static_cast<off_t>(end_)) != 0)
      return error_from_errno(errno, fmt::format("cannot cut off the incomplete end of {}", path_.native()));
    spdlog::info("{} ended in an incomplete record, which was cut off", path_.native());
  }
  if (damaged > 0) spdlog::warn("{} has {} damaged records: their features are made again", path_.native(), damaged);
  return {};
}

Result<bool> FeatureCache::find(const Sha256& key, std::span<float> features) const {
  const auto place = places_.find(key);
  if (place == places_.end()) return false;
  std::vector<std::byte> record(record_size());
  TRIB_ASSIGN(const std::size_t got, read_at(file_.get(), record, place->second, path_));
  if (got < record.size() || !is_whole(record) || key_of(record) != key) {
    return Error{
        Errc::corrupt,
        fmt::format("{} changed while it was open: no other program may write to it; start again", path_.native())};
  }
  if (features.size() != static_cast<std::size_t>(width_))
    throw std::invalid_argument("find: features of another width");
  std::memcpy(features.data(), record.data() + sizeof(Sha256), features.size_bytes());
  return true;
}

Status FeatureCache::append(std::span<const Sha256> keys, std::span<const float> features) {
  const auto width = static_cast<std::size_t>(width_);
  if (features.size() != keys.size() * width) throw std::invalid_argument("append: a row of features a key is needed");
  std::vector<std::byte> bytes;
  std::vector<std::pair<Sha256, std::uint64_t>> added;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (contains(keys[i])) continue;
    const std::size_t first = bytes.size();
    const auto key = bytes_of(keys[i]), values = std::as_bytes(features.subspan(i * width, width));
    bytes.insert(bytes.end(), key.begin(), key.end());
    bytes.insert(bytes.end(), values.begin(), values.end());
    const Sha256 checksum = sha256(std::span<const std::byte>(bytes).subspan(first));
    bytes.insert(bytes.end(), bytes_of(checksum).begin(), bytes_of(checksum).begin() + checksum_size);
    added.emplace_back(keys[i], end_ + first);
  }
  const std::string what = fmt::format("cannot write {}", path_.native());
  const auto write = [&]() -> Status {
    if (::lseek(file_.get(), static_cast<off_t>(end_), SEEK_SET) < 0) return error_from_errno(errno, what);
    const auto half = bytes.size() / 2;  // so that a test can die between two halves
    TRIB_TRY(write_all(file_.get(), std::span<const std::byte>(bytes).first(half), what));
    TRIB_FAILPOINT("features.half_appended");
    TRIB_TRY(write_all(file_.get(), std::span<const std::byte>(bytes).subspan(half), what));
    return fsync_file(file_.get(), what);
  };
  if (const Status written = write(); !written) {
    // What was written of it is no record; if this fails too, the next open() cuts it off.
    if (::ftruncate(file_.get(), static_cast<off_t>(end_)) != 0) return written;
    return written;
  }
  end_ += bytes.size();
  for (const auto& [key, place] : added) places_.emplace(key, place);
  return {};
}

Result<std::shared_ptr<FeatureCache>> shared_cache(const std::filesystem::path& directory,
                                                   const FeatureExtractor& extractor, SharedResources& shared) {
  using Made = Result<std::shared_ptr<FeatureCache>>;
  return shared.get<FeatureCache>(
      "features/cache/" + FeatureCache::file_of(directory, extractor).native(), [&]() -> Made {
        TRIB_ASSIGN(std::unique_ptr<FeatureCache> cache, FeatureCache::open(directory, extractor));
        return std::shared_ptr<FeatureCache>(std::move(cache));
      });
}

}  // namespace trib::tasks::features
