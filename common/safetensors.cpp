#include "common/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <tuple>

#include "common/files.h"

namespace trib {
namespace {

namespace json = boost::json;

constexpr std::size_t length_bytes = 8;
constexpr std::uint64_t largest_header = 100'000'000;  // the reference implementation's limit
constexpr std::size_t header_alignment = 8;
constexpr std::string_view metadata_key = "__metadata__";

// A tensor and where it lies, in bytes from the end of the header.
struct Entry {
  TensorSpec spec;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct Header {
  std::vector<Entry> entries;  // in the order of the data
  SafetensorsMetadata metadata;
};

Error corrupt(std::string_view file, std::string_view problem) {
  return {Errc::corrupt, std::string(file) + ": not a valid safetensors file: " + std::string(problem)};
}

// The length of the JSON header, given the file's first eight bytes and its size.
Result<std::uint64_t> parse_header_length(std::span<const std::byte> prefix, std::uint64_t file_size,
                                          std::string_view file) {
  if (prefix.size() < length_bytes) {
    return corrupt(file, "it has " + std::to_string(prefix.size()) + " bytes, fewer than the 8 of a header length");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, prefix.data(), length_bytes);
  if (length > largest_header) {
    return corrupt(file, "its header claims " + std::to_string(length) + " bytes, more than the limit of " +
                             std::to_string(largest_header));
  }
  if (length > file_size - length_bytes) {
    return corrupt(file, "its header claims " + std::to_string(length) + " bytes, but only " +
                             std::to_string(file_size - length_bytes) + " follow: the file is cut off");
  }
  return length;
}

Result<std::uint64_t> parse_offset(const json::value& value, std::string_view what, std::string_view file) {
  const auto* number = value.if_int64();
  if (number == nullptr || *number < 0) {
    return corrupt(file, std::string(what) + " holds " + json::serialize(value) + ", not a non-negative integer");
  }
  return static_cast<std::uint64_t>(*number);
}

Result<Entry> parse_entry(const std::string& name, const json::value& value, std::string_view file) {
  const std::string what = "tensor '" + name + "'";
  const auto* object = value.if_object();
  const auto* dtype = object != nullptr ? object->if_contains("dtype") : nullptr;
  const auto* shape = object != nullptr ? object->if_contains("shape") : nullptr;
  const auto* offsets = object != nullptr ? object->if_contains("data_offsets") : nullptr;
  if (dtype == nullptr || !dtype->is_string() || shape == nullptr || !shape->is_array() || offsets == nullptr ||
      !offsets->is_array() || offsets->get_array().size() != 2 || object->size() != 3) {
    return corrupt(file, what + " must have exactly a dtype, a shape and two data_offsets");
  }

  Entry entry;
  entry.spec.name = name;
  const auto parsed_dtype = dtype_from_string(std::string_view(dtype->get_string()));
  if (!parsed_dtype) return parsed_dtype.error().with_context(what).with_context(file);
  entry.spec.dtype = *parsed_dtype;
  for (const json::value& dimension : shape->get_array()) {
    TRIB_ASSIGN(const std::uint64_t size, parse_offset(dimension, "the shape of " + what, file));
    entry.spec.shape.push_back(static_cast<std::int64_t>(size));
  }
  TRIB_ASSIGN(entry.begin, parse_offset(offsets->get_array()[0], "data_offsets of " + what, file));
  TRIB_ASSIGN(entry.end, parse_offset(offsets->get_array()[1], "data_offsets of " + what, file));

  const auto bytes = checked_byte_count(entry.spec.dtype, entry.spec.shape);
  if (!bytes) return corrupt(file, what + ": " + bytes.error().message);
  if (entry.end < entry.begin || entry.end - entry.begin != *bytes) {
    return corrupt(file, what + " of shape " + to_string(entry.spec.shape) + " and type " +
                             std::string(to_string(entry.spec.dtype)) + " has " + std::to_string(*bytes) +
                             " bytes, but its data_offsets are [" + std::to_string(entry.begin) + ", " +
                             std::to_string(entry.end) + "]");
  }
  return entry;
}

Result<SafetensorsMetadata> parse_metadata(const json::value& value, std::string_view file) {
  SafetensorsMetadata metadata;
  const auto* object = value.if_object();
  if (object == nullptr) return corrupt(file, "__metadata__ is not an object");
  for (const auto& [key, text] : *object) {
    if (!text.is_string()) return corrupt(file, "__metadata__ '" + std::string(key) + "' is not a string");
    metadata.emplace(key, std::string_view(text.get_string()));
  }
  return metadata;
}

// As the reference implementation demands, the tensors cover the data in order, without gap or overlap.
Status check_coverage(const std::vector<Entry>& entries, std::uint64_t data_size, std::string_view file) {
  std::uint64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered) {
      return corrupt(file, "tensor '" + entry.spec.name + "' begins at byte " + std::to_string(entry.begin) +
                               " of the data, but the tensors before it end at " + std::to_string(covered) +
                               (entry.begin < covered ? ": they overlap" : ": there is a gap"));
    }
    covered = entry.end;
  }
  if (covered > data_size) {
    return corrupt(file, "its tensors take " + std::to_string(covered) + " bytes, but only " +
                             std::to_string(data_size) + " follow the header: the file is cut off");
  }
  if (covered < data_size) {
    return corrupt(file, "its tensors take " + std::to_string(covered) + " bytes, but " + std::to_string(data_size) +
                             " follow the header");
  }
  return {};
}

Result<Header> parse_header(std::string_view text, std::uint64_t data_size, std::string_view file) {
  boost::system::error_code error;
  const json::value document = json::parse(text, error);
  if (error) return corrupt(file, "its header is not JSON: " + error.message());
  const auto* object = document.if_object();
  if (object == nullptr) return corrupt(file, "its header is not a JSON object");

  Header header;
  for (const auto& member : *object) {
    const std::string name(member.key());
    if (name == metadata_key) {
      TRIB_ASSIGN(header.metadata, parse_metadata(member.value(), file));
      continue;
    }
    TRIB_ASSIGN(Entry entry, parse_entry(name, member.value(), file));
    header.entries.push_back(std::move(entry));
  }
  std::ranges::sort(header.entries, {}, [](const Entry& entry) { return std::tie(entry.begin, entry.end); });
  TRIB_TRY(check_coverage(header.entries, data_size, file));
  return header;
}

Status read_at(int fd, std::span<std::byte> bytes, std::uint64_t offset, std::string_view file) {
  while (!bytes.empty()) {
    const ssize_t count = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return error_from_errno(errno, "cannot read " + std::string(file));
    if (count == 0) return corrupt(file, "it ended at byte " + std::to_string(offset) + ": it shrank while being read");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

// The reference implementation's order of types in a file: wider ones first, so that each tensor is aligned.
constexpr std::array file_order_of_dtypes = {DType::i64,  DType::f64, DType::f32, DType::i32,
                                             DType::bf16, DType::f16, DType::u8};

// The order of the data: by type, then by name.
std::vector<TensorMap::Storage::const_pointer> in_file_order(const TensorMap& tensors) {
  std::vector<TensorMap::Storage::const_pointer> order;
  for (const auto& named : tensors) order.push_back(&named);
  std::ranges::stable_sort(
      order, {}, [](const auto* named) { return std::ranges::find(file_order_of_dtypes, named->second.dtype()); });
  return order;
}

// The file's length prefix and header; the tensors' bytes follow in the order of `order`.
std::string header_bytes(const std::vector<TensorMap::Storage::const_pointer>& order,
                         const SafetensorsMetadata& metadata) {
  json::object header;
  if (!metadata.empty()) {
    json::object entries;
    for (const auto& [key, text] : metadata) entries.emplace(key, text);
    header.emplace(metadata_key, std::move(entries));
  }
  std::uint64_t offset = 0;
  for (const auto* named : order) {
    const HostTensor& tensor = named->second;
    json::object entry;
    entry.emplace("dtype", to_string(tensor.dtype()));
    entry.emplace("shape", json::array(tensor.shape().begin(), tensor.shape().end()));
    entry.emplace("data_offsets", json::array{offset, offset + tensor.bytes().size()});
    header.emplace(named->first, std::move(entry));
    offset += tensor.bytes().size();
  }
  std::string text = json::serialize(header);
  text.append((header_alignment - text.size() % header_alignment) % header_alignment, ' ');
  const std::uint64_t length = text.size();
  std::string bytes(length_bytes, '\0');
  std::memcpy(bytes.data(), &length, length_bytes);
  return bytes + text;
}

std::vector<std::span<const std::byte>> file_pieces(std::string_view header,
                                                    const std::vector<TensorMap::Storage::const_pointer>& order) {
  std::vector<std::span<const std::byte>> pieces{std::as_bytes(std::span(header))};
  for (const auto* named : order) pieces.push_back(named->second.bytes());
  return pieces;
}

}  // namespace

Result<SafetensorsFile> read_safetensors(const std::filesystem::path& path) {
  const std::string file = path.string();
  const FileDescriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!descriptor.valid()) return error_from_errno(errno, "cannot open " + file);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) return error_from_errno(errno, "cannot read " + file);
  if (!S_ISREG(status.st_mode)) return Error{Errc::io_error, "cannot read " + file + ": it is not a regular file"};
  const auto file_size = static_cast<std::uint64_t>(status.st_size);

