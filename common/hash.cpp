#include "common/hash.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/files.h"

namespace trib {
namespace {

void require_openssl(bool succeeded, const char* function) {
  if (!succeeded) throw FatalError({Errc::internal, std::string("OpenSSL's ") + function + " failed"});
}

// -1 for a character that is no hexadecimal digit.
int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_base64url(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

Status add_file(Sha256Hasher& hasher, const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return error_from_errno(errno, "cannot open '" + path.string() + "'");
  std::vector<std::byte> buffer(1 << 20);
  while (true) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return error_from_errno(errno, "cannot read '" + path.string() + "'");
    if (count == 0) return {};
    hasher.update(std::span<const std::byte>(buffer).first(static_cast<std::size_t>(count)));
  }
}

}  // namespace

struct Sha256Hasher::Impl {
  Impl() : context(EVP_MD_CTX_new()) {
    require_openssl(context != nullptr, "EVP_MD_CTX_new");
    start();
  }
  ~Impl() { EVP_MD_CTX_free(context); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  void start() { require_openssl(EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1, "EVP_DigestInit_ex"); }

  EVP_MD_CTX* context;
};

Sha256Hasher::Sha256Hasher() : impl_(std::make_unique<Impl>()) {}
Sha256Hasher::~Sha256Hasher() = default;
Sha256Hasher::Sha256Hasher(Sha256Hasher&&) noexcept = default;
Sha256Hasher& Sha256Hasher::operator=(Sha256Hasher&&) noexcept = default;

Sha256Hasher& Sha256Hasher::update(std::span<const std::byte> bytes) {
  require_openssl(EVP_DigestUpdate(impl_->context, bytes.data(), bytes.size()) == 1, "EVP_DigestUpdate");
  return *this;
}

Sha256Hasher& Sha256Hasher::update(std::string_view text) {
  return update(std::as_bytes(std::span(text)));
}

Sha256 Sha256Hasher::finish() {
  Sha256 digest;
  require_openssl(EVP_DigestFinal_ex(impl_->context, digest.data(), nullptr) == 1, "EVP_DigestFinal_ex");
  impl_->start();
  return digest;
}

Sha256 sha256(std::span<const std::byte> bytes) {
  return Sha256Hasher().update(bytes).finish();
}

Sha256 sha256(std::string_view text) {
  return Sha256Hasher().update(text).finish();
}

Result<Sha256> sha256_file(const std::filesystem::path& path) {
  Sha256Hasher hasher;
  TRIB_TRY(add_file(hasher, path));
  return hasher.finish();
}

Result<Sha256> hmac_sha256_file(std::span<const std::uint8_t> key, const std::filesystem::path& path) {
  constexpr std::size_t block = 64;
  if (key.size() > block) throw std::invalid_argument("an HMAC key of more than 64 bytes");
  std::array<std::uint8_t, block> inner{}, outer{};
  std::copy(key.begin(), key.end(), inner.begin());
  outer = inner;
  for (std::uint8_t& byte : inner) byte ^= 0x36;
  for (std::uint8_t& byte : outer) byte ^= 0x5c;
  Sha256Hasher hasher;
  hasher.update(std::as_bytes(std::span(inner)));
  TRIB_TRY(add_file(hasher, path));
  const Sha256 digest = hasher.finish();
  hasher.update(std::as_bytes(std::span(outer))).update(std::as_bytes(std::span(digest)));
  return hasher.finish();
}

std::string to_hex(std::span<const std::uint8_t> bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * bytes.size());
  for (const std::uint8_t byte : bytes) {
    hex += digits[byte >> 4];
    hex += digits[byte & 15];
  }
  return hex;
}

Result<Sha256> sha256_from_hex(std::string_view hex) {
  Sha256 digest;
  if (hex.size() != 2 * digest.size()) {
    return Error{Errc::invalid_argument,
                 "a SHA-256 digest has 64 hexadecimal digits, this one " + std::to_string(hex.size())};
  }
  for (std::size_t i = 0; i < digest.size(); ++i) {
    const int high = hex_digit(hex[2 * i]);
    const int low = hex_digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) {
      return Error{Errc::invalid_argument, "'" + std::string(hex) + "' is not a SHA-256 digest: '" +
                                               std::string(hex.substr(2 * i, 2)) + "' is not hexadecimal"};
    }
    digest[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return digest;
}

std::string to_base64url(std::span<const std::uint8_t> bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // EVP_EncodeBlock ends with a zero byte
  const int length =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), bytes.data(), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  while (text.ends_with('=')) text.pop_back();
  std::ranges::replace(text, '+', '-');
  std::ranges::replace(text, '/', '_');
  return text;
}

Result<std::vector<std::uint8_t>> from_base64url(std::string_view text) {
  // The value may be a secret (a token), so messages tell where, never what.
  const auto bad = std::ranges::find_if_not(text, is_base64url);
  if (bad != text.end()) {
    return Error{Errc::invalid_argument,
                 "not base64url: character " + std::to_string(bad - text.begin() + 1) + " is outside A-Z a-z 0-9 - _"};
  }
  std::string padded(text);
  std::ranges::replace(padded, '-', '+');
  std::ranges::replace(padded, '_', '/');
  padded.append((4 - padded.size() % 4) % 4, '=');
  std::vector<std::uint8_t> bytes(padded.size() / 4 * 3);
  const int length = EVP_DecodeBlock(bytes.data(), reinterpret_cast<const unsigned char*>(padded.data()),
                                     static_cast<int>(padded.size()));
  if (length >= 0) bytes.resize(text.size() * 3 / 4);
  // Encoding again catches a length that no encoder produces and stray bits at the end: one text for each value.
  if (length < 0 || to_base64url(bytes) != text) {
    return Error{Errc::invalid_argument, "not base64url: the text of " + std::to_string(text.size()) +
                                             " characters is cut off or has stray bits at its end"};
  }
  return bytes;
}

bool equal_constant_time(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace trib
