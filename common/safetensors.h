// The safetensors file format (https://github.com/huggingface/safetensors): an 8-byte little-endian header length, a
// JSON header, raw little-endian tensors. State at rest, contributions in the outbox, models and adapters all use it.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "common/tensor_map.h"

namespace trib {

using SafetensorsMetadata = std::map<std::string, std::string>;

struct SafetensorsFile {
  TensorMap tensors;
  SafetensorsMetadata metadata;
};

// Reads a whole file. Errc::not_found, io_error, unsupported (an element type that DType lacks), or corrupt (bad
// header, overlapping or out-of-range offsets, a size
// that contradicts the shape), always with the path.
Result<SafetensorsFile> read_safetensors(const std::filesystem::path& path);
Result<SafetensorsFile> parse_safetensors(std::span<const std::byte> bytes, std::string_view name_for_errors);

// The bytes of a file; the same map gives the same bytes.
std::vector<std::byte> serialize_safetensors(const TensorMap& tensors, const SafetensorsMetadata& metadata = {});

// Writes durably: temporary file, fsync, rename, fsync of the directory (common/files.h). Errc::no_space or io_error.
Status write_safetensors(const std::filesystem::path& path, const TensorMap& tensors,
                         const SafetensorsMetadata& metadata = {});

}  // namespace trib