  std::vector<std::byte> prefix(std::min<std::uint64_t>(length_bytes, file_size));
  TRIB_TRY(read_at(descriptor.get(), prefix, 0, file));
  TRIB_ASSIGN(const std::uint64_t header_length, parse_header_length(prefix, file_size, file));
  std::string text(header_length, '\0');
  TRIB_TRY(read_at(descriptor.get(), std::as_writable_bytes(std::span(text)), length_bytes, file));
  const std::uint64_t data_begin = length_bytes + header_length;
  TRIB_ASSIGN(Header header, parse_header(text, file_size - data_begin, file));

  SafetensorsFile result;
  result.metadata = std::move(header.metadata);
  for (Entry& entry : header.entries) {
    HostTensor tensor(entry.spec.dtype, std::move(entry.spec.shape));
    TRIB_TRY(read_at(descriptor.get(), tensor.bytes(), data_begin + entry.begin, file));
    result.tensors[entry.spec.name] = std::move(tensor);
  }
  return result;
}

Result<SafetensorsFile> parse_safetensors(std::span<const std::byte> bytes, std::string_view name_for_errors) {
  const auto prefix = bytes.first(std::min(length_bytes, bytes.size()));
  TRIB_ASSIGN(const std::uint64_t header_length, parse_header_length(prefix, bytes.size(), name_for_errors));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + length_bytes, header_length);
  const auto data = bytes.subspan(length_bytes + header_length);
  TRIB_ASSIGN(Header header, parse_header(text, data.size(), name_for_errors));

  SafetensorsFile result;
  result.metadata = std::move(header.metadata);
  for (Entry& entry : header.entries) {
    HostTensor tensor(entry.spec.dtype, std::move(entry.spec.shape));
    std::ranges::copy(data.subspan(entry.begin, entry.end - entry.begin), tensor.bytes().begin());
    result.tensors[entry.spec.name] = std::move(tensor);
  }
  return result;
}

std::vector<std::byte> serialize_safetensors(const TensorMap& tensors, const SafetensorsMetadata& metadata) {
  const auto order = in_file_order(tensors);
  const std::string header = header_bytes(order, metadata);
  std::vector<std::byte> bytes;
  bytes.reserve(header.size() + tensors.byte_count());
  for (const auto piece : file_pieces(header, order)) bytes.insert(bytes.end(), piece.begin(), piece.end());
  return bytes;
}

Status write_safetensors(const std::filesystem::path& path, const TensorMap& tensors,
                         const SafetensorsMetadata& metadata) {
  const auto order = in_file_order(tensors);
  const std::string header = header_bytes(order, metadata);
  return write_file_durably(path, file_pieces(header, order));
}

}  // namespace trib
