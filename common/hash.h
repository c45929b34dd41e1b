// SHA-256 and the text forms of bytes.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace trib {

using Sha256 = std::array<std::uint8_t, 32>;

// Incremental SHA-256 (OpenSSL EVP).
class Sha256Hasher {
 public:
  Sha256Hasher();
  ~Sha256Hasher();
  Sha256Hasher(Sha256Hasher&&) noexcept;
  Sha256Hasher& operator=(Sha256Hasher&&) noexcept;
  Sha256Hasher& update(std::span<const std::byte> bytes);
  Sha256Hasher& update(std::string_view text);
  Sha256 finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

Sha256 sha256(std::span<const std::byte> bytes);
Sha256 sha256(std::string_view text);
Result<Sha256> sha256_file(const std::filesystem::path& path);
// HMAC-SHA-256 (RFC 2104) of a file: tells nothing about it to whoever lacks the key, at most 64 bytes.
Result<Sha256> hmac_sha256_file(std::span<const std::uint8_t> key, const std::filesystem::path& path);

std::string to_hex(std::span<const std::uint8_t> bytes);
Result<Sha256> sha256_from_hex(std::string_view hex);
std::string to_base64url(std::span<const std::uint8_t> bytes);  // without padding
Result<std::vector<std::uint8_t>> from_base64url(std::string_view text);

// Compares in time that does not depend on where the difference is.
bool equal_constant_time(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b);

}  // namespace trib
